//! Loads and stores.
//!
//! A warp's addresses are looked at together: 32 elements in a row, or one for all lanes, take one bounds check and
//! vector moves; anything else goes lane by lane.

use super::FaultKind;
use super::block::Block;
use super::fault::Fail;
use super::lanes::{Lanes, WARP};
use super::op::{Access, Pc};
use super::request::Shape;
use super::warp::Warp;
use crate::ptx::Space;

impl Block<'_> {
    /// `ld` or `st`.
    pub fn transfer<const CHECK: bool, const COUNT: bool, const STORE: bool>(
        &mut self,
        warp: &mut Warp,
        access: &Access,
        pc: Pc,
        mask: u32,
    ) -> Result<(), Fail> {
        if !CHECK && !COUNT && mask == !0 && self.move_row(warp, access) {
            return Ok(());
        }
        if CHECK {
            self.check_address(warp, &access.address, pc, mask)?;
        }
        let size = u64::from(access.bytes * access.count);
        let all = self.survey(warp, &access.address, mask, size);
        self.by_space(&all, |block, r| {
            if COUNT {
                block.count(r);
            }
            if r.space == Space::Local {
                return block.local(warp, access, r, pc, STORE);
            }
            if r.space == Space::Param && STORE {
                let text = "a store to a kernel's parameters".into();
                let (lane, address) = (r.first(), Some(r.a[r.first()]));
                return Err(block.fail(FaultKind::OutOfBounds, pc, warp.id, lane, address, text));
            }
            let region = block.region(r.space);
            block.in_bounds(warp, &region, r, pc)?;
            if CHECK && STORE {
                block.check_write(warp, access, r, pc)?;
            }
            if CHECK && !STORE {
                let valid = block.check_load(warp, access, r, pc)?;
                for (&register, valid) in access.regs[..access.count as usize].iter().zip(valid) {
                    warp.set_valid(register, valid, r.mask);
                }
            }
            let regs = registers(warp, access);
            let start = region
                .data
                .wrapping_add(r.a[0].wrapping_sub(region.origin) as usize);
            // SAFETY: all elements are inside the region, and the slots have the width that the moves were made for.
            unsafe {
                match r.shape {
                    Shape::Row => (access.moves.row)(start, &regs),
                    Shape::Same if !STORE && r.mask == !0 => (access.moves.same)(start, &regs),
                    _ => {
                        let base = region.data.wrapping_sub(region.origin as usize);
                        (access.moves.each)(base, &r.a, r.mask, &regs);
                    }
                }
            }
            Ok(())
        })
    }

    /// Moves all lanes' elements if they lie in a row in a space that is known: the common case, without more ado.
    fn move_row(&mut self, warp: &mut Warp, access: &Access) -> bool {
        let size = access.bytes * access.count;
        if !matches!(access.address.space, Space::Global | Space::Shared) {
            return false;
        }
        let Some(start) = warp.row_start(&access.address, size) else {
            return false;
        };
        let region = self.region(access.address.space);
        match region.at(start, u64::from(size) * WARP as u64) {
            Some(p) if start.is_multiple_of(size.into()) => {
                // SAFETY: the region holds the 32 elements, and the slots have the width that `row` was made for.
                unsafe { (access.moves.row)(p, &registers(warp, access)) };
                true
            }
            _ => false,
        }
    }
}

fn registers(warp: &mut Warp, access: &Access) -> [*mut Lanes; 4] {
    let first = warp.regs.as_mut_ptr();
    access.regs.map(|r| first.wrapping_add(r as usize))
}
