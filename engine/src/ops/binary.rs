//! Elementwise functions of two operands, with broadcasting.
//!
//! Ties of `maximum` and `minimum` share the gradient equally. Comparisons give 0 or 1 and no gradient.

use crate::device::Map;
use crate::error::Result;
use crate::layout::Layout;
use crate::op::{Forward, Op, Saved, apply};
use crate::ops::real::Real;
use crate::tape::Grads;
use crate::tensor::Tensor;

/// A function of two operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// `a + b`.
    Add,
    /// `a − b`.
    Sub,
    /// `a · b`.
    Mul,
    /// `a / b`.
    Div,
    /// The larger; NaN wins.
    Maximum,
    /// The smaller; NaN wins.
    Minimum,
    /// `a = b`.
    Eq,
    /// `a < b`.
    Lt,
    /// `a ≤ b`.
    Le,
}

impl Binary {
    /// All of them: what tests walk.
    pub const ALL: [Binary; 9] = [
        Binary::Add,
        Binary::Sub,
        Binary::Mul,
        Binary::Div,
        Binary::Maximum,
        Binary::Minimum,
        Binary::Eq,
        Binary::Lt,
        Binary::Le,
    ];

    /// The name in errors and traces.
    pub fn name(self) -> &'static str {
        match self {
            Binary::Add => "add",
            Binary::Sub => "sub",
            Binary::Mul => "mul",
            Binary::Div => "div",
            Binary::Maximum => "maximum",
            Binary::Minimum => "minimum",
            Binary::Eq => "eq",
            Binary::Lt => "lt",
            Binary::Le => "le",
        }
    }

    /// The value.
    #[inline(always)]
    pub fn eval<T: Real>(self, a: T, b: T) -> T {
        let truth = |t: bool| T::c(t as u8 as f64);
        match self {
            Binary::Add => a + b,
            Binary::Sub => a - b,
            Binary::Mul => a * b,
            Binary::Div => a / b,
            Binary::Maximum => {
                if a > b || a.is_nan() {
                    a
                } else {
                    b
                }
            }
            Binary::Minimum => {
                if a < b || a.is_nan() {
                    a
                } else {
                    b
                }
            }
            Binary::Eq => truth(a == b),
            Binary::Lt => truth(a < b),
            Binary::Le => truth(a <= b),
        }
    }
}

impl Op for Binary {
    fn name(&self) -> &'static str {
        Binary::name(*self)
    }

    fn forward(&self, f: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        let (a, b) = (inputs[0], inputs[1]);
        b.expect_dtype(self.name(), a.dtype())?;
        let shape = Layout::broadcast_shape(self.name(), &a.layout().shape, &b.layout().shape)?;
        let mut y = Tensor::empty(&shape, a.dtype(), a.device())?;
        let views = [
            a.broadcast_view(self.name(), &shape)?,
            b.broadcast_view(self.name(), &shape)?,
        ];
        a.device()
            .backend()
            .map(Map::Binary(*self), &[&views[0], &views[1]], &mut y)?;
        let (save_a, save_b) = match self {
            Binary::Mul => (f.needs(1), f.needs(0)),
            Binary::Div => (f.needs(1), f.needs_any()),
            Binary::Maximum | Binary::Minimum => (f.needs_any(), f.needs_any()),
            _ => (false, false),
        };
        if save_a {
            f.save(0, a);
        }
        if save_b {
            f.save(1, b);
        }
        Ok(y)
    }

    fn backward(&self, saved: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let (mut da, mut db) = (None, None);
        match self {
            Binary::Add | Binary::Sub => {
                if grads.needs(1) {
                    db = Some(if *self == Binary::Add {
                        dy.clone()
                    } else {
                        dy.neg()?
                    });
                }
                if grads.needs(0) {
                    da = Some(dy);
                }
            }
            Binary::Mul => {
                if grads.needs(0) {
                    da = Some(dy.mul(saved.get(1)?)?);
                }
                if grads.needs(1) {
                    db = Some(dy.mul(saved.get(0)?)?);
                }
            }
            Binary::Div => {
                let da_full = dy.div(saved.get(1)?)?;
                if grads.needs(1) {
                    db = Some(da_full.mul(saved.get(0)?)?.div(saved.get(1)?)?.neg()?);
                }
                da = Some(da_full);
            }
            Binary::Maximum | Binary::Minimum => {
                let (a, b) = (saved.get(0)?, saved.get(1)?);
                let (lose, win) = if *self == Binary::Maximum {
                    (a, b)
                } else {
                    (b, a)
                };
                // share of b = [b wins] + ½[tie]
                let share_b = lose.lt(win)?.add(&a.equal(b)?.affine(0.5, 0.0)?)?;
                let dyb = dy.mul(&share_b)?;
                da = Some(dy.sub(&dyb)?);
                db = Some(dyb);
            }
            Binary::Eq | Binary::Lt | Binary::Le => {
                let zero = dy.affine(0.0, 0.0)?;
                da = Some(zero.clone());
                db = Some(zero);
            }
        }
        for (i, d) in [(0, da), (1, db)] {
            if let Some(d) = d
                && grads.needs(i)
            {
                let d = d.sum_to(grads.shape(i))?;
                grads.add(i, d)?;
            }
        }
        Ok(())
    }
}

macro_rules! methods {
    ($($(#[$doc:meta])* $method:ident => $binary:ident;)*) => {
        impl Tensor {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// Shapes that do not broadcast, different element types.
            pub fn $method(&self, other: &Tensor) -> Result<Tensor> { apply(Binary::$binary, &[self, other]) }
        )*}
    };
}

methods! {
    /// `self + other`, broadcasting.
    add => Add;
    /// `self − other`, broadcasting.
    sub => Sub;
    /// `self ⊙ other`, broadcasting.
    mul => Mul;
    /// `self / other`, broadcasting.
    div => Div;
    /// The larger of each pair; ties share the gradient.
    maximum => Maximum;
    /// The smaller of each pair; ties share the gradient.
    minimum => Minimum;
    /// 1 where equal, else 0.
    equal => Eq;
    /// 1 where `self < other`, else 0.
    lt => Lt;
    /// 1 where `self ≤ other`, else 0.
    le => Le;
}

/// `c ≠ 0 ? a : b`, elementwise with broadcasting; `c` gets no gradient.
struct Where;

impl Op for Where {
    fn name(&self) -> &'static str {
        "where"
    }

    fn forward(&self, f: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        let [c, a, b] = [inputs[0], inputs[1], inputs[2]];
        b.expect_dtype("where", a.dtype())?;
        c.expect_dtype("where", a.dtype())?;
        let shape = Layout::broadcast_shape("where", &a.layout().shape, &b.layout().shape)?;
        let shape = Layout::broadcast_shape("where", &shape, &c.layout().shape)?;
        let mut y = Tensor::empty(&shape, a.dtype(), a.device())?;
        let v = [
            c.broadcast_view("where", &shape)?,
            a.broadcast_view("where", &shape)?,
            b.broadcast_view("where", &shape)?,
        ];
        a.device()
            .backend()
            .map(Map::Where, &[&v[0], &v[1], &v[2]], &mut y)?;
        if f.needs_any() {
            f.save(0, c);
        }
        Ok(y)
    }

    fn backward(&self, saved: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let (c, zero) = (saved.get(0)?, Tensor::zeros(&[1], dy.dtype(), dy.device())?);
        if grads.needs(1) {
            grads.add(1, c.select(&dy, &zero)?.sum_to(grads.shape(1))?)?;
        }
        if grads.needs(2) {
            grads.add(2, c.select(&zero, &dy)?.sum_to(grads.shape(2))?)?;
        }
        Ok(())
    }
}

impl Tensor {
    /// Where `self ≠ 0` the element of `a`, else of `b`, broadcasting all three.
    ///
    /// # Errors
    /// Shapes that do not broadcast, different element types.
    pub fn select(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        apply(Where, &[&self.detach(), a, b])
    }
}
