//! Operands: registers, constants, addresses, conditions.

use super::super::access::window;
use super::super::op::{Address, Base, Cond, Pred, SINK, Slot};
use super::super::program::Special;
use super::{Decoder, Ins, Place, Result};
use crate::ptx::{Operand, Space, Type};

/// The register width of a type: 8 bytes, or up to 4.
pub(super) fn is_wide(ty: Type) -> bool {
    ty.bytes() == 8
}

impl<'a> Ins<'a> {
    /// The first type among the modifiers left, unclaimed.
    pub(super) fn peek_ty(&self) -> Option<Type> {
        self.left.iter().find_map(|m| Type::from_name(m))
    }

    /// Claims the first type among the modifiers left.
    pub(super) fn ty(&mut self) -> Result<Type> {
        let at = self.left.iter().position(|m| Type::from_name(m).is_some());
        let at = at.ok_or_else(|| self.error("a type is missing"))?;
        Type::from_name(self.left.remove(at)).ok_or_else(|| self.error("a type is missing"))
    }

    /// The state space among the modifiers left, unclaimed.
    pub(super) fn space(&self) -> Space {
        self.left
            .iter()
            .find_map(|m| Space::from_name(m))
            .unwrap_or(Space::Generic)
    }

    pub(super) fn take_space(&mut self) -> Space {
        let space = self.space();
        if let Some(at) = self.left.iter().position(|m| Space::from_name(m).is_some()) {
            self.left.remove(at);
        }
        space
    }

    pub(super) fn operand(&self, n: usize) -> Result<&'a Operand> {
        self.i
            .operands
            .get(n)
            .ok_or_else(|| self.error(format!("operand {} is missing", n + 1)))
    }
}

impl<'a> Decoder<'a> {
    /// The place of a virtual register; it gets one when first met.
    pub(super) fn place(&mut self, ins: &Ins<'_>, register: usize) -> Result<(Place, Type)> {
        let ty = self.functions[ins.function].function.registers[register].ty;
        if let Some(place) = self.functions[ins.function].places[register] {
            return Ok((place, ty));
        }
        let place = match ty {
            Type::Pred => Place::Pred(self.new_pred(ins)?),
            Type::B128 => return Err(ins.error("128-bit registers are not supported")),
            _ => Place::Slot(self.new_slot(is_wide(ty))),
        };
        self.functions[ins.function].places[register] = Some(place);
        Ok((place, ty))
    }

    /// A register as a target or source of exactly this size.
    pub(super) fn register(&mut self, ins: &Ins<'_>, operand: &Operand, ty: Type) -> Result<Slot> {
        let (slot, own) = self.any_register(ins, operand)?;
        if own.bytes() == ty.bytes() {
            return Ok(slot);
        }
        Err(ins.error(format!(
            "a register of {} bytes where {} are wanted",
            own.bytes(),
            ty.bytes()
        )))
    }

    /// A register of any size.
    pub(super) fn any_register(
        &mut self,
        ins: &Ins<'_>,
        operand: &Operand,
    ) -> Result<(Slot, Type)> {
        match operand {
            Operand::Reg(r) => match self.place(ins, *r)? {
                (Place::Slot(slot), ty) => Ok((slot, ty)),
                (Place::Pred(_), _) => Err(ins.error("a predicate where a number is wanted")),
            },
            _ => Err(ins.error("a register is wanted")),
        }
    }

    /// The target register: operand 0. `_` is a slot that nobody reads.
    pub(super) fn target(&mut self, ins: &Ins<'_>, ty: Type) -> Result<Slot> {
        match ins.operand(0)? {
            Operand::Sink => Ok(self.new_slot(is_wide(ty))),
            operand => self.register(ins, operand, ty),
        }
    }

    /// A source of this type: a register, or a constant.
    pub(super) fn source(&mut self, ins: &Ins<'_>, n: usize, ty: Type) -> Result<Slot> {
        let operand = ins.operand(n)?;
        self.value(ins, operand, ty)
    }

    pub(super) fn value(&mut self, ins: &Ins<'_>, operand: &Operand, ty: Type) -> Result<Slot> {
        let wide = is_wide(ty);
        match operand {
            Operand::Reg(_) => self.register(ins, operand, ty),
            Operand::Special(name) => {
                let special =
                    special(name).ok_or_else(|| ins.error(format!("{name} is not known here")))?;
                if wide {
                    return Err(ins.error(format!("{name} has 32 bits")));
                }
                Ok(self.special(special))
            }
            _ => {
                let bits = self.constant_bits(ins, operand, ty)?;
                Ok(self.constant(bits, wide))
            }
        }
    }

    /// The bits of a constant operand, at the size of the type.
    pub(super) fn constant_bits(
        &mut self,
        ins: &Ins<'_>,
        operand: &Operand,
        ty: Type,
    ) -> Result<u64> {
        let bits = match operand {
            Operand::Int(_) if matches!(ty, Type::F32 | Type::F64) => {
                return Err(ins.error("an integer where a floating-point constant is wanted"));
            }
            Operand::Int(i) => *i,
            Operand::Single(x) if ty == Type::F64 => f64::from(*x).to_bits(),
            Operand::Single(x) => x.to_bits().into(),
            Operand::Double(x) if ty == Type::F32 => (*x as f32).to_bits().into(),
            Operand::Double(x) => x.to_bits(),
            Operand::Param(..)
            | Operand::Return(..)
            | Operand::Variable(..)
            | Operand::Symbol(..) => {
                // Relative to its space, as `mov` wants it; `cvta` makes it generic.
                self.symbol_address(ins, operand)?.1
            }
            _ => return Err(ins.error("a register or a constant is wanted")),
        };
        Ok(bits & u64::MAX >> (64 - 8 * ty.bytes().min(8)))
    }

    /// The space of a symbol and its address in it.
    pub(super) fn symbol_address(
        &mut self,
        ins: &Ins<'_>,
        operand: &Operand,
    ) -> Result<(Space, u64)> {
        let layout = &self.functions[ins.function];
        let (space, address, offset) = match operand {
            Operand::Variable(v, offset) => {
                let space = layout.function.variables[*v].space;
                // Parameters of calls live in the frame.
                let space = if space == Space::Param {
                    Space::Local
                } else {
                    space
                };
                (space, layout.variables[*v], *offset)
            }
            Operand::Param(p, offset) if layout.function.is_kernel => (
                Space::Param,
                layout.function.params[*p].offset.into(),
                *offset,
            ),
            Operand::Param(p, offset) => (Space::Local, layout.params[*p], *offset),
            Operand::Return(p, offset) => (Space::Local, layout.returns[*p], *offset),
            Operand::Symbol(name, offset) => {
                let (space, address) = self.module_symbol(ins, name)?;
                (space, address, *offset)
            }
            _ => return Err(ins.error("a variable is wanted")),
        };
        Ok((space, address.wrapping_add_signed(offset)))
    }

    fn module_symbol(&mut self, ins: &Ins<'_>, name: &str) -> Result<(Space, u64)> {
        let Some(v) = self.module.variables.iter().find(|v| v.name == name) else {
            if let Some(address) = super::function_address(self.module, name) {
                return Ok((Space::Global, address));
            }
            return Err(ins.error(format!("{name} is not declared")));
        };
        match v.space {
            Space::Global | Space::Const => match self.globals.get(name) {
                Some(&(address, _)) => Ok((v.space, address)),
                None => Err(ins.error(format!("{name} has no address"))),
            },
            Space::Shared => match self.shared.get(name) {
                Some(&address) => Ok((Space::Shared, address)),
                None => Err(ins.error(format!("{name} has no address"))),
            },
            _ => Err(ins.error(format!(
                "{name} lies in a space that has no module variables"
            ))),
        }
    }

    /// Operand `n` as an address in a space. Parameters of device functions are in the frame.
    pub(super) fn address(&mut self, ins: &Ins<'_>, n: usize, space: Space) -> Result<Address> {
        let Operand::Address(base, offset) = ins.operand(n)? else {
            return Err(ins.error("an address in brackets is wanted"));
        };
        match &**base {
            Operand::Reg(_) => {
                let (slot, ty) = self.any_register(ins, base)?;
                let base = match ty.bytes() {
                    8 => Base::Wide(slot),
                    4 => Base::Narrow(slot),
                    _ => return Err(ins.error("an address register has 32 or 64 bits")),
                };
                let is_kernel = self.functions[ins.function].function.is_kernel;
                let space = if space == Space::Param && !is_kernel {
                    Space::Local
                } else {
                    space
                };
                Ok(Address {
                    space,
                    base,
                    offset: *offset,
                })
            }
            Operand::Int(i) => Ok(Address {
                space,
                base: Base::None,
                offset: *i as i64,
            }),
            symbol => {
                let (own, address) = self.symbol_address(ins, symbol)?;
                let fits = own == space
                    || space == Space::Generic
                    || (space == Space::Param && own == Space::Local);
                if !fits {
                    return Err(ins.error(format!(
                        "the variable lies in {own:?} space, not in {space:?}"
                    )));
                }
                let address = if space == Space::Generic {
                    address + window(own)
                } else {
                    address
                };
                let space = if space == Space::Generic { space } else { own };
                Ok(Address {
                    space,
                    base: Base::None,
                    offset: address.wrapping_add_signed(*offset) as i64,
                })
            }
        }
    }

    /// A predicate as a condition: `p`, `!p`, or a constant.
    pub(super) fn cond(&mut self, ins: &Ins<'_>, operand: &Operand) -> Result<Cond> {
        let (register, flip) = match operand {
            Operand::Reg(r) => (*r, 0),
            Operand::Not(r) => (*r, !0),
            Operand::Int(0) => return Ok(Cond::NEVER),
            Operand::Int(_) => return Ok(Cond::ALWAYS),
            _ => return Err(ins.error("a predicate is wanted")),
        };
        match self.place(ins, register)? {
            (Place::Pred(pred), _) => Ok(Cond { pred, flip }),
            _ => Err(ins.error("a predicate is wanted")),
        }
    }

    /// A predicate as a target.
    pub(super) fn pred(&mut self, ins: &Ins<'_>, operand: &Operand) -> Result<Pred> {
        match operand {
            Operand::Sink => Ok(SINK),
            Operand::Reg(r) => match self.place(ins, *r)? {
                (Place::Pred(pred), _) => Ok(pred),
                _ => Err(ins.error("a predicate is wanted as target")),
            },
            _ => Err(ins.error("a predicate is wanted as target")),
        }
    }

    /// The elements of `{a, b}`, or a single operand.
    pub(super) fn elements(&self, ins: &Ins<'a>, n: usize) -> Result<&'a [Operand]> {
        let operand = ins.operand(n)?;
        Ok(match operand {
            Operand::Vector(all) => all,
            single => std::slice::from_ref(single),
        })
    }
}

/// The special registers whose value a block fixes.
fn special(name: &str) -> Option<Special> {
    if let Some((stem, axis)) = name.split_once('.') {
        let axis = match axis {
            "x" => 0,
            "y" => 1,
            "z" => 2,
            _ => return None,
        };
        return Some(match stem {
            "%tid" => Special::Thread(axis),
            "%ntid" => Special::Threads(axis),
            "%ctaid" | "%clusterid" => Special::Block(axis),
            "%nctaid" | "%nclusterid" => Special::Blocks(axis),
            "%cluster_ctaid" => Special::Value(0),
            "%cluster_nctaid" => Special::Value(1),
            _ => return None,
        });
    }
    Some(match name {
        "%laneid" => Special::Lane,
        "%warpid" => Special::Warp,
        "%nwarpid" => Special::Warps,
        "%lanemask_eq" => Special::MaskEqual,
        "%lanemask_lt" => Special::MaskLess,
        "%lanemask_le" => Special::MaskLessEqual,
        "%lanemask_gt" => Special::MaskGreater,
        "%lanemask_ge" => Special::MaskGreaterEqual,
        "%dynamic_smem_size" => Special::DynamicShared,
        "%total_smem_size" | "%aggr_smem_size" => Special::TotalShared,
        "%smid" | "%cluster_ctarank" => Special::Value(0),
        "%nsmid" | "%cluster_nctarank" => Special::Value(1),
        _ => return None,
    })
}
