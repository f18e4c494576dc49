//! Random bases and what is made of them against plain loops over the published generator: bit by bit, but for sums over lanes.

mod common;

use std::ops::Range;

use common::dropped::{Case, Memory, all_are_as_needed};
use common::{Format, Gpu, cases, numbers, philox};
use deltaw_kernels::KernelError;
use deltaw_kernels::random_basis::{Bases, Kind, Run, Variant, Window};
use proptest::prelude::*;

const STREAM: [u32; 4] = [1, 0xFFFF_FFF0, 3, 4];

/// Number (row, column) of a basis.
fn number(bases: Bases, row: usize, column: usize) -> f32 {
    let [k0, k1, s2, s3] = STREAM;
    let words = philox([(column / 4) as u32, row as u32, s2, s3], [k0, k1]);
    let u = (words[column % 4] >> 8) as f32 / (1 << 24) as f32;
    match bases {
        Bases::Uniform => u.mul_add(2.0, -1.0) * 3f32.sqrt(),
        Bases::Ternary(s) if u >= 1.0 - 0.5 / s => s.sqrt(),
        Bases::Ternary(s) if u < 0.5 / s => -s.sqrt(),
        Bases::Ternary(_) => 0.0,
    }
}

/// What is launched on: terms of a core of rank r, over a window of columns.
#[derive(Clone, Debug)]
struct Setting {
    bases: Bases,
    columns: Range<usize>,
    /// Rows of a fill.
    rows: Range<usize>,
    terms: Range<usize>,
    all: usize,
    rank: usize,
    small: usize,
}

const SCALE: f32 = 0.75;

impl Setting {
    fn window(&self) -> Window {
        Window {
            bases: self.bases,
            stream: STREAM,
            columns: self.columns.clone(),
        }
    }

    fn run(&self, lambda: u64, gamma: u64) -> Run {
        Run {
            terms: self.terms.clone(),
            all: self.all,
            rank: self.rank,
            small: self.small,
            lambda,
            gamma,
        }
    }

    /// λ, γ, U, dλ, dγ and room for what is made.
    fn sizes(&self) -> [usize; 6] {
        let (width, k) = (self.columns.len(), self.terms.len() * self.rank);
        let (lambda, gamma) = (self.rank * self.all, self.all * self.small);
        [
            lambda,
            gamma,
            k * width,
            lambda,
            gamma,
            width * k.max(self.rows.len()),
        ]
    }

    fn values(&self) -> [Vec<f32>; 6] {
        let mut seed = 0;
        self.sizes().map(|size| {
            seed += 1;
            numbers(size, seed)
        })
    }

    /// Fills, scales or sums.
    ///
    /// # Safety
    /// The addresses must be of so many numbers as [`Setting::sizes`] says.
    unsafe fn launch(&self, gpu: &Gpu, what: Kind, at: [u64; 6]) -> Result<(), KernelError> {
        let (window, run, stream) = (self.window(), self.run(at[0], at[1]), &gpu.stream);
        // SAFETY: the caller's promise.
        unsafe {
            match what {
                Kind::Fill => window.fill(self.rows.clone(), at[5], &gpu.kernels, stream),
                Kind::Scaled => window.scaled(&run, SCALE, at[5], &gpu.kernels, stream),
                _ => window.gradients(&run, at[2], [at[3], at[4]], &gpu.kernels, stream),
            }
        }
    }

    /// The same by plain loops; of dλ the sums of what is added, and of its magnitudes.
    fn apply(&self, what: Kind, values: &mut [Vec<f32>; 6]) -> Vec<[f64; 2]> {
        let width = self.columns.len();
        let at = |i: usize, c: usize| i * width + c;
        if what == Kind::Fill {
            for (i, row) in self.rows.clone().enumerate() {
                for (c, column) in self.columns.clone().enumerate() {
                    values[5][at(i, c)] = number(self.bases, row, column);
                }
            }
            return vec![];
        }
        let mut sums = vec![[0.0; 2]; self.rank * self.all];
        for (i, j) in self.terms.clone().enumerate() {
            for k in 0..self.rank {
                let lambda = values[0][k * self.all + j];
                for (c, column) in self.columns.clone().enumerate() {
                    let (a, at) = (number(self.bases, k, column), at(i * self.rank + k, c));
                    let gamma = values[1][j * self.small + column];
                    if what == Kind::Scaled {
                        values[5][at] = SCALE * lambda * a * gamma;
                        continue;
                    }
                    let ua = values[2][at] * a;
                    values[4][j * self.small + column] += ua * lambda;
                    let part = f64::from(ua) * f64::from(gamma);
                    let sum = &mut sums[k * self.all + j];
                    *sum = [sum[0] + part, sum[1] + part.abs()];
                }
            }
        }
        sums
    }

    /// Launches and compares all memory, and the bytes that went.
    fn check(&self, gpu: &Gpu, what: Kind) {
        let mut values = self.values();
        let uploaded = values
            .each_ref()
            .map(|v| gpu.upload(&Format::F32.encode(v)));
        // SAFETY: the operands are kept until they have been read.
        unsafe { self.launch(gpu, what, uploaded.each_ref().map(|u| u.1)) }.unwrap();
        gpu.finish().unwrap();
        let sums = self.apply(what, &mut values);
        for (i, (slice, _)) in uploaded.iter().enumerate() {
            let got = Format::F32.decode(&gpu.stream.clone_dtoh(slice).unwrap());
            let got = &got[..values[i].len()];
            if i == 3 && !sums.is_empty() {
                for ((got, before), [sum, size]) in got.iter().zip(&values[3]).zip(&sums) {
                    // Each part is rounded once, then goes through the additions of its lane, five joins and the last.
                    let terms = self.columns.len().div_ceil(32) + 4 + 1 + 5 + 1;
                    let bound = (terms as f64) * 2f64.powi(-24) * (size + f64::from(before.abs()));
                    let error = (f64::from(*got) - f64::from(*before) - sum).abs();
                    assert!(
                        error <= bound,
                        "{self:?}: {got} for {sum}, {error:e} of {bound:e}"
                    );
                }
            } else {
                assert_eq!(got, &values[i][..], "{self:?}, {what:?}, array {i}");
            }
        }
        let rows = self.terms.len() * self.rank;
        let bytes = |kind, rows| self.window().bytes(kind, rows, self.rank);
        let wanted = match what {
            Kind::Fill => vec![bytes(what, self.rows.len())],
            Kind::Scaled => vec![bytes(what, rows)],
            _ => vec![bytes(Kind::Gamma, rows), bytes(Kind::Lambda, rows)],
        };
        let launches = gpu.virtual_device().launches().unwrap();
        let last = &launches[launches.len() - wanted.len()..];
        let moved: Vec<u64> = last.iter().map(|l| l.counters.global.bytes).collect();
        assert_eq!(moved, wanted, "{self:?}, {what:?}");
    }
}

const KINDS: [Kind; 3] = [Kind::Fill, Kind::Scaled, Kind::Gamma];

thread_local! {
    static GPU: Gpu = Gpu::new(80);
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn windows_are_parts_of_the_bases(
        ternary in prop_oneof![Just(None), (1.0..9.0f32).prop_map(Some)], start in 0..40usize, width in 1..150usize, fours: bool,
        rows in (0..9usize, 1..9usize), terms in (0..4usize, 1..4usize, 0..3usize), rank in 1..6usize, after in 0..5usize, what in 0..3usize,
    ) {
        let unit = if fours { 4 } else { 1 };
        let columns = start * unit..(start + width.div_ceil(unit)) * unit;
        let setting = Setting {
            bases: ternary.map_or(Bases::Uniform, Bases::Ternary),
            rows: rows.0..rows.0 + rows.1,
            terms: terms.0..terms.0 + terms.1,
            all: terms.0 + terms.1 + terms.2,
            rank,
            small: columns.end + after * unit,
            columns,
        };
        GPU.with(|gpu| setting.check(gpu, KINDS[what]));
    }
}

#[test]
fn whole_blocks_go_in_whole_sectors() {
    let gpu = Gpu::new(80);
    let setting = Setting {
        bases: Bases::Uniform,
        columns: 256..512,
        rows: 3..5,
        terms: 1..3,
        all: 4,
        rank: 2,
        small: 512,
    };
    for what in KINDS {
        setting.check(&gpu, what);
    }
    for launch in gpu.virtual_device().launches().unwrap() {
        let efficiency = launch.counters.global.efficiency();
        // A warp's λ, or one lane's dλ, is a sector for four bytes.
        assert!(efficiency >= 0.85, "{}: {efficiency}", launch.kernel);
    }
}

#[test]
fn more_columns_than_there_are_are_refused() {
    let gpu = Gpu::new(80);
    let window = Window {
        bases: Bases::Uniform,
        stream: STREAM,
        columns: 0..1 << 31,
    };
    // SAFETY: nothing is launched.
    let refused = unsafe { window.fill(0..1, 0, &gpu.kernels, &gpu.stream) }.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("1 rows of columns 0..2147483648"),
        "{refused}"
    );
}

/// Without any one instruction as it is a case gives other bits, moves other bytes, or faults.
#[test]
fn every_instruction_is_needed() {
    let mut all = vec![];
    for variant in Variant::all() {
        let four = variant.chunk == 4;
        let setting = Setting {
            bases: variant.bases,
            columns: if four { 8..156 } else { 5..151 },
            rows: 2..5,
            terms: 1..3,
            all: 4,
            rank: 3,
            small: if four { 160 } else { 155 },
        };
        let what = match variant.kind {
            Kind::Lambda => Kind::Gamma,
            kind => kind,
        };
        all.push(Case {
            name: variant.name(),
            ptx: variant.expand().unwrap(),
            launch: Box::new(move |memory: &mut Memory| {
                let at = setting
                    .values()
                    .each_ref()
                    .map(|v| memory.bytes(&Format::F32.encode(v)));
                // SAFETY: the operands lie in `memory`, which is kept until it has been read.
                unsafe { setting.launch(memory.gpu, what, at) }
            }),
        });
    }
    all_are_as_needed(&["random_basis.ptx", "philox_block.ptx"], &all, &[]);
}
