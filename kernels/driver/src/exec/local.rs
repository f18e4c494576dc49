//! Local memory, interleaved word by word: lanes with the same local address share a row.

use super::FaultKind;
use super::access::lanes;
use super::block::Block;
use super::fault::Fail;
use super::lanes::Lanes;
use super::op::{Access, Pc};
use super::request::{Request, Shape};
use super::warp::Warp;

impl Block<'_> {
    /// Local memory and parameters of device functions.
    pub fn local(
        &mut self,
        warp: &mut Warp,
        access: &Access,
        request: &Request,
        pc: Pc,
        store: bool,
    ) -> Result<(), Fail> {
        let Request {
            ref a,
            mask,
            bytes: size,
            shape,
            ..
        } = *request;
        let checked = self.launch.checks.any();
        if access.bytes == 4
            && access.register == 4
            && mask == !0
            && shape == Shape::Same
            && a[0].is_multiple_of(size)
        {
            let row = (a[0] / 4) as usize;
            if row + access.count as usize <= warp.frame.len() {
                for part in 0..access.count as usize {
                    let slot = access.regs[part] as usize;
                    if store {
                        warp.frame[row + part] = warp.regs[slot];
                        warp.valid_frame[row + part] = warp.valid[slot];
                    } else {
                        warp.regs[slot] = warp.frame[row + part];
                        warp.valid[slot] = warp.valid_frame[row + part];
                        if checked && warp.valid[slot] != !0 {
                            self.uninitialised_read(warp, pc, !warp.valid[slot], Some(a[0]))?;
                        }
                    }
                }
                return Ok(());
            }
        }
        for l in lanes(mask) {
            if !a[l].is_multiple_of(size) || a[l] + size > warp.frame.len() as u64 * 4 {
                let kind = if !a[l].is_multiple_of(size) {
                    FaultKind::Misaligned
                } else {
                    FaultKind::OutOfBounds
                };
                let text = format!(
                    "{} of {size} bytes at local address {:#x}: the thread has {} bytes of local memory",
                    self.program.info[pc as usize].name,
                    a[l],
                    warp.frame.len() * 4
                );
                return Err(self.fail(kind, pc, warp.id, l, Some(a[l]), text));
            }
            for part in 0..access.count as usize {
                let at = a[l] as usize + part * access.bytes as usize;
                let slot = access.regs[part];
                if store {
                    let bits = warp.get(slot, l, access.register == 8);
                    local_write(&mut warp.frame, at, l, bits, access.bytes);
                } else {
                    let bits = local_read(&warp.frame, at, l, access.bytes);
                    warp.set(slot, l, extend(bits, access), access.register == 8);
                }
                if checked {
                    let rows = at / 4..(at + access.bytes as usize).div_ceil(4);
                    if store {
                        let valid = warp.valid[slot as usize];
                        for v in &mut warp.valid_frame[rows] {
                            *v = *v & !(1 << l) | valid & 1 << l;
                        }
                    } else {
                        let valid = warp.valid_frame[rows].iter().fold(!0, |all, v| all & v);
                        warp.set_valid(slot, valid, 1 << l);
                        if valid >> l & 1 == 0 {
                            self.uninitialised_read(warp, pc, 1 << l, Some(a[l]))?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// An element's bits, extended to the register.
fn extend(bits: u64, access: &Access) -> u64 {
    let shift = 64 - 8 * access.bytes;
    let extended = if access.signed {
        ((bits << shift).cast_signed() >> shift).cast_unsigned()
    } else {
        bits
    };
    extended & u64::MAX >> (64 - 8 * access.register)
}

/// Bits of interleaved local memory; the access is aligned and inside.
pub fn local_read(frame: &[Lanes], at: usize, lane: usize, bytes: u32) -> u64 {
    let word = u64::from(frame[at / 4].0[lane]);
    match bytes {
        8 => word | u64::from(frame[at / 4 + 1].0[lane]) << 32,
        4 => word,
        _ => word >> (at % 4 * 8) & ((1 << (8 * bytes)) - 1),
    }
}

pub fn local_write(frame: &mut [Lanes], at: usize, lane: usize, bits: u64, bytes: u32) {
    let word = &mut frame[at / 4].0[lane];
    match bytes {
        4 => *word = bits as u32,
        8 => {
            *word = bits as u32;
            frame[at / 4 + 1].0[lane] = (bits >> 32) as u32;
        }
        _ => {
            let mask = ((1u32 << (8 * bytes)) - 1) << (at % 4 * 8);
            *word = *word & !mask | (bits as u32) << (at % 4 * 8) & mask;
        }
    }
}
