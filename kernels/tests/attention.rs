//! The kernels of attention: every instruction is needed, as in `lines.rs`, and what they do is what the formulas say. What they
//! give is compared with f64 elsewhere.

mod common;

use common::dropped::{Case, Memory, all_are_needed};
use common::{Format, Gpu, numbers};
use deltaw_kernels::KernelError;
use deltaw_kernels::attention::{
    Attention, Bias, BiasGradient, Delta, Gradient, Heads, Kind, Variant,
};
use deltaw_kernels::gemm::Type;

/// Sizes, and what there is beside queries, keys and values.
#[derive(Clone, Copy)]
struct Setup {
    operands: Type,
    batch: usize,
    heads: usize,
    tq: usize,
    tk: usize,
    d: usize,
    scale: f32,
    causal: bool,
    /// The first key that is real, if some are not.
    masked: Option<usize>,
    /// Axes on which the bias repeats; none without a bias.
    bias: Option<[bool; 4]>,
    /// Added to the bias and the log-sum-exp.
    level: f32,
    beta: f32,
    /// Which of dk and dv are wanted.
    wanted: [bool; 2],
    parts: usize,
}

const PLAIN: Setup = Setup {
    operands: Type::F32,
    batch: 2,
    heads: 2,
    tq: 70,
    tk: 66,
    d: 6,
    scale: 0.5,
    causal: false,
    masked: None,
    bias: None,
    level: 0.0,
    beta: 0.0,
    wanted: [true; 2],
    parts: 1,
};

/// Adds contiguous `[B, T, H, D]` to the memory.
fn heads(memory: &mut Memory, setup: &Setup, format: Format, t: usize, seed: u64) -> Heads {
    let row = setup.heads * setup.d;
    Heads {
        pointer: memory.bytes(&format.encode(&numbers(setup.batch * t * row, seed))),
        batch: t * row,
        head: setup.d,
        token: row,
    }
}

/// The same for a result: numbers to add to, or NaN to be overwritten.
fn result(memory: &mut Memory, setup: &Setup, t: usize, seed: u64) -> Heads {
    let size = setup.batch * t * setup.heads * setup.d;
    let filled = heads(memory, setup, Format::F32, t, seed);
    if setup.beta != 0.0 {
        return filled;
    }
    Heads {
        pointer: memory.bytes(&vec![0xFF; 4 * size]),
        ..filled
    }
}

fn floats(memory: &mut Memory, values: &[f32]) -> u64 {
    memory.bytes(&Format::F32.encode(values))
}

impl Setup {
    fn raised(&self, count: usize, seed: u64) -> Vec<f32> {
        numbers(count, seed)
            .iter()
            .map(|x| x + self.level)
            .collect()
    }

    fn attention(&self, memory: &mut Memory) -> Attention {
        let sizes = [self.batch, self.heads, self.tq, self.tk];
        let bias = self.bias.map(|repeats| {
            let size = |i: usize| if repeats[i] { 1 } else { sizes[i] };
            let step = |i: usize| (i + 1..4).map(size).product::<usize>();
            Bias {
                pointer: floats(memory, &self.raised((0..4).map(size).product(), 4)),
                strides: std::array::from_fn(|i| if repeats[i] { 0 } else { step(i) }),
            }
        });
        // The first sample has no key at all, the others none here and there.
        let first = self.masked.unwrap_or(0);
        let real: Vec<f32> = (0..self.batch * self.tk)
            .map(|i| f32::from(i / self.tk > 0 && i % self.tk >= first && i % 3 != 1))
            .collect();
        Attention {
            operands: self.operands,
            batch: self.batch,
            heads: self.heads,
            tq: self.tq,
            tk: self.tk,
            d: self.d,
            scale: self.scale,
            causal: self.causal,
            q: heads(memory, self, self.operands.into(), self.tq, 1),
            k: heads(memory, self, self.operands.into(), self.tk, 2),
            v: heads(memory, self, self.operands.into(), self.tk, 3),
            mask: self.masked.map(|_| floats(memory, &real)),
            bias,
        }
    }

    fn launch(&self, kind: Kind, memory: &mut Memory) -> Result<(), KernelError> {
        let attention = self.attention(memory);
        let rows = self.batch * self.heads * self.tq;
        let gpu = memory.gpu;
        let (kernels, stream) = (&gpu.kernels, &gpu.stream);
        if kind == Kind::Forward {
            let (o, lse) = (result(memory, self, self.tq, 7), memory.numbers(rows, 8));
            // SAFETY: the operands lie in `memory`, which is kept until it has been read.
            return unsafe { attention.forward(o, lse, kernels, stream) };
        }
        // Some rows saw nothing.
        let mut lse = self.raised(rows, 9);
        lse.iter_mut()
            .step_by(5)
            .for_each(|lse| *lse = f32::NEG_INFINITY);
        let wanted = |which: usize| kind == Kind::Keys && self.wanted[which];
        let shape: [usize; 4] = match self.bias {
            Some(repeats) => {
                let sizes = [self.batch, self.heads, self.tq, self.tk];
                std::array::from_fn(|i| if repeats[i] { 1 } else { sizes[i] })
            }
            None => [0; 4],
        };
        let dbias = (kind == Kind::Bias).then(|| BiasGradient {
            pointer: memory.bytes(&vec![
                0xFF;
                4 * self.parts * shape.iter().product::<usize>()
            ]),
            parts: self.parts,
            shape,
        });
        let gradient = Gradient {
            o: heads(memory, self, Format::F32, self.tq, 5),
            dy: heads(memory, self, self.operands.into(), self.tq, 6),
            lse: floats(memory, &lse),
            delta: memory.numbers(rows, 10),
            dq: (kind == Kind::Queries).then(|| result(memory, self, self.tq, 11)),
            dk: wanted(0).then(|| result(memory, self, self.tk, 12)),
            dv: wanted(1).then(|| result(memory, self, self.tk, 13)),
            beta: self.beta,
            dbias,
        };
        // SAFETY: as above.
        unsafe { attention.backward(&gradient, kernels, stream) }
    }

    fn case(self, kind: Kind) -> Case {
        let variant = Variant {
            kind,
            operands: self.operands,
            width: 32,
            chunks: self.d.is_multiple_of(16 / self.operands.bytes()),
            biased: self.bias.is_some(),
            small: self.operands == Type::F32
                && kind != Kind::Bias
                && self.tq.max(self.tk) <= Variant::SMALL,
        };
        Case {
            name: variant.name(),
            ptx: variant.expand().unwrap(),
            launch: Box::new(move |memory| self.launch(kind, memory)),
        }
    }
}

/// Whole chunks and single elements, ragged tiles, everything that hides keys, more keys than queries and fewer.
fn setups() -> Vec<Setup> {
    vec![
        Setup {
            causal: true,
            masked: Some(0),
            bias: Some([false; 4]),
            ..PLAIN
        },
        Setup {
            tq: 66,
            tk: 140,
            d: 20,
            causal: true,
            beta: 0.5,
            ..PLAIN
        },
        Setup {
            tq: 140,
            tk: 70,
            causal: true,
            beta: -1.0,
            ..PLAIN
        },
        Setup {
            tq: 3,
            tk: 140,
            d: 8,
            masked: Some(65),
            wanted: [false, true],
            ..PLAIN
        },
        Setup {
            tq: 9,
            tk: 5,
            d: 4,
            level: -300.0,
            bias: Some([false; 4]),
            wanted: [true, false],
            ..PLAIN
        },
    ]
}

/// The same on the tensor cores, whose chunks of 16-bit elements are of 8; forward factors below 0 and 0 and tiles that are seen whole, and
/// of queries that keys walk over so many tiles that both stages are used again.
fn on_tensor_cores(setups: &[Setup], kind: Kind) -> Vec<Setup> {
    let wide = |setup: &Setup| Setup {
        d: if setup.d.is_multiple_of(4) {
            setup.d.next_multiple_of(8)
        } else {
            setup.d
        },
        ..*setup
    };
    let more = match kind {
        Kind::Forward => vec![
            Setup {
                tk: 200,
                d: 24,
                scale: -0.5,
                ..PLAIN
            },
            Setup {
                scale: 0.0,
                causal: true,
                ..PLAIN
            },
        ],
        Kind::Keys => vec![Setup { tq: 140, ..PLAIN }],
        _ => vec![],
    };
    let all: Vec<Setup> = setups.iter().map(wide).chain(more).collect();
    let of = |operands| all.iter().map(move |setup| Setup { operands, ..*setup });
    of(Type::Bf16).chain(of(Type::Tf32)).collect()
}

/// In exact f32, then on the tensor cores.
fn cases(setups: Vec<Setup>, kind: Kind) -> Vec<Case> {
    let tensor = on_tensor_cores(&setups, kind);
    let all = setups.into_iter().chain(tensor);
    all.map(|setup| setup.case(kind)).collect()
}

/// The kernels' files beside their own.
const SHARED: [&str; 3] = [
    "attention_tile.ptx",
    "attention_fma.ptx",
    "attention_mma.ptx",
];

fn needed(file: &str, setups: Vec<Setup>, kind: Kind) {
    let files = [&[file], &SHARED[..]].concat();
    all_are_needed(&files, &cases(setups, kind), SPARE);
}

const WHOLE: &str = "what is hidden would be looked for where nothing is";
const PAST: &str = "tiles past the last key would be walked over, all hidden";
const UNUSED: &str = "a tile would be copied that is not used";

/// Instructions without which nothing changes, and why.
const SPARE: &[(&str, &str)] = &[
    ("attention_tile.ptx: @%whole bra SEEN;", WHOLE),
    ("attention_tile.ptx: add.s32 %t1, %m0, %off;", WHOLE),
    ("attention_tile.ptx: not.pred %p, %causal;", WHOLE),
    ("attention_tile.ptx: or.pred %whole, %whole, %p;", WHOLE),
    ("attention_tile.ptx: not.pred %p, %masked;", WHOLE),
    ("attention_tile.ptx: min.u32 %t0, %t0, %tq;", PAST),
    ("attention_fma.ptx: @!%more bra LAST_K;", UNUSED),
    ("attention_fma.ptx: @!%more bra LAST_V;", UNUSED),
    ("attention_tile.ptx: add.s32 %t0, %m0, %off;", WHOLE),
    (
        "attention_tile.ptx: selp.b32 %t0, %t0, %tk, %causal;",
        WHOLE,
    ),
    ("attention_tile.ptx: setp.ge.s32 %p, %n0, %turning;", WHOLE),
    ("attention_tile.ptx: @%p bra SECOND;", WHOLE),
    (
        "attention_tile.ptx: setp.lt.and.s32 %p, %n0, %turning, %more;",
        WHOLE,
    ),
    ("attention_tile.ptx: @%p bra FIRST;", WHOLE),
    ("attention_tile.ptx: @!%more bra WALKED;", PAST),
    ("attention_mma.ptx: @!%more bra LAST_0;", UNUSED),
    (
        "attention_gradient.ptx: selp.b32 %turning, %turning, 0, %causal;",
        WHOLE,
    ),
    ("attention_gradient.ptx: @!%more bra LAST_0;", UNUSED),
    ("attention_gradient.ptx: @!%more bra LAST_1;", UNUSED),
    (
        "attention_delta.ptx: setp.eq.u32 %p, %lane, 0;",
        "all lanes have what one of them stores",
    ),
];

#[test]
fn of_forward() {
    needed("attention.ptx", setups(), Kind::Forward);
}

#[test]
fn of_the_gradient_of_queries() {
    needed("attention_gradient.ptx", setups(), Kind::Queries);
}

#[test]
fn of_the_gradients_of_keys_and_values() {
    needed("attention_gradient.ptx", setups(), Kind::Keys);
}

#[test]
fn of_the_gradient_of_a_bias() {
    let setups = vec![
        Setup {
            causal: true,
            masked: Some(0),
            bias: Some([true, false, false, false]),
            ..PLAIN
        },
        Setup {
            batch: 3,
            tq: 68,
            tk: 65,
            d: 12,
            bias: Some([true, true, true, false]),
            parts: 2,
            ..PLAIN
        },
        Setup {
            tq: 66,
            tk: 140,
            causal: true,
            bias: Some([false, true, false, true]),
            parts: 2,
            ..PLAIN
        },
        Setup {
            tq: 5,
            tk: 70,
            bias: Some([true, true, false, true]),
            ..PLAIN
        },
        Setup {
            tq: 3,
            tk: 140,
            masked: Some(65),
            bias: Some([true, false, false, false]),
            ..PLAIN
        },
        Setup {
            tq: 9,
            tk: 5,
            d: 4,
            level: -300.0,
            bias: Some([false; 4]),
            ..PLAIN
        },
    ];
    needed("attention_bias.ptx", setups, Kind::Bias);
}

#[test]
fn of_delta() {
    let case = |operands| {
        let setup = Setup {
            operands,
            batch: 3,
            heads: 3,
            d: 40,
            tq: 5,
            tk: 3,
            ..PLAIN
        };
        Case {
            name: Delta(operands).name(),
            ptx: Delta(operands).expand().unwrap(),
            launch: Box::new(move |memory| setup.launch(Kind::Queries, memory)),
        }
    };
    let cases = [Type::F32, Type::Bf16].map(case);
    all_are_needed(&["attention_delta.ptx"], &cases, SPARE);
}

/// On whole tiles bytes are the formula's to the byte and their sectors the fewest to a twentieth, no lanes meet in a bank of shared
/// memory, and the FLOPs beside the products' are those of the exponentials and of the fading sums: some 8 a score, of 4 D at least.
#[test]
fn whole_tiles_do_what_the_formulas_say() {
    for operands in [Type::F32, Type::Tf32, Type::Bf16] {
        for d in Variant::WIDTHS {
            for kind in [Kind::Forward, Kind::Queries, Kind::Keys] {
                for causal in [false, true] {
                    whole_tiles(operands, d, kind, causal);
                }
            }
        }
    }
}

fn whole_tiles(operands: Type, d: usize, kind: Kind, causal: bool) {
    // Of exact f32 a tile has up to 64 rows, or 48; on the tensor cores 128.
    let size = if operands == Type::F32 { 192 } else { 256 };
    let setup = Setup {
        operands,
        batch: 1,
        tq: size,
        tk: size,
        d,
        causal,
        ..PLAIN
    };
    let gpu = Gpu::new(80);
    let mut memory = Memory::new(&gpu);
    setup.launch(kind, &mut memory).unwrap();
    gpu.finish().unwrap();
    let launches = gpu.virtual_device().launches().unwrap();
    let counters = &launches[launches.len() - 1].counters;
    let attention = setup.attention(&mut memory);
    let name = format!("{kind:?} of {d}, {operands:?}, causal {causal}");
    assert_eq!(counters.global.bytes, attention.tile_bytes(kind), "{name}");
    assert!(
        counters.global.efficiency() >= 0.95,
        "{name}: {:?}",
        counters.global
    );
    assert_eq!(
        counters.shared.units, counters.shared.ideal_units,
        "{name}: bank conflicts"
    );
    // Of a tile that causality cuts, what is hidden is computed too.
    if !causal {
        let products = if operands == Type::F32 {
            assert_eq!(counters.matrix_flops, 0, "{name}");
            attention.flops(kind)
        } else {
            assert_eq!(counters.matrix_flops, attention.flops(kind), "{name}");
            0
        };
        let beside = counters.float_flops - products;
        let scores = (4 * size * size) as u64 * 2;
        assert!(
            beside <= 7 * scores,
            "{name}: {beside} FLOPs beside the products'"
        );
    }
}
