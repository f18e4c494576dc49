//! The least time that a step's matrix products take: their FLOPs at the rate of a large product in the same run.
//!
//! A linear `[rows, n] → [rows, m]` costs 2·rows·m·n forward and as much for dx; its dW again as much where W trains. A low-rank
//! update adds four thin products, 2·rows·r·(2n + 2m), and making W + BA once, 2·m·n·r. Attention costs 2·T²·D per head and
//! sequence and product, two products forward and four backward, half of it where it is causal.

use std::hint::black_box;
use std::time::Instant;

use deltaw_engine::cpu::gemm::{Dims, Layout, Scale, gemm};
use deltaw_engine::device::cuda::Cuda;
use deltaw_engine::prelude::*;

use crate::compare::tensor_on;

/// FLOPs of one step by kind.
#[derive(Debug, Default, Clone, Copy)]
pub struct Work {
    /// Products with a whole weight.
    pub large: f64,
    /// Products of rank r, merging included.
    pub thin: f64,
    /// Attention's products.
    pub attention: f64,
}

/// What backward wants of a linear.
#[derive(Debug, Clone, Copy)]
pub struct Wants {
    /// The input's gradient.
    pub dx: bool,
    /// The weight's gradient.
    pub dw: bool,
    /// Rank of an update with trained factors, 0 for none.
    pub rank: usize,
}

impl Work {
    /// A linear over `rows` rows.
    pub fn linear(&mut self, rows: usize, m: usize, n: usize, wants: Wants) {
        let (rows, m, n, r) = (rows as f64, m as f64, n as f64, wants.rank as f64);
        self.large += 2.0 * rows * m * n * (1 + wants.dx as u8 + wants.dw as u8) as f64;
        self.thin += 4.0 * rows * r * (m + n) + 2.0 * m * n * r;
    }

    /// Attention of `heads` heads of `width` over `batch` sequences of `tokens`.
    pub fn attention(
        &mut self,
        batch: usize,
        heads: usize,
        tokens: usize,
        width: usize,
        causal: bool,
    ) {
        let whole = 12.0 * (batch * heads * width) as f64 * (tokens as f64).powi(2);
        self.attention += if causal { whole / 2.0 } else { whole };
    }

    /// All FLOPs.
    pub fn total(&self) -> f64 {
        self.large + self.thin + self.attention
    }
}

/// The same of a GPU's default product.
///
/// # Errors
/// The device's own.
pub fn rate_on(cuda: &Cuda, device: &Device, [rows, m, n]: [usize; 3]) -> Result<f64> {
    // A chip draws less power, and so runs faster, on numbers that are all alike.
    let x = tensor_on(&[rows, n], 1, device)?;
    let w = tensor_on(&[m, n], 2, device)?.t()?;
    let mut seconds = Vec::new();
    for _ in 0..18 {
        cuda.synchronize()?;
        let start = Instant::now();
        black_box(x.matmul(&w)?);
        cuda.synchronize()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(2e-9 * (rows * m * n) as f64 / median(&mut seconds[3..]))
}

/// GFLOP/s of `[rows, n]·[m, n]ᵀ` on the CPU, the median of 15 after a warm-up.
pub fn rate(rows: usize, m: usize, n: usize) -> f64 {
    let (x, w) = (vec![0.5f32; rows * n], vec![0.25f32; m * n]);
    let mut y = vec![0.0f32; rows * m];
    let dims = Dims {
        m: rows,
        n: m,
        k: n,
    };
    let scale = Scale {
        alpha: 1.0,
        beta: 0.0,
    };
    let mut seconds = Vec::new();
    for _ in 0..18 {
        let start = Instant::now();
        gemm(
            dims,
            scale,
            (&x, Layout::row_major(n)),
            (&w, Layout::transposed(n)),
            (&mut y, m),
        );
        seconds.push(start.elapsed().as_secs_f64());
        black_box(&mut y);
    }
    2e-9 * (rows * m * n) as f64 / median(&mut seconds[3..])
}

/// The median; sorts in place.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values {
        [] => f64::NAN,
        _ if values.len() % 2 == 1 => values[half],
        _ => (values[half - 1] + values[half]) / 2.0,
    }
}
