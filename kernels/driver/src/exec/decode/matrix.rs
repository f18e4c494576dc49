//! `ldmatrix`, `stmatrix`, `mma`, `wmma`.

use super::super::lanes::Isa;
use super::super::mma::{Bf16, F16, InF16, InF32, InS32, Product, S8, Tf32, U8, product};
use super::super::op::{Fragment, Kind, Matrix, Multiply};
use super::super::wmma::Role;
use super::memory::slots;
use super::{Decoder, Ins, Result};
use crate::ptx::{Operand, Space, Type};

impl<'a> Decoder<'a> {
    pub(super) fn matrix(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        match ins.i.opcode.as_str() {
            "ldmatrix" => self.load_store_matrix(ins, true),
            "stmatrix" => self.load_store_matrix(ins, false),
            "mma" => self.mma(ins),
            "wmma" => self.wmma(ins),
            _ => Err(ins.error("this instruction is not supported")),
        }
    }

    fn load_store_matrix(&mut self, ins: &mut Ins<'a>, load: bool) -> Result<()> {
        if !(ins.flag("sync") && ins.flag("aligned") && ins.flag("m8n8")) {
            return Err(ins.error("the form .sync.aligned.m8n8 is wanted"));
        }
        let count = ins
            .one_of(&[("x1", 1), ("x2", 2), ("x4", 4)])
            .ok_or_else(|| ins.error(".x1, .x2 or .x4 is wanted"))?;
        let transposed = ins.flag("trans");
        let space = ins.take_space();
        let ty = ins.ty()?;
        if ty != Type::B16 {
            return Err(ins.error("elements have 16 bits"));
        }
        ins.expect_operands(2)?;
        let (list, at) = if load { (0, 1) } else { (1, 0) };
        let address = self.address(
            ins,
            at,
            if space == Space::Generic {
                space
            } else {
                Space::Shared
            },
        )?;
        let all = slots(self, ins, list, count as usize, Type::B32)?;
        let mut regs = [0; 4];
        regs[..all.len()].copy_from_slice(&all);
        if !load {
            self.shared_access(2);
        }
        let matrix = Box::new(Matrix {
            address,
            count,
            transposed,
            regs,
        });
        self.emit(if load {
            Kind::LoadMatrix(matrix)
        } else {
            Kind::StoreMatrix(matrix)
        });
        Ok(())
    }

    fn mma(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        if !(ins.flag("sync") && ins.flag("aligned")) {
            return Err(ins.error("the form .sync.aligned is wanted"));
        }
        let shape = ins.one_of(&["m16n8k4", "m16n8k8", "m16n8k16", "m16n8k32"].map(|s| (s, s)));
        let shape = shape
            .ok_or_else(|| ins.error("the shape is one of m16n8k4, m16n8k8, m16n8k16, m16n8k32"))?;
        if !(ins.flag("row") && ins.flag("col")) {
            return Err(ins.error("the form .row.col is wanted"));
        }
        if ins.flag("satfinite") {
            return Err(ins.error(".satfinite is not supported"));
        }
        let (d, a, b, c) = (ins.ty()?, ins.ty()?, ins.ty()?, ins.ty()?);
        let Some((run, a_count, b_count, k)) = mma_product(self.isa, shape, [d, a, b, c]) else {
            return Err(ins.error("not supported for this shape and these types"));
        };
        ins.expect_operands(4)?;
        let sums = if d == Type::F16 { 2 } else { 4 };
        let word = |ty: Type| {
            if ty == Type::F32 {
                Type::F32
            } else {
                Type::B32
            }
        };
        let multiply = Multiply {
            run,
            d: slots(self, ins, 0, sums, word(d))?,
            a: slots(self, ins, 1, a_count, Type::B32)?,
            b: slots(self, ins, 2, b_count, Type::B32)?,
            c: slots(self, ins, 3, sums, word(c))?,
            tiles: 1,
            flops: 2 * 16 * 8 * k,
        };
        self.emit(Kind::Multiply(Box::new(multiply)));
        Ok(())
    }

    fn wmma(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        let what = ins.one_of(&[("load", "load"), ("store", "store"), ("mma", "mma")]);
        let what =
            what.ok_or_else(|| ins.error("one of wmma.load, wmma.store, wmma.mma is wanted"))?;
        let role = ins.one_of(&[
            ("a", Role::A),
            ("b", Role::B),
            ("c", Role::Accumulator),
            ("d", Role::Accumulator),
        ]);
        if !(ins.flag("sync") && ins.flag("aligned")) {
            return Err(ins.error("the form .sync.aligned is wanted"));
        }
        let first = ins
            .one_of(&[("row", true), ("col", false)])
            .ok_or_else(|| ins.error("a layout is missing"))?;
        if what == "mma" {
            ins.one_of(&[("row", true), ("col", false)])
                .ok_or_else(|| ins.error("two layouts are wanted"))?;
        }
        if !ins.flag("m16n16k16") {
            return Err(ins.error("only the shape m16n16k16 is supported"));
        }
        if what == "mma" {
            return self.wmma_mma(ins);
        }
        let role = role.ok_or_else(|| ins.error("one of .a, .b, .c, .d is wanted"))?;
        let space = ins.take_space();
        let ty = ins.ty()?;
        let (count, bytes) = match (role, ty) {
            (Role::A | Role::B, Type::F16) => (8, 2),
            (Role::A | Role::B, Type::Bf16) | (Role::Accumulator, Type::F16) => (4, 2),
            (Role::Accumulator, Type::F32) => (8, 4),
            _ => return Err(ins.error("not supported for this type")),
        };
        let (list, at) = if what == "load" { (0, 1) } else { (1, 0) };
        let address = self.address(ins, at, space)?;
        let regs = slots(
            self,
            ins,
            list,
            count,
            if bytes == 4 { Type::F32 } else { Type::B32 },
        )?;
        let stride = match ins.i.operands.get(2) {
            Some(Operand::Reg(_)) | Some(Operand::Int(_)) => self.source(ins, 2, Type::U32)?,
            _ => self.constant(16, false),
        };
        if space != Space::Global {
            self.shared_access(bytes);
        }
        let fragment = Box::new(Fragment {
            address,
            stride,
            role,
            by_rows: first,
            bytes,
            regs,
        });
        self.emit(if what == "load" {
            Kind::LoadFragment(fragment)
        } else {
            Kind::StoreFragment(fragment)
        });
        Ok(())
    }

    /// `wmma.mma…d.c` for f16, `….f32.bf16.bf16.f32` for bf16. The layouts of A and B are those of their loads.
    fn wmma_mma(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        let mut types = vec![ins.ty()?, ins.ty()?];
        while ins.peek_ty().is_some() {
            types.push(ins.ty()?);
        }
        let isa = self.isa;
        let (run, a_count): (Product, usize) = match types[..] {
            [Type::F32, Type::F32] => (product::<16, F16, F16, InF32>(isa), 8),
            [Type::F16, Type::F16] => (product::<16, F16, F16, InF16>(isa), 8),
            [Type::F32, Type::Bf16, Type::Bf16, Type::F32] => {
                (product::<16, Bf16, Bf16, InF32>(isa), 4)
            }
            _ => return Err(ins.error("not supported for these types")),
        };
        ins.expect_operands(4)?;
        let (sums, word) = if types[0] == Type::F32 {
            (8, Type::F32)
        } else {
            (4, Type::B32)
        };
        let mut operand = |n, count, ty| slots(self, ins, n, count, ty);
        let (d, mut a, mut b) = (
            operand(0, sums, word)?,
            operand(1, a_count, Type::B32)?,
            operand(2, a_count, Type::B32)?,
        );
        let c = operand(3, sums, word)?;
        a.truncate(4);
        b.truncate(4);
        self.emit(Kind::Multiply(Box::new(Multiply {
            run,
            d,
            a,
            b,
            c,
            tiles: 2,
            flops: 2 * 16 * 16 * 16,
        })));
        Ok(())
    }
}

/// The product, the registers of A and B, and K.
fn mma_product(isa: Isa, shape: &str, types: [Type; 4]) -> Option<(Product, usize, usize, u64)> {
    use Type::{Bf16 as BF16T, F16 as F16T, F32, S8 as S8T, S32, Tf32 as TF32T, U8 as U8T};
    Some(match (shape, types) {
        ("m16n8k16", [F32, F16T, F16T, F32]) => (product::<16, F16, F16, InF32>(isa), 4, 2, 16),
        ("m16n8k16", [F16T, F16T, F16T, F16T]) => (product::<16, F16, F16, InF16>(isa), 4, 2, 16),
        ("m16n8k16", [F32, BF16T, BF16T, F32]) => (product::<16, Bf16, Bf16, InF32>(isa), 4, 2, 16),
        ("m16n8k8", [F32, F16T, F16T, F32]) => (product::<8, F16, F16, InF32>(isa), 2, 1, 8),
        ("m16n8k8", [F16T, F16T, F16T, F16T]) => (product::<8, F16, F16, InF16>(isa), 2, 1, 8),
        ("m16n8k8", [F32, BF16T, BF16T, F32]) => (product::<8, Bf16, Bf16, InF32>(isa), 2, 1, 8),
        ("m16n8k8", [F32, TF32T, TF32T, F32]) => (product::<8, Tf32, Tf32, InF32>(isa), 4, 2, 8),
        ("m16n8k4", [F32, TF32T, TF32T, F32]) => (product::<4, Tf32, Tf32, InF32>(isa), 2, 1, 4),
        ("m16n8k32", [S32, S8T, S8T, S32]) => (product::<32, S8, S8, InS32>(isa), 4, 2, 32),
        ("m16n8k32", [S32, U8T, U8T, S32]) => (product::<32, U8, U8, InS32>(isa), 4, 2, 32),
        ("m16n8k32", [S32, S8T, U8T, S32]) => (product::<32, S8, U8, InS32>(isa), 4, 2, 32),
        ("m16n8k32", [S32, U8T, S8T, S32]) => (product::<32, U8, S8, InS32>(isa), 4, 2, 32),
        ("m16n8k16", [S32, S8T, S8T, S32]) => (product::<16, S8, S8, InS32>(isa), 2, 1, 16),
        ("m16n8k16", [S32, U8T, U8T, S32]) => (product::<16, U8, U8, InS32>(isa), 2, 1, 16),
        ("m16n8k16", [S32, S8T, U8T, S32]) => (product::<16, S8, U8, InS32>(isa), 2, 1, 16),
        ("m16n8k16", [S32, U8T, S8T, S32]) => (product::<16, U8, S8, InS32>(isa), 2, 1, 16),
        _ => return None,
    })
}
