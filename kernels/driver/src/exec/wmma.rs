//! `wmma.load` and `wmma.store` of m16n16k16.
//!
//! The ISA leaves the fragments' layout open. Here A is an `mma` fragment of 16x16, and B, C and D are two fragments
//! of 8 columns, one after the other (see [`super::mma`]); f16 fragments of A and B, which have twice the registers
//! needed, hold everything twice.

use super::access::{Addresses, lanes, read_bytes, write};
use super::block::Block;
use super::fault::Fail;
use super::op::{Fragment, Pc};
use super::request::Request;
use super::warp::Warp;
use crate::ptx::Space;

/// Which matrix a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    A,
    B,
    /// C or D.
    Accumulator,
}

impl Fragment {
    /// Row and column of element `e` of register `r` in a lane.
    fn place(&self, r: usize, e: usize, lane: usize) -> (usize, usize) {
        let (g, t) = (lane / 4, lane % 4);
        match (self.role, self.bytes) {
            (Role::A, _) => (g + 8 * (r % 2), 2 * t + e + 8 * (r / 2 % 2)),
            (Role::B, _) => (2 * t + e + 8 * (r % 2), g + 8 * (r / 2 % 2)),
            (Role::Accumulator, 2) => (g + 8 * (r % 2), 2 * t + e + 8 * (r / 2)),
            (Role::Accumulator, _) => (g + 8 * (r % 4 / 2), 2 * t + r % 2 + 8 * (r / 4)),
        }
    }

    fn addresses(&self, warp: &Warp, base: &Addresses, r: usize, e: usize) -> Addresses {
        std::array::from_fn(|lane| {
            let (row, column) = self.place(r, e, lane);
            let (line, along) = if self.by_rows {
                (row, column)
            } else {
                (column, row)
            };
            let stride = warp.get32(self.stride, lane) as usize;
            base[lane].wrapping_add(((line * stride + along) * self.bytes as usize) as u64)
        })
    }
}

impl Block<'_> {
    pub fn load_fragment<const CHECK: bool, const COUNT: bool>(
        &mut self,
        warp: &mut Warp,
        f: &Fragment,
        pc: Pc,
        mask: u32,
    ) -> Result<(), Fail> {
        self.whole_warp(warp, pc, mask)?;
        if CHECK {
            self.check_address(warp, &f.address, pc, mask)?;
        }
        let base = self.survey(warp, &f.address, mask, 1).a;
        let bytes = u64::from(f.bytes);
        for r in 0..f.regs.len() {
            let mut words = [0u32; 32];
            let mut valid = !0;
            for e in 0..4 / f.bytes as usize {
                let a = f.addresses(warp, &base, r, e);
                self.by_space(
                    &Request::new(f.address.space, a, mask, bytes),
                    |block, r| {
                        if COUNT {
                            block.count(r);
                        }
                        let region = block.region(r.space);
                        block.in_bounds(warp, &region, r, pc)?;
                        if CHECK {
                            valid &= block.check_read(warp, r, pc)? | !r.mask;
                        }
                        for l in lanes(r.mask) {
                            let p = block.element(warp, region, r.a[l], bytes, pc, l)?;
                            // SAFETY: `element` checked the bounds.
                            words[l] |= (unsafe { read_bytes(p, f.bytes) } as u32) << (16 * e);
                        }
                        Ok(())
                    },
                )?;
            }
            warp.regs[f.regs[r] as usize].0 = words;
            warp.set_valid(f.regs[r], valid, !0);
        }
        Ok(())
    }

    pub fn store_fragment<const CHECK: bool, const COUNT: bool>(
        &mut self,
        warp: &mut Warp,
        f: &Fragment,
        pc: Pc,
        mask: u32,
    ) -> Result<(), Fail> {
        self.whole_warp(warp, pc, mask)?;
        if CHECK {
            self.check_address(warp, &f.address, pc, mask)?;
        }
        let base = self.survey(warp, &f.address, mask, 1).a;
        let bytes = u64::from(f.bytes);
        for r in 0..f.regs.len() {
            for e in 0..4 / f.bytes as usize {
                let a = f.addresses(warp, &base, r, e);
                let known = warp.valid[f.regs[r] as usize];
                self.by_space(
                    &Request::new(f.address.space, a, mask, bytes),
                    |block, request| {
                        if COUNT {
                            block.count(request);
                        }
                        let region = block.region(request.space);
                        block.in_bounds(warp, &region, request, pc)?;
                        if CHECK && request.space == Space::Shared {
                            block.shared_writes(warp, request, known, pc, |_, _| false)?;
                        } else if CHECK {
                            block.global_writes(warp, request, known, pc)?;
                        }
                        for l in lanes(request.mask) {
                            let p = block.element(warp, region, request.a[l], bytes, pc, l)?;
                            let bits = warp.get32(f.regs[r], l) >> (16 * e);
                            // SAFETY: `element` checked the bounds.
                            unsafe { write(p, bits.into(), f.bytes) };
                        }
                        Ok(())
                    },
                )?;
            }
        }
        Ok(())
    }
}
