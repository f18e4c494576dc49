//! `ldmatrix`, `stmatrix`, `mma`, `wmma`.

use super::super::lanes::Isa;
use super::super::mma::{
    Accumulator, Bf16, E4m3, E5m2, Element, F16, InF16, InF32, InS32, InS32Saturated, Product, S4,
    S8, Tf32, U4, U8, product, product_f64,
};
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
            "movmatrix" => self.move_matrix(ins),
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
        if ins.left.first().is_some_and(|m| m.starts_with("sp")) {
            return Err(ins.error("products of sparse matrices are not supported"));
        }
        if !(ins.flag("sync") && ins.flag("aligned")) {
            return Err(ins.error("the form .sync.aligned is wanted"));
        }
        // Rows and K.
        let shapes = [
            ("m8n8k4", (8, 4)),
            ("m8n8k16", (8, 16)),
            ("m8n8k32", (8, 32)),
            ("m16n8k4", (16, 4)),
            ("m16n8k8", (16, 8)),
            ("m16n8k16", (16, 16)),
            ("m16n8k32", (16, 32)),
            ("m16n8k64", (16, 64)),
        ];
        let shape = ins.one_of(&shapes);
        let shape = shape
            .ok_or_else(|| ins.error("the shape is m8n8k4 to m8n8k32 or m16n8k4 to m16n8k64"))?;
        if !(ins.flag("row") && ins.flag("col")) {
            return Err(ins.error("the form .row.col is wanted"));
        }
        let saturated = ins.flag("satfinite");
        let types: [&str; 4] = std::mem::take(&mut ins.left)
            .try_into()
            .map_err(|_| ins.error("the types of D, A, B and C are wanted"))?;
        let Some((run, bits)) = mma_product(self.isa, shape, types, saturated) else {
            return Err(ins.error("not supported for this shape and these types"));
        };
        ins.expect_operands(4)?;
        let word = |ty: &str| match ty {
            "f64" => Type::F64,
            "f32" => Type::F32,
            _ => Type::B32,
        };
        // A and B of f32's size are bits.
        let factor = if bits == 64 { Type::F64 } else { Type::B32 };
        let (rows, k) = shape;
        // A lane's share of 8 columns of K elements, and of 8 sums a row.
        let columns = 8 * k * bits / 32 / (8 * factor.bytes() as usize);
        let sums = 8 * rows / 32 / if types[0] == "f16" { 2 } else { 1 };
        let multiply = Multiply {
            run,
            d: slots(self, ins, 0, sums, word(types[0]))?,
            a: slots(self, ins, 1, columns * rows / 8, factor)?,
            b: slots(self, ins, 2, columns, factor)?,
            c: slots(self, ins, 3, sums, word(types[3]))?,
            tiles: 1,
            flops: (2 * rows * 8 * k) as u64,
        };
        self.emit(Kind::Multiply(Box::new(multiply)));
        Ok(())
    }

    /// `movmatrix.sync.aligned.m8n8.trans.b16 d, a`.
    fn move_matrix(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        let form = ["sync", "aligned", "m8n8", "trans"];
        if !form.iter().all(|m| ins.flag(m)) || ins.ty()? != Type::B16 {
            return Err(ins.error("the form .sync.aligned.m8n8.trans.b16 is wanted"));
        }
        ins.expect_operands(2)?;
        let d = self.target(ins, Type::B32)?;
        let a = self.source(ins, 1, Type::B32)?;
        self.emit(Kind::MoveMatrix { d, a });
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

/// The product of a shape (rows, K) and of the types of D, A, B and C, and the bits of A's elements.
fn mma_product(
    isa: Isa,
    shape: (usize, usize),
    types: [&str; 4],
    saturated: bool,
) -> Option<(Product, usize)> {
    let [d, a, b, c] = types;
    if saturated && d != "s32" || d != c {
        return None;
    }
    Some(match (shape, [d, a, b]) {
        ((16, 16), ["f32", "f16", "f16"]) => (product::<16, F16, F16, InF32>(isa), 16),
        ((16, 16), ["f16", "f16", "f16"]) => (product::<16, F16, F16, InF16>(isa), 16),
        ((16, 16), ["f32", "bf16", "bf16"]) => (product::<16, Bf16, Bf16, InF32>(isa), 16),
        ((16, 8), ["f32", "f16", "f16"]) => (product::<8, F16, F16, InF32>(isa), 16),
        ((16, 8), ["f16", "f16", "f16"]) => (product::<8, F16, F16, InF16>(isa), 16),
        ((16, 8), ["f32", "bf16", "bf16"]) => (product::<8, Bf16, Bf16, InF32>(isa), 16),
        ((16, 8), ["f32", "tf32", "tf32"]) => (product::<8, Tf32, Tf32, InF32>(isa), 32),
        ((16, 4), ["f32", "tf32", "tf32"]) => (product::<4, Tf32, Tf32, InF32>(isa), 32),
        ((8, 4), ["f64", "f64", "f64"]) => (product_f64(isa), 64),
        ((16, 16), ["f32", ..]) => (floats_of_8_bits::<16, InF32>(isa, a, b)?, 8),
        ((16, 32), ["f32", ..]) => (floats_of_8_bits::<32, InF32>(isa, a, b)?, 8),
        ((16, 16), ["f16", ..]) => (floats_of_8_bits::<16, InF16>(isa, a, b)?, 8),
        ((16, 32), ["f16", ..]) => (floats_of_8_bits::<32, InF16>(isa, a, b)?, 8),
        ((_, 16), ["s32", ..]) => (
            integers::<16, S8, U8>(isa, ["s8", "u8"], a, b, saturated)?,
            8,
        ),
        ((16, 32), ["s32", "s8" | "u8", _]) => (
            integers::<32, S8, U8>(isa, ["s8", "u8"], a, b, saturated)?,
            8,
        ),
        ((_, 32), ["s32", ..]) => (
            integers::<32, S4, U4>(isa, ["s4", "u4"], a, b, saturated)?,
            4,
        ),
        ((16, 64), ["s32", ..]) => (
            integers::<64, S4, U4>(isa, ["s4", "u4"], a, b, saturated)?,
            4,
        ),
        _ => return None,
    })
}

fn floats_of_8_bits<const K: usize, C: Accumulator<Sum = f32>>(
    isa: Isa,
    a: &str,
    b: &str,
) -> Option<Product> {
    Some(match (a, b) {
        ("e4m3", "e4m3") => product::<K, E4m3, E4m3, C>(isa),
        ("e4m3", "e5m2") => product::<K, E4m3, E5m2, C>(isa),
        ("e5m2", "e4m3") => product::<K, E5m2, E4m3, C>(isa),
        ("e5m2", "e5m2") => product::<K, E5m2, E5m2, C>(isa),
        _ => return None,
    })
}

/// Of elements S or U, as a and b name them.
fn integers<const K: usize, S: Element<Sum = i64>, U: Element<Sum = i64>>(
    isa: Isa,
    [signed, unsigned]: [&str; 2],
    a: &str,
    b: &str,
    saturated: bool,
) -> Option<Product> {
    let is_signed = |ty: &str| (ty == signed || ty == unsigned).then_some(ty == signed);
    Some(match (is_signed(a)?, is_signed(b)?, saturated) {
        (true, true, false) => product::<K, S, S, InS32>(isa),
        (true, false, false) => product::<K, S, U, InS32>(isa),
        (false, true, false) => product::<K, U, S, InS32>(isa),
        (false, false, false) => product::<K, U, U, InS32>(isa),
        (true, true, true) => product::<K, S, S, InS32Saturated>(isa),
        (true, false, true) => product::<K, S, U, InS32Saturated>(isa),
        (false, true, true) => product::<K, U, S, InS32Saturated>(isa),
        (false, false, true) => product::<K, U, U, InS32Saturated>(isa),
    })
}
