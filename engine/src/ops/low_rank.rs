//! A linear with a low-rank update: `y = x·(W + s·B·diag(λ)·A)ᵀ + b`.
//!
//! ```text
//! h = x·Aᵀ    g = dy·B
//! dx = dy·(W + s·B·Λ·A)    dB = s·dyᵀ·(h·Λ)    dA = s·(g·Λ)ᵀ·x    dλ = s·Σ_tokens g ⊙ h    db = Σ_tokens dy
//! ```
//!
//! x `[…, n]`, W `[m, n]` frozen, A `[r, n]`, B `[m, r]`, λ `[r]` or none (ones). W + s·B·Λ·A exists panel by panel only, made as
//! the product packs W, for y and again for dx: at r ≪ tokens that is cheaper than two thin products a token, and cheaper than
//! keeping it. h comes with y and g with dx, in the same pass over x or dy. The gradients of the factors have the thin form, so
//! that no m×n gradient exists. A triplet whose λ is 0 takes no part in ΔW, dA and dB; its dλ is that of any other. Saved: x, A,
//! B, λ, h, and W where dx is wanted. On CUDA see [`extended`].

use crate::cpu::gemm::{Beside, Dims, Extra, Layout as Strides, Scale, Term, gemm};
use crate::cpu::threads::Disjoint;
use crate::device::{Device, product_with};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::op::{Forward, Op, Saved, apply};
use crate::ops::linear::{as_matrix, bias_gradient, linear, output_shape, write_matrix};
use crate::tape::Grads;
use crate::tensor::Tensor;

mod extended;

struct LowRank {
    scale: f32,
    has_bias: bool,
    has_lambda: bool,
}

/// `s·Λ·A`.
fn scaled(a: &Tensor, lambda: Option<&Tensor>, scale: f32) -> Result<Tensor> {
    let a = match lambda {
        Some(lambda) => a.mul(&lambda.unsqueeze(1)?)?,
        None => a.clone(),
    };
    a.affine(scale as f64, 0.0)
}

/// The update's factors with s and Λ taken into A, and without the triplets whose λ is 0.
struct Factors {
    /// s·Λ·A, `[rank, n]`.
    a: Vec<f32>,
    /// `[m, rank]`.
    b: Vec<f32>,
    rank: usize,
    n: usize,
}

impl Factors {
    fn new(a: &Tensor, b: &Tensor, lambda: Option<&Tensor>, scale: f32) -> Result<Self> {
        let n = a.shape()[1];
        let (a, b) = (a.packed()?, b.packed()?);
        let triplets = Triplets::new(lambda, a.shape()[0], scale)?;
        let rows = a.as_slice::<f32>()?;
        let scaled = triplets
            .acting
            .iter()
            .flat_map(|(i, s)| rows[i * n..(i + 1) * n].iter().map(move |x| s * x));
        Ok(Factors {
            a: scaled.collect(),
            b: triplets.columns(b.as_slice()?, b.shape()[1], |_| 1.0),
            rank: triplets.acting.len(),
            n,
        })
    }

    /// ΔW, or ΔWᵀ, as a term of a product's right side.
    fn term(&self, transposed: bool) -> Option<Term<'_>> {
        let (a, b) = (&self.a, &self.b);
        let term = if transposed {
            Term {
                left: (a, Strides::transposed(self.n)),
                right: (b, Strides::transposed(self.rank)),
                rank: self.rank,
            }
        } else {
            Term {
                left: (b, Strides::row_major(self.rank)),
                right: (a, Strides::row_major(self.n)),
                rank: self.rank,
            }
        };
        (self.rank > 0).then_some(term)
    }
}

/// The triplets that act: their index and s·λ.
struct Triplets {
    acting: Vec<(usize, f32)>,
    /// s, where there is no λ.
    all: Option<f32>,
}

impl Triplets {
    fn new(lambda: Option<&Tensor>, r: usize, scale: f32) -> Result<Self> {
        let Some(lambda) = lambda else {
            let acting = (0..r).map(|i| (i, scale)).collect();
            return Ok(Triplets {
                acting,
                all: Some(scale),
            });
        };
        let lambda = lambda.packed()?;
        let values = lambda
            .as_slice::<f32>()?
            .iter()
            .map(|l| scale * l)
            .enumerate();
        Ok(Triplets {
            acting: values.filter(|(_, l)| *l != 0.0).collect(),
            all: None,
        })
    }

    /// Their columns of an `[_, r]` matrix, each times `factor(s·λ)`.
    fn columns(&self, x: &[f32], r: usize, factor: impl Fn(f32) -> f32) -> Vec<f32> {
        let rows = x.chunks_exact(r.max(1));
        rows.flat_map(|row| self.acting.iter().map(|(i, s)| factor(*s) * row[*i]))
            .collect()
    }
}

impl LowRank {
    /// The optional inputs: bias, then λ.
    fn optional<'a>(&self, inputs: &[&'a Tensor]) -> (Option<&'a Tensor>, Option<&'a Tensor>) {
        let bias = self.has_bias.then(|| inputs[4]);
        let lambda = self.has_lambda.then(|| inputs[4 + self.has_bias as usize]);
        (bias, lambda)
    }

    /// Whether backward needs h: for dB and dλ.
    fn wants_h(&self, f: &Forward, inputs: &[&Tensor]) -> bool {
        f.needs(3) || self.has_lambda && f.needs(inputs.len() - 1)
    }

    /// Saves what backward needs.
    fn keep(&self, f: &mut Forward, inputs: &[&Tensor], x: &Tensor, h: &Tensor) {
        if self.wants_h(f, inputs) {
            f.save(5, h);
        }
        if f.needs(2) {
            f.save(0, x);
        }
        if f.needs_any() {
            f.save(2, inputs[2]);
            f.save(3, inputs[3]);
            if let (_, Some(lambda)) = self.optional(inputs) {
                f.save(4, lambda);
            }
        }
        if f.needs(0) {
            f.save(1, inputs[1]);
        }
    }
}

impl Op for LowRank {
    fn name(&self) -> &'static str {
        "low_rank"
    }

    fn supports(&self, device: &Device) -> bool {
        device.has_kernels()
    }

    fn forward(&self, f: &mut Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        if let Some(cuda) = inputs[0].device().as_cuda() {
            return self.forward_extended(cuda, f, inputs);
        }
        let [x, w, a, b] = [inputs[0], inputs[1], inputs[2], inputs[3]];
        let (bias, lambda) = self.optional(inputs);
        let shape = output_shape("low_rank", x, w, bias)?;
        let x = as_matrix(x)?;
        let mut y = Tensor::empty(&[x.rows(), w.shape()[0]], DType::F32, x.device())?;
        let (factors, bias) = (
            Factors::new(a, b, lambda, self.scale)?,
            bias.map(Tensor::packed).transpose()?,
        );
        let wants_h = self.wants_h(f, inputs);
        let mut h = Tensor::empty(
            &[x.rows(), if wants_h { a.shape()[0] } else { 0 }],
            DType::F32,
            x.device(),
        )?;
        let (right, n) = (a.packed()?, h.last_dim());
        let out = Disjoint::new(h.as_mut_slice()?);
        let extra = Extra {
            bias: bias.as_ref().map(Tensor::as_slice).transpose()?,
            term: factors.term(true),
            beside: wants_h.then_some(Beside {
                right: (right.as_slice()?, Strides::transposed(right.last_dim())),
                n,
                out: &out,
            }),
        };
        product_with((&x, false), (w, true), extra, 1.0, 0.0, &mut y)?;
        self.keep(f, inputs, &x, &h);
        Ok(y.relayout(Layout::contiguous(shape)))
    }

    fn composed(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let (bias, lambda) = self.optional(inputs);
        let delta = inputs[3].matmul(&scaled(inputs[2], lambda, self.scale)?)?;
        linear(inputs[0], &inputs[1].add(&delta)?, bias)
    }

    fn backward(&self, saved: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        if let Some(cuda) = dy.device().clone().as_cuda() {
            return self.backward_extended(cuda, &saved, &dy, grads);
        }
        let dy = as_matrix(&dy)?;
        let (a, b, lambda) = (saved.get(2)?, saved.get(3)?, saved.find(4)?);
        let lambda_at = 4 + self.has_bias as usize;
        let wants_lambda = self.has_lambda && grads.needs(lambda_at);
        let wants_g = grads.needs(2) || wants_lambda;
        let g = if grads.needs(0) {
            let (w, factors) = (saved.get(1)?, Factors::new(a, b, lambda, self.scale)?);
            let mut g = Tensor::empty(&[dy.rows(), b.last_dim()], DType::F32, dy.device())?;
            let (right, n) = (b.packed()?, b.last_dim());
            let out = Disjoint::new(g.as_mut_slice()?);
            let extra = Extra {
                bias: None,
                term: factors.term(false),
                beside: wants_g.then_some(Beside {
                    right: (right.as_slice()?, Strides::row_major(n)),
                    n,
                    out: &out,
                }),
            };
            write_matrix(grads, 0, |out, beta| {
                product_with((&dy, false), (w, false), extra, 1.0, beta, out)
            })?;
            wants_g.then_some(g)
        } else if wants_g {
            Some(dy.matmul(b)?)
        } else {
            None
        };
        let triplets = Triplets::new(lambda, a.shape()[0], self.scale)?;
        if let (true, Some(g)) = (grads.needs(2), &g) {
            let x = saved.get(0)?;
            grads.write(2, |out, beta| {
                triplets.gradient(g, x, Side::Left, beta, out)
            })?;
        }
        if grads.needs(3) {
            let h = saved.get(5)?;
            grads.write(3, |out, beta| {
                triplets.gradient(h, &dy, Side::Right, beta, out)
            })?;
        }
        if let (true, Some(g)) = (wants_lambda, &g) {
            let h = saved.get(5)?;
            grads.add(lambda_at, g.mul(h)?.sum(0)?.affine(self.scale as f64, 0.0)?)?;
        }
        if self.has_bias {
            bias_gradient(grads, 4, &dy)?;
        }
        Ok(())
    }
}

/// Which factor a gradient belongs to.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    /// A, `[r, n]`.
    Left,
    /// B, `[m, r]`.
    Right,
}

impl Triplets {
    /// `out = β·out + (t·sΛ)ᵀ·u` for A, or its transpose for B: `t` `[T, r]`, `u` `[T, wide]`.
    fn gradient(
        &self,
        t: &Tensor,
        u: &Tensor,
        side: Side,
        beta: f32,
        out: &mut Tensor,
    ) -> Result<()> {
        let (r, wide, tokens) = (t.last_dim(), u.last_dim(), t.rows());
        let (t, u, rank) = (
            t.as_slice::<f32>()?,
            u.as_slice::<f32>()?,
            self.acting.len(),
        );
        let scaled;
        let (own, alpha) = match self.all {
            Some(scale) => (t, scale),
            None => {
                scaled = self.columns(t, r, |s| s);
                (&scaled[..], 1.0)
            }
        };
        let out = out.as_mut_slice::<f32>()?;
        // Where every triplet acts, the product goes straight into the gradient.
        let direct = rank == r;
        let mut apart = if direct {
            vec![]
        } else {
            vec![0.0; rank * wide]
        };
        let (target, beta_here) = if direct {
            (&mut *out, beta)
        } else {
            (&mut apart[..], 0.0)
        };
        let scale = Scale {
            alpha,
            beta: beta_here,
        };
        let (turned, plain) = (Strides::transposed(rank), Strides::row_major(rank));
        match side {
            Side::Left => {
                let dims = Dims {
                    m: rank,
                    n: wide,
                    k: tokens,
                };
                gemm(
                    dims,
                    scale,
                    (own, turned),
                    (u, Strides::row_major(wide)),
                    (target, wide),
                );
            }
            Side::Right => {
                let dims = Dims {
                    m: wide,
                    n: rank,
                    k: tokens,
                };
                gemm(
                    dims,
                    scale,
                    (u, Strides::transposed(wide)),
                    (own, plain),
                    (target, rank),
                );
            }
        }
        if !direct {
            out.iter_mut()
                .for_each(|x| *x = if beta == 0.0 { 0.0 } else { beta * *x });
            for (at, (i, _)) in self.acting.iter().enumerate() {
                for j in 0..wide {
                    match side {
                        Side::Left => out[i * wide + j] += apart[at * wide + j],
                        Side::Right => out[j * r + i] += apart[j * rank + at],
                    }
                }
            }
        }
        Ok(())
    }
}

/// `x·(W + scale·B·diag(λ)·A)ᵀ + b` with a frozen W.
///
/// # Errors
/// Shapes that do not fit, or a W that is trained.
pub fn low_rank_linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    a: &Tensor,
    b: &Tensor,
    lambda: Option<&Tensor>,
    scale: f32,
) -> Result<Tensor> {
    let (m, n) = match weight.shape() {
        &[m, n] => (m, n),
        other => {
            return Err(Error::shape(
                "low_rank",
                format!("W is {other:?}, wanted [m, n]"),
            ));
        }
    };
    let r = a.shape().first().copied().unwrap_or(0);
    a.expect_shape("low_rank", "A", &[r, n])?;
    b.expect_shape("low_rank", "B", &[m, r])?;
    if let Some(lambda) = lambda {
        lambda.expect_shape("low_rank", "λ", &[r])?;
    }
    if weight.requires_grad() {
        return Err(Error::Invalid(
            "low_rank: W is trained; add the update's dense form to it instead".into(),
        ));
    }
    let op = LowRank {
        scale,
        has_bias: bias.is_some(),
        has_lambda: lambda.is_some(),
    };
    let inputs: Vec<&Tensor> = [Some(x), Some(weight), Some(a), Some(b), bias, lambda]
        .into_iter()
        .flatten()
        .collect();
    apply(op, &inputs)
}
