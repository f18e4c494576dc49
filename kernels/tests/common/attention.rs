//! Attention with random contents, on the driver and here.

use cudarc::driver::CudaSlice;
use deltaw_kernels::attention::Heads;
use deltaw_kernels::gemm::Type;

use super::near::Near;
use super::{Format, Gpu, numbers};

/// What is computed.
#[derive(Clone, Debug)]
pub struct Case {
    pub operands: Type,
    pub batch: usize,
    pub heads: usize,
    pub tq: usize,
    pub tk: usize,
    pub d: usize,
    pub scale: f32,
    pub causal: bool,
    pub masked: bool,
    /// Axes on which the bias repeats; none without a bias.
    pub bias: Option<[bool; 4]>,
    /// Elements between rows, of NaN.
    pub padding: usize,
    pub beta: f32,
    pub seed: u64,
}

/// `[B, T, H, D]` with a padding after each row, on the device and here.
pub struct Matrix {
    pub format: Format,
    pub tokens: usize,
    pub heads: Heads,
    pub memory: CudaSlice<u8>,
    pub before: Vec<f32>,
}

impl Matrix {
    pub fn new(gpu: &Gpu, case: &Case, format: Format, tokens: usize, seed: u64) -> Matrix {
        let row = case.d + case.padding;
        let mut before = vec![f32::NAN; case.batch * tokens * case.heads * row];
        let random = numbers(before.len(), case.seed ^ seed);
        for (at, x) in before
            .iter_mut()
            .enumerate()
            .filter(|(at, _)| at % row < case.d)
        {
            *x = format.round(random[at]);
        }
        let (memory, pointer) = gpu.upload(&format.encode(&before));
        let heads = Heads {
            pointer,
            batch: tokens * case.heads * row,
            head: row,
            token: case.heads * row,
        };
        Matrix {
            format,
            tokens,
            heads,
            memory,
            before,
        }
    }

    /// Row t of a head.
    pub fn row(&self, case: &Case, head: usize, t: usize) -> Vec<f64> {
        let at = head / case.heads * self.heads.batch
            + head % case.heads * self.heads.head
            + t * self.heads.token;
        let row = &self.before[at..at + case.d];
        row.iter().map(|x| f64::from(*x)).collect()
    }

    /// Whether it is now `wanted`, `[B H, T, D]`, and its padding untouched.
    pub fn check(
        &self,
        gpu: &Gpu,
        case: &Case,
        what: &str,
        wanted: &[Vec<Near>],
    ) -> Result<(), String> {
        let bytes = gpu
            .stream
            .clone_dtoh(&self.memory)
            .map_err(|e| format!("{e:?}"))?;
        let (now, row) = (self.format.decode(&bytes), case.d + case.padding);
        for (at, before) in self.before.iter().enumerate() {
            let (rows, j) = (at / row, at % row);
            let (head, t) = (rows % case.heads, rows / case.heads);
            let (b, t) = (t / self.tokens, t % self.tokens);
            let place = format!("{what}[{b}, {t}, {head}, {j}] of {case:?}");
            if j >= case.d {
                let same = now[at].to_bits() == before.to_bits();
                same.then_some(())
                    .ok_or(format!("{place}: the padding is {}", now[at]))?;
                continue;
            }
            let want = wanted[(b * case.heads + head) * self.tokens + t][j];
            want.allows(now[at])
                .then_some(())
                .ok_or(format!("{place}: {} for {want:?}", now[at]))?;
        }
        Ok(())
    }
}

impl Case {
    /// How factors are cut, and how weights are rounded.
    pub fn cuts(&self) -> (f64, [f64; 2]) {
        match self.operands {
            Type::F32 => (0.0, [0.0; 2]),
            Type::Tf32 => (2f64.powi(-10), [2f64.powi(-10), 0.0]),
            Type::Bf16 => (0.0, [2f64.powi(-8), 0.0]),
            Type::F16 => (0.0, [2f64.powi(-11), 2f64.powi(-25)]),
        }
    }

    pub fn factors(&self, row: &[f64]) -> Vec<Near> {
        let (cut, _) = self.cuts();
        row.iter()
            .map(|x| Near::exact(*x).rounded(cut, 0.0))
            .collect()
    }

    pub fn weight(&self, x: Near) -> Near {
        let (_, [u, least]) = self.cuts();
        x.rounded(u, if x.x == 0.0 && x.e == 0.0 { 0.0 } else { least })
    }

    pub fn bias_shape(&self) -> [usize; 4] {
        let sizes = [self.batch, self.heads, self.tq, self.tk];
        std::array::from_fn(|i| match self.bias {
            Some(repeats) if !repeats[i] => sizes[i],
            _ => 1,
        })
    }

    /// Where in the bias an element of the scores is.
    pub fn bias_at(&self, head: usize, i: usize, j: usize) -> usize {
        let n = self.bias_shape();
        let at = [
            head / self.heads % n[0],
            head % self.heads % n[1],
            i % n[2],
            j % n[3],
        ];
        ((at[0] * n[1] + at[1]) * n[2] + at[2]) * n[3] + at[3]
    }
}
