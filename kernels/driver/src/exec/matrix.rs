//! `ldmatrix` and `stmatrix`: 8x8 matrices of 16-bit elements between shared memory and registers.
//!
//! Lane 8i + j gives the address of row j of matrix i. A register's lane holds elements 2t and 2t + 1 of row g
//! (g = lane / 4, t = lane % 4); transposed, elements g of rows 2t and 2t + 1.

use super::FaultKind;
use super::access::{Region, lanes, space_of};
use super::block::Block;
use super::fault::Fail;
use super::lanes::Lanes;
use super::op::{Matrix, Pc, Slot};
use super::request::Request;
use super::shadow::Run;
use super::warp::Warp;
use crate::ptx::Space;

const ROW: u64 = 16;

impl Block<'_> {
    pub fn move_matrix(
        &self,
        warp: &mut Warp,
        [d, a]: [Slot; 2],
        pc: Pc,
        mask: u32,
    ) -> Result<(), Fail> {
        self.whole_warp(warp, pc, mask)?;
        let mut lanes = warp.regs[a as usize];
        transpose(&mut lanes);
        warp.regs[d as usize] = lanes;
        let unknown = !warp.valid[a as usize];
        // Lane 4g + t takes its halves from lanes 8t + g / 2 and 8t + 4 + g / 2.
        let known = (0..32).fold(0, |all, lane| {
            let from = lane % 4 * 8 + lane / 8;
            all | u32::from((unknown >> from | unknown >> (from + 4)) & 1 == 0) << lane
        });
        warp.set_valid(d, known, !0);
        if unknown != 0 && self.launch.checks.any() {
            self.uninitialised_read(warp, pc, unknown, None)?;
        }
        Ok(())
    }

    /// The rows in shared memory, in bounds, of an instruction that the whole warp executes.
    fn rows<const CHECK: bool, const COUNT: bool>(
        &mut self,
        warp: &Warp,
        matrix: &Matrix,
        pc: Pc,
        mask: u32,
    ) -> Result<(Region, Request), Fail> {
        self.whole_warp(warp, pc, mask)?;
        if CHECK {
            let row_lanes = u32::MAX >> (32 - 8 * matrix.count);
            self.check_address(warp, &matrix.address, pc, row_lanes)?;
        }
        let r = self.shared_rows(warp, matrix, pc)?;
        if COUNT {
            self.count(&r);
        }
        let region = self.region(Space::Shared);
        self.in_bounds(warp, &region, &r, pc)?;
        Ok((region, r))
    }

    fn shared_rows(&self, warp: &Warp, matrix: &Matrix, pc: Pc) -> Result<Request, Fail> {
        let mask = u32::MAX >> (32 - 8 * matrix.count);
        let r = self.survey(warp, &matrix.address, mask, ROW);
        if matrix.address.space == Space::Shared {
            return Ok(r);
        }
        if let Some(lane) = lanes(mask).find(|&l| space_of(r.a[l]) != Space::Shared) {
            let name = &self.program.info[pc as usize].name;
            let address = r.a[lane];
            let text = format!("{name} at {address:#x}, not in shared memory");
            let kind = FaultKind::OutOfBounds;
            return Err(self.fail(kind, pc, warp.id, lane, Some(address), text));
        }
        let a = r.a.map(|a| a & 0xffff_ffff);
        Ok(Request::new(Space::Shared, a, mask, ROW))
    }

    pub fn load_matrix<const CHECK: bool, const COUNT: bool>(
        &mut self,
        warp: &mut Warp,
        matrix: &Matrix,
        pc: Pc,
        mask: u32,
    ) -> Result<(), Fail> {
        let (region, r) = self.rows::<CHECK, COUNT>(warp, matrix, pc, mask)?;
        let noted = !CHECK || self.rows_noted(warp, matrix, &r, pc);
        for m in 0..matrix.count as usize {
            let mut words = [[0u32; 4]; 8];
            let mut unknown = [0u8; 8];
            for (row, words) in words.iter_mut().enumerate() {
                let at = r.a[8 * m + row];
                // SAFETY: the row's 16 bytes are in bounds.
                *words = unsafe {
                    region
                        .data
                        .add(at as usize)
                        .cast::<[u32; 4]>()
                        .read_unaligned()
                };
                if !noted {
                    unknown[row] = self.check_row(warp, matrix, at, row, pc)?;
                }
            }
            let target = &mut warp.regs[matrix.regs[m] as usize];
            target.0 = words.as_flattened().try_into().unwrap_or(target.0);
            if matrix.transposed {
                transpose(target);
            }
            if CHECK {
                let known = matrix.known_lanes(&unknown);
                if known != !0 {
                    self.uninitialised_read(warp, pc, !known, Some(r.a[8 * m]))?;
                }
                warp.set_valid(matrix.regs[m], known, !0);
            }
        }
        Ok(())
    }

    /// Notes the reads of all rows. Lane 4 row + t receives word t; transposed, lanes all over the warp receive halves
    /// of it. False if something is to be looked at row by row.
    fn rows_noted(&mut self, warp: &Warp, matrix: &Matrix, r: &Request, pc: Pc) -> bool {
        let actor = self.actor(warp, pc);
        let mut runs = [Run::default(); 32];
        for (l, run) in runs.iter_mut().enumerate() {
            let (at, bytes) = (r.a[l] as usize, ROW as usize);
            *run = if matrix.transposed {
                self.shadow.together(at, bytes, 0, &actor)
            } else {
                self.shadow.row(at, bytes, 4, l % 8 * 4, &actor)
            };
        }
        let rows = 8 * matrix.count as usize;
        self.shadow.read_runs(&runs[..rows], &actor)
    }

    /// Notes the reads of a row: a bit for each of its words that is not initialised.
    fn check_row(
        &mut self,
        warp: &Warp,
        matrix: &Matrix,
        at: u64,
        row: usize,
        pc: Pc,
    ) -> Result<u8, Fail> {
        let (actor, place) = (self.actor(warp, pc), at as usize);
        let mut unknown = 0;
        for t in 0..4 {
            let readers = if matrix.transposed {
                [8 * t + row / 2, 8 * t + 4 + row / 2]
            } else {
                [4 * row + t; 2]
            };
            for lane in readers {
                let known = self.shadow.read(place + 4 * t, 4, &actor, lane);
                let known = known
                    .map_err(|met| self.trouble(warp, lane, at + 4 * t as u64, pc, met, "reads"))?;
                unknown |= u8::from(!known) << t;
            }
        }
        Ok(unknown)
    }

    pub fn store_matrix<const CHECK: bool, const COUNT: bool>(
        &mut self,
        warp: &mut Warp,
        matrix: &Matrix,
        pc: Pc,
        mask: u32,
    ) -> Result<(), Fail> {
        let (region, r) = self.rows::<CHECK, COUNT>(warp, matrix, pc, mask)?;
        for m in 0..matrix.count as usize {
            let mut words = warp.regs[matrix.regs[m] as usize];
            let known = warp.valid[matrix.regs[m] as usize];
            if matrix.transposed {
                transpose(&mut words);
            }
            for row in 0..8 {
                let at = r.a[8 * m + row];
                if CHECK {
                    self.check_stored_row(warp, matrix, known, at, row, pc)?;
                }
                // SAFETY: the row's 16 bytes are in bounds.
                unsafe {
                    let to = region.data.add(at as usize).cast::<[u32; 4]>();
                    to.write_unaligned(std::array::from_fn(|t| words.0[4 * row + t]));
                }
            }
        }
        Ok(())
    }

    /// Notes the writes of a matrix's row: the lane of each element.
    fn check_stored_row(
        &mut self,
        warp: &Warp,
        matrix: &Matrix,
        known: u32,
        at: u64,
        row: usize,
        pc: Pc,
    ) -> Result<(), Fail> {
        for column in 0..8 {
            let (g, t) = if matrix.transposed {
                (column, row)
            } else {
                (row, column)
            };
            let lane = 4 * g + t / 2;
            let address = at + 2 * column as u64;
            let r = Request::new(Space::Shared, [address; 32], 1 << lane, 2);
            self.shared_writes(warp, &r, known, pc, |_, _| false)?;
        }
        Ok(())
    }
}

impl Matrix {
    /// The lanes of a register whose elements are all initialised; row by row a bit for each word that is not.
    fn known_lanes(&self, unknown: &[u8; 8]) -> u32 {
        if *unknown == [0; 8] {
            return !0;
        }
        let known = |row: usize, word: usize| unknown[row] >> word & 1 == 0;
        (0..32).fold(0, |all, lane| {
            let (g, t) = (lane / 4, lane % 4);
            let ok = if self.transposed {
                known(2 * t, g / 2) && known(2 * t + 1, g / 2)
            } else {
                known(g, t)
            };
            all | u32::from(ok) << lane
        })
    }
}

/// Transposes the 8x8 matrix of 16-bit elements that lies row by row in a register's lanes.
fn transpose(register: &mut Lanes) {
    let half = |row: usize, column: usize| {
        register.0[4 * row + column / 2] >> (16 * (column % 2)) & 0xffff
    };
    let mut out = [0; 32];
    for (lane, out) in out.iter_mut().enumerate() {
        let (g, t) = (lane / 4, lane % 4);
        *out = half(2 * t, g) | half(2 * t + 1, g) << 16;
    }
    register.0 = out;
}
