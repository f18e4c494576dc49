//! Every instruction of the kernels for kernelized-sparse updates is needed as it is: see `lines.rs`. What they give is compared with the CPU
//! elsewhere.

mod common;

use common::dropped::{Case, Memory, all_are_as_needed};
use common::{Format, numbers};
use deltaw_kernels::KernelError;
use deltaw_kernels::kernelized::{
    Element, Kernel, Kernelized, Kind, Rows, Step, Threshold, Values,
};

/// Changes after which nothing else comes out, and why.
const SPARE: &[(&str, &str)] = &[
    (
        "kernelized_threshold.ptx: bar.warp.sync 0xFFFFFFFF;",
        "a lane might read the rank that another has replaced: races are looked for in shared memory alone",
    ),
    ("kernelized_tile.ptx: @%p bra K_NUMBER;", ONE_BY_ONE),
    (
        "kernelized_tile.ptx: add.u32 %until, %chunk, 32;",
        ONE_BY_ONE,
    ),
];

const ONE_BY_ONE: &str = "the outer loop would take the numbers one by one";

/// Rows of an `[m, n]` update of factors with H heads of d numbers.
#[derive(Clone, Copy)]
struct Setting {
    kernel: Kernel,
    values: Values,
    heads: usize,
    d: usize,
    m: usize,
    n: usize,
    rows: Rows,
    /// Made of numbers in [−1, 1).
    factor: fn(f32) -> f32,
}

impl Setting {
    /// The update without its operands.
    fn unplaced(&self) -> Kernelized {
        Kernelized {
            kernel: self.kernel,
            values: self.values,
            threshold: Threshold::Above(0.4),
            m: self.m,
            n: self.n,
            heads: self.heads,
            d: self.d,
            a: 0,
            b: 0,
        }
    }

    fn placed(&self, memory: &mut Memory) -> Kernelized {
        let mut factor = |count: usize, seed| {
            let numbers = numbers(self.heads * count * self.d, seed);
            let made: Vec<f32> = numbers.into_iter().map(self.factor).collect();
            memory.bytes(&Format::F32.encode(&made))
        };
        Kernelized {
            a: factor(self.n, 2),
            b: factor(self.m, 3),
            ..self.unplaced()
        }
    }

    /// Rows or their gradient, the threshold in memory or given.
    fn panel(self, kind: Kind, in_memory: bool) -> Case {
        let variant = self.unplaced().variant(kind, 0, 0);
        let launch = move |memory: &mut Memory| -> Result<(), KernelError> {
            let mut call = self.placed(memory);
            if in_memory {
                call.threshold = Threshold::At(memory.bytes(&0.4f32.to_le_bytes()));
            }
            let (gpu, rows) = (memory.gpu, self.rows);
            let (kernels, stream) = (&gpu.kernels, &gpu.stream);
            let size = rows.count * self.n;
            if let Kind::Produce(element) = kind {
                let w = memory.weight(size, element);
                let out = memory.numbers(size, 4);
                // SAFETY: the operands lie in `memory`, which is kept until it has been read.
                return unsafe { call.produce(rows, (w, element), out, kernels, stream) };
            }
            let g = memory.numbers(size, 1);
            let of = |count: usize| count * self.heads * self.d;
            let gradients = [memory.numbers(of(self.n), 5), memory.numbers(of(self.m), 6)];
            let sums = memory.numbers(call.scratch(rows.count), 7);
            // SAFETY: as above.
            unsafe { call.contract(rows, g, gradients, sums, kernels, stream) }
        };
        Case {
            name: variant.name(),
            ptx: variant.expand().unwrap(),
            launch: Box::new(launch),
        }
    }

    /// The p-quantile, a case for each kernel that takes part.
    fn quantile(self, p: f64) -> impl Iterator<Item = Case> {
        let passes = [Kind::Count, Kind::Above].map(|kind| {
            let variant = self.unplaced().variant(kind, 0, 0);
            (variant.name(), variant.expand().unwrap())
        });
        let steps = Step::ALL.map(|step| (step.name().to_owned(), step.expand().unwrap()));
        let launch = move |memory: &mut Memory| {
            let call = self.placed(memory);
            let state = memory.indices(&vec![0; Kernelized::STATE]);
            let (t, gpu) = (memory.numbers(1, 4), memory.gpu);
            // SAFETY: as in `panel`.
            unsafe { call.quantile(p, (state, t), &gpu.kernels, &gpu.stream) }
        };
        let kernels = passes.into_iter().chain(steps);
        kernels.map(move |(name, ptx)| Case {
            name,
            ptx,
            launch: Box::new(launch),
        })
    }
}

/// So few values that there are ties, and vectors that are equal.
fn quarters(x: f32) -> f32 {
    (4.0 * x).round() / 4.0
}

/// Positive numbers, of which some have products past the largest.
fn huge(x: f32) -> f32 {
    if x > 0.8 { 1e30 } else { x.abs() }
}

/// Of which few are infinite.
fn infinite(x: f32) -> f32 {
    if x > 0.95 { f32::INFINITY } else { x }
}

/// Of which some have products that are no numbers.
fn wild(x: f32) -> f32 {
    if x > 0.9 { f32::INFINITY } else { quarters(x) }
}

/// κ and S each with all else it is combined with; ragged tiles, several of each; heads that end within 32 numbers and past them; rows whose
/// sums go at once and in slices.
fn kernelizeds() -> Vec<Case> {
    let distance = Kernel::Distance { scale: 0.3 };
    let polynomial = Kernel::Polynomial {
        degree: 3,
        shift: 0.25,
    };
    let sigmoid = Kernel::Sigmoid {
        gamma: 0.5,
        shift: -0.1,
    };
    let rbf = Kernel::Rbf { gamma: 0.3 };
    let whole = |kernel| Setting {
        kernel,
        values: Values::Soft,
        heads: 3,
        d: 14,
        m: 101,
        n: 80,
        rows: Rows {
            first: 5,
            count: 70,
        },
        factor: |x| x,
    };
    let ragged = |kernel| Setting {
        heads: 2,
        d: 3,
        n: 75,
        ..whole(kernel)
    };
    let long = |kernel| Setting {
        d: 37,
        ..ragged(kernel)
    };
    let same = |kernel| Setting {
        d: 1,
        factor: quarters,
        ..ragged(kernel)
    };
    let kinds = [Kind::Produce(Element::F32), Kind::Contract];
    let mut all = vec![];
    for kernel in [distance, Kernel::Linear, polynomial, sigmoid, rbf] {
        for (setting, values, in_memory) in [
            (whole(kernel), Values::Soft, false),
            (ragged(kernel), Values::Squared, true),
            (ragged(kernel), Values::All, false),
        ] {
            let setting = Setting { values, ..setting };
            all.extend(kinds.map(|kind| setting.panel(kind, in_memory)));
        }
        all.extend(ragged(kernel).quantile(0.7));
    }
    for kernel in [distance, Kernel::Linear] {
        all.extend(kinds.map(|kind| long(kernel).panel(kind, false)));
    }
    all.push(same(distance).panel(Kind::Contract, false));
    let pulled = Setting {
        values: Values::All,
        factor: infinite,
        ..ragged(Kernel::Linear)
    };
    all.push(pulled.panel(Kind::Contract, false));
    for element in [Element::Bf16, Element::F16] {
        let kind = Kind::Produce(element);
        all.extend([whole(distance), ragged(distance)].map(|s| s.panel(kind, false)));
    }
    // Quantiles between entries and at one, infinities, what is no number, no numbers at all, and more tiles than run at once.
    let linear = ragged(Kernel::Linear);
    for (factor, p) in [
        (quarters as fn(f32) -> f32, 0.0),
        (quarters, 0.31),
        (quarters, 0.5),
        (quarters, 1.0),
        (huge, 0.5),
        (huge, 0.999),
        (wild, 0.5),
    ] {
        all.extend(Setting { factor, ..linear }.quantile(p));
    }
    all.extend(
        Setting {
            d: 0,
            ..ragged(polynomial)
        }
        .quantile(0.5),
    );
    let (heads, d) = (1, 1);
    let thin = Setting {
        heads,
        d,
        m: 64 * 220,
        n: 1,
        ..linear
    };
    all.extend(thin.quantile(0.37));
    let few = Setting {
        heads,
        d,
        m: 3,
        n: 7,
        factor: quarters,
        ..linear
    };
    all.extend([0.31, 0.52, 0.73].into_iter().flat_map(|p| few.quantile(p)));
    all
}

#[test]
fn every_instruction_is_needed() {
    let files = [
        "kernelized.ptx",
        "kernelized_tile.ptx",
        "kernelized_threshold.ptx",
    ];
    all_are_as_needed(&files, &kernelizeds(), SPARE);
}
