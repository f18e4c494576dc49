//! `ldmatrix` and `stmatrix`: 8x8 matrices of 16-bit elements between shared memory and registers.
//!
//! Lane 8i + j gives the address of row j of matrix i. A register's lane holds elements 2t and 2t + 1 of row g
//! (g = lane / 4, t = lane % 4); transposed, elements g of rows 2t and 2t + 1.

use super::FaultKind;
use super::access::{Addresses, space_of};
use super::block::Block;
use super::fault::Fail;
use super::op::{Matrix, Pc};
use super::warp::Warp;
use crate::ptx::Space;

const ROW: u64 = 16;

impl Block<'_> {
    /// The rows' addresses in shared memory.
    fn rows(&self, warp: &Warp, matrix: &Matrix, pc: Pc) -> Result<Addresses, Fail> {
        let mut a = warp.addresses(&matrix.address);
        let rows = 8 * matrix.count as usize;
        if matrix.address.space == Space::Generic {
            if let Some(lane) = (0..rows).find(|&l| space_of(a[l]) != Space::Shared) {
                let text = format!(
                    "{} at {:#x}, not in shared memory",
                    self.program.info[pc as usize].name, a[lane]
                );
                return Err(self.fail(
                    FaultKind::OutOfBounds,
                    pc,
                    warp.id,
                    lane,
                    Some(a[lane]),
                    text,
                ));
            }
            a.iter_mut().for_each(|a| *a &= 0xffff_ffff);
        }
        Ok(a)
    }

    pub fn load_matrix<const CHECK: bool, const COUNT: bool>(
        &mut self,
        warp: &mut Warp,
        matrix: &Matrix,
        pc: Pc,
        mask: u32,
    ) -> Result<(), Fail> {
        self.whole_warp(warp, pc, mask)?;
        let row_lanes = u32::MAX >> (32 - 8 * matrix.count);
        if CHECK {
            self.check_address(warp, &matrix.address, pc, row_lanes)?;
        }
        let a = self.rows(warp, matrix, pc)?;
        if COUNT {
            self.count(Space::Shared, &a, row_lanes, ROW);
        }
        let region = self.region(Space::Shared);
        for m in 0..matrix.count as usize {
            let mut words = [[0u32; 4]; 8];
            let mut valid = [[true; 4]; 8];
            for (row, words) in words.iter_mut().enumerate() {
                let lane = 8 * m + row;
                let p = self.element(warp, region, a[lane], ROW, pc, lane)?;
                // SAFETY: `element` checked 16 bytes at a 16-byte boundary.
                *words = unsafe { p.cast::<[u32; 4]>().read_unaligned() };
                if CHECK {
                    for (t, valid) in valid[row].iter_mut().enumerate() {
                        // Lane 4 row + t receives these bytes (transposed: other lanes, of the same warp).
                        let reader = if matrix.transposed { lane } else { 4 * row + t };
                        *valid =
                            self.shared_read(warp, reader, a[lane] + 4 * t as u64, 4, pc, false)?;
                    }
                }
            }
            let half =
                |row: usize, column: usize| words[row][column / 2] >> (16 * (column % 2)) & 0xffff;
            let mut known = 0;
            let target = &mut warp.regs[matrix.regs[m] as usize].0;
            for (lane, out) in target.iter_mut().enumerate() {
                let (g, t) = (lane / 4, lane % 4);
                let ok;
                if matrix.transposed {
                    *out = half(2 * t, g) | half(2 * t + 1, g) << 16;
                    ok = valid[2 * t][g / 2] && valid[2 * t + 1][g / 2];
                } else {
                    *out = words[g][t];
                    ok = valid[g][t];
                }
                known |= u32::from(ok) << lane;
            }
            warp.set_valid(matrix.regs[m], known, !0);
        }
        Ok(())
    }

    pub fn store_matrix<const CHECK: bool, const COUNT: bool>(
        &mut self,
        warp: &mut Warp,
        matrix: &Matrix,
        pc: Pc,
        mask: u32,
    ) -> Result<(), Fail> {
        self.whole_warp(warp, pc, mask)?;
        let row_lanes = u32::MAX >> (32 - 8 * matrix.count);
        if CHECK {
            self.check_address(warp, &matrix.address, pc, row_lanes)?;
        }
        let a = self.rows(warp, matrix, pc)?;
        if COUNT {
            self.count(Space::Shared, &a, row_lanes, ROW);
        }
        let region = self.region(Space::Shared);
        for m in 0..matrix.count as usize {
            let source = warp.regs[matrix.regs[m] as usize].0;
            let known = warp.valid[matrix.regs[m] as usize];
            // The lane and half that hold an element.
            let place = |row: usize, column: usize| {
                let (g, t) = if matrix.transposed {
                    (column, row)
                } else {
                    (row, column)
                };
                (4 * g + t / 2, t % 2)
            };
            for row in 0..8 {
                let lane = 8 * m + row;
                let p = self.element(warp, region, a[lane], ROW, pc, lane)?;
                for column in 0..8 {
                    let (from, half) = place(row, column);
                    let value = (source[from] >> (16 * half)) as u16;
                    if CHECK {
                        let at = a[lane] + 2 * column as u64;
                        self.shared_write(
                            warp,
                            from,
                            at,
                            2,
                            known >> from & 1 != 0,
                            false,
                            pc,
                            false,
                        )?;
                    }
                    // SAFETY: `element` checked 16 bytes.
                    unsafe { p.cast::<u16>().add(column).write_unaligned(value) };
                }
            }
        }
        Ok(())
    }
}
