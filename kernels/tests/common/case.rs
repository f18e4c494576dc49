//! A product with random contents, on the driver and in f64.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use deltaw_kernels::gemm::{Activation, Extension, Gemm, Matrix, Output, Type};
use deltaw_kernels::template::Ptx;

use super::{Format, Gpu, numbers};

/// A matrix, or a batch of them, to be stored with a padding after each row and a shift of its start, in elements.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub transposed: bool,
    pub padding: usize,
    pub shift: usize,
}

/// What is multiplied.
#[derive(Clone, Debug)]
pub struct Case {
    pub operands: Type,
    pub output: Output,
    pub tile: usize,
    pub size: [usize; 3],
    pub batch: usize,
    pub a: Layout,
    pub b: Layout,
    pub y: Layout,
    /// k₂ and s, or none.
    pub extension: Option<(usize, f32)>,
    /// Whether A₂ and B₂ lie the other way than A and B.
    pub turned: [bool; 2],
    pub alpha: f32,
    pub bias: bool,
    pub activation: Activation,
    /// β, and whether R is Y itself.
    pub residual: Option<(f32, bool)>,
    /// The length of a part of k.
    pub split: Option<usize>,
    pub seed: u64,
}

/// Rows as they are multiplied, and as they lie in memory.
struct Stored {
    values: Vec<f64>,
    bytes: Vec<u8>,
    matrix: Matrix,
}

/// `batch` matrices of random numbers, NaN between the rows; the pointer is relative.
fn stored(
    format: Format,
    rows: usize,
    columns: usize,
    batch: usize,
    layout: Layout,
    seed: u64,
) -> Stored {
    let (outer, inner) = if layout.transposed {
        (columns, rows)
    } else {
        (rows, columns)
    };
    let stride = inner + layout.padding;
    let size = outer * stride;
    let random = numbers(batch * rows * columns, seed);
    let mut memory = vec![f32::NAN; layout.shift + batch * size];
    let mut values = Vec::with_capacity(random.len());
    for (e, x) in random.into_iter().enumerate() {
        let (z, i, j) = (e / (rows * columns), e / columns % rows, e % columns);
        let (o, i) = if layout.transposed { (j, i) } else { (i, j) };
        let x = format.round(x);
        memory[layout.shift + z * size + o * stride + i] = x;
        values.push(f64::from(x));
    }
    // The last row has no padding after it: memory ends with the matrix.
    if size > 0 {
        memory.truncate(memory.len() - layout.padding);
    }
    let pointer = (layout.shift * format.bytes()) as u64;
    let matrix = Matrix {
        pointer,
        stride,
        batch_stride: size,
        transposed: layout.transposed,
    };
    Stored {
        values,
        bytes: format.encode(&memory),
        matrix,
    }
}

/// The result's memory, and what it may be: value and largest error of each element that is written.
pub struct Outcome {
    pub got: Vec<f32>,
    pub before: Vec<f32>,
    pub wanted: Vec<Option<(f64, f64)>>,
    pub gemm: Gemm,
}

impl Outcome {
    /// The first element that is wrong, if one is.
    pub fn check(&self) -> Result<(), String> {
        for (e, wanted) in self.wanted.iter().enumerate() {
            let got = f64::from(self.got[e]);
            match wanted {
                Some((exact, bound)) => {
                    let error = (got - exact).abs();
                    // A NaN is not within any bound.
                    let within = error <= *bound;
                    if !within {
                        return Err(format!(
                            "element {e}: {got} for {exact}, error {error:e}, bound {bound:e}"
                        ));
                    }
                }
                None if self.got[e].to_bits() == self.before[e].to_bits() => {}
                None => return Err(format!("element {e} outside of Y was overwritten by {got}")),
            }
        }
        Ok(())
    }
}

impl Case {
    /// A plain product of a size.
    pub fn plain(operands: Type, tile: usize, size: [usize; 3]) -> Case {
        let layout = Layout {
            transposed: false,
            padding: 0,
            shift: 0,
        };
        Case {
            operands,
            output: match operands {
                Type::Bf16 => Output::Bf16,
                Type::F16 => Output::F16,
                Type::Tf32 | Type::F32 => Output::F32,
            },
            tile,
            size,
            batch: 1,
            a: layout,
            b: layout,
            y: layout,
            extension: None,
            turned: [false; 2],
            alpha: 1.0,
            bias: false,
            activation: Activation::Identity,
            residual: None,
            split: None,
            seed: 7,
        }
    }

    /// Runs it, the kernel's text changed by `change`.
    pub fn run(
        &self,
        gpu: &Gpu,
        change: Option<&dyn Fn(&Ptx) -> String>,
    ) -> Result<Outcome, String> {
        let [m, n, k] = self.size;
        let (of, out) = (Format::from(self.operands), Format::from(self.output));
        let a = stored(of, m, k, self.batch, self.a, self.seed);
        let b = stored(of, k, n, self.batch, self.b, self.seed + 1);
        let y = stored(out, m, n, self.batch, self.y, self.seed + 2);
        let bias = numbers(n, self.seed + 3)
            .into_iter()
            .map(|x| out.round(x))
            .collect::<Vec<_>>();
        let separate = self.residual.is_some_and(|(_, in_place)| !in_place);
        let r = separate.then(|| stored(out, m, n, self.batch, self.y, self.seed + 4));
        let second = self.extension.map(|(k2, _)| {
            // Rows of k₂ elements without padding, as a low rank has them; one pair for the whole batch.
            let tight = |layout: Layout, turned: bool| Layout {
                padding: 0,
                transposed: layout.transposed != turned,
                ..layout
            };
            let [a2, b2] = [tight(self.a, self.turned[0]), tight(self.b, self.turned[1])];
            let a2 = stored(of, m, k2, 1, a2, self.seed + 5);
            let b2 = stored(of, k2, n, 1, b2, self.seed + 6);
            [a2, b2].map(|x| Stored {
                matrix: Matrix {
                    batch_stride: 0,
                    ..x.matrix
                },
                ..x
            })
        });

        let mut kept = Vec::new();
        let mut place = |x: &Stored| {
            let (slice, address) = gpu.upload(&x.bytes);
            kept.push(slice);
            Matrix {
                pointer: address + x.matrix.pointer,
                ..x.matrix
            }
        };
        let (a_at, b_at, y_at) = (place(&a), place(&b), place(&y));
        let r_at = r.as_ref().map(&mut place);
        let extension = second.as_ref().map(|[a2, b2]| {
            let (k, scale) = self.extension.expect("there is a second pair");
            Extension {
                a: place(a2),
                b: place(b2),
                k,
                scale,
            }
        });
        let (bias_slice, bias_at) = gpu.upload(&out.encode(&bias));
        kept.push(bias_slice);
        let gemm = Gemm {
            operands: self.operands,
            output: self.output,
            m,
            n,
            k,
            batch: self.batch,
            a: a_at,
            b: b_at,
            extension,
            alpha: self.alpha,
            bias: self.bias.then_some(bias_at),
            activation: self.activation,
            residual: self.residual.map(|(beta, _)| (beta, r_at.unwrap_or(y_at))),
            y: y_at,
            split: None,
        };
        let scratch = self
            .split
            .map(|chunk| (chunk, m * n * self.batch * 4 * k.div_ceil(chunk)));
        let scratch = scratch.map(|(chunk, bytes)| (chunk, gpu.fresh(bytes)));
        let words = |e: deltaw_kernels::KernelError| e.to_string();
        let tiles = gemm.tiles();
        let tile = &tiles[self.tile % tiles.len()];
        let first = match &scratch {
            Some((chunk, (_, address))) => gemm.sums(*chunk, *address),
            None => gemm,
        };
        let variant = first.variant(tile).map_err(words)?;
        let shared = tile.shared(self.operands);
        let function = match change {
            None => gpu
                .kernels
                .get(&variant.name(), shared, || variant.expand()),
            Some(change) => {
                let text = change(&variant.expand().map_err(words)?);
                gpu.kernels.load(&variant.name(), shared, &text)
            }
        };
        // SAFETY: the matrices lie in memory of this device, which is kept until the results are read.
        unsafe { first.launch_variant(&variant, &function.map_err(words)?, &gpu.stream) }
            .map_err(words)?;
        if let Some((chunk, (_, address))) = &scratch {
            gpu.finish()?;
            // SAFETY: as above.
            unsafe { gemm.fold(*chunk, *address, &gpu.kernels, &gpu.stream) }.map_err(words)?;
        }
        gpu.finish()?;
        let got = gpu
            .stream
            .clone_dtoh(&kept[2])
            .map_err(|e| format!("{e:?}"))?;

        let before = out.decode(&y.bytes);
        let mut wanted = vec![None; before.len()];
        for (e, old) in y.values.iter().enumerate() {
            let (z, i, j) = (e / (m * n), e / n % m, e % n);
            let old = r.as_ref().map_or(*old, |r| r.values[e]);
            let at = self.y.shift + z * y.matrix.batch_stride + i * y.matrix.stride + j;
            let (x, y) = (&a.values[(z * m + i) * k..][..k], &b.values[z * k * n..]);
            let second = second.as_ref().map(|[a2, b2]| {
                let (k2, s) = self.extension.expect("there is a second pair");
                (&a2.values[i * k2..][..k2], &b2.values[..], f64::from(s))
            });
            let bias = if self.bias { f64::from(bias[j]) } else { 0.0 };
            wanted[at] = Some(self.element((x, y, 1.0), second, [j, n], bias, old));
        }
        Ok(Outcome {
            got: out.decode(&got)[..before.len()].to_vec(),
            before,
            wanted,
            gemm,
        })
    }

    /// An element, and how far the kernel may be from it.
    ///
    /// With u = 2⁻²⁴: each sum of K products errs by at most K u/(1 − K u) Σ|a b| (Higham 2002, §3.1), the second sum by one
    /// more rounding for s; both are one chain, so K = k + k₂ + 1. tf32 cuts a and b by less than 2⁻¹⁰ each. α and bias come in
    /// one rounding. act stretches what has been lost by its largest slope, 1.13, and its own operations (the CPU's, within
    /// 4 ulp; σ at an argument of a rounding's error |2u| 3 u) err relative to act; β R in one rounding; the output in its own.
    fn element(
        &self,
        first: (&[f64], &[f64], f64),
        second: Option<(&[f64], &[f64], f64)>,
        [j, n]: [usize; 2],
        bias: f64,
        old: f64,
    ) -> (f64, f64) {
        const U: f64 = 1.0 / (1 << 24) as f64;
        let (mut sum, mut size, mut terms) = (0.0, 0.0, 1);
        for (a, b, s) in [Some(first), second].into_iter().flatten() {
            for (k, x) in a.iter().enumerate() {
                let product = s * x * b[k * n + j];
                sum += product;
                size += product.abs();
            }
            terms += a.len();
        }
        let terms = terms as f64 * U;
        let cut = if self.operands == Type::Tf32 {
            2f64.powi(-9) + 2f64.powi(-20)
        } else {
            0.0
        };
        let lost = size * (terms / (1.0 - terms) * (1.0 + cut) + cut);
        let alpha = f64::from(self.alpha);
        let x = alpha * sum + bias;
        let lost = alpha.abs() * lost + U * (x.abs() + alpha.abs() * lost);
        let logistic = |x: f64| 1.0 / (1.0 + (-x).exp());
        let argument = (8.0 / PI).sqrt() * (x + 0.044715 * x * x * x);
        let (y, own) = match self.activation {
            Activation::Identity => (x, 0.0),
            Activation::Relu => (x.max(0.0), 0.0),
            Activation::Gelu => (x * 0.5 * libm::erfc(-x * FRAC_1_SQRT_2), 10.0),
            Activation::GeluTanh => (x * logistic(argument), 8.0 + 6.0 * argument.abs()),
            Activation::Silu => (x * logistic(x), 8.0),
        };
        let stretch = if self.activation == Activation::Identity {
            1.0
        } else {
            1.13
        };
        let lost = stretch * lost + own * U * y.abs();
        let (y, lost) = match self.residual {
            Some((beta, _)) => {
                let y = y + f64::from(beta) * old;
                (y, lost + U * (y.abs() + lost))
            }
            None => (y, lost),
        };
        let out = Format::from(self.output);
        let rounding = if out == Format::F32 {
            0.0
        } else {
            out.rounding() * (y.abs() + lost)
        };
        // Below f16's normal numbers, half of its smallest step.
        let step = if out == Format::F16 {
            2f64.powi(-25)
        } else {
            0.0
        };
        (y, lost + rounding.max(step))
    }
}
