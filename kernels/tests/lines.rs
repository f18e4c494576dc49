//! Every instruction of the row, index, map and update kernels is needed: without it (all its copies in the expanded text) some
//! case must give other bits, fault in the driver's checks, or hang. What the kernels give as they are is compared with the CPU
//! elsewhere.

mod common;

use common::dropped::{self, Case};
use common::{Format, numbers};
use deltaw_kernels::cross_entropy::{self, CrossEntropy};
use deltaw_kernels::gather::{Element, Gather, Scatter, Size};
use deltaw_kernels::gemm::{self, Matrix, Type};
use deltaw_kernels::map::{self, Binary, Function, Map, Operand, Unary};
use deltaw_kernels::norm::{self, Norm};
use deltaw_kernels::reduce::{Fold, Reduce};
use deltaw_kernels::select::{Kind, Select, Step};
use deltaw_kernels::softmax::{self, Kernel, Row, Softmax};
use deltaw_kernels::transpose::Transpose;
use deltaw_kernels::update::{Part, Rule, Update};

/// Instructions without which nothing changes, and why.
const SPARE: &[(&str, &str)] = &[
    ("reduce.ptx: setp.eq.u32 %p, %column, 0;", ALL_HAVE_IT),
    ("norm.ptx: setp.eq.u32 %p, %lane, 0;", ALL_HAVE_IT),
    ("select.ptx: setp.eq.u32 %p, %lane, 0;", ALL_HAVE_IT),
    ("select_radix.ptx: setp.eq.u32 %p, %thread, 0;", ALL_HAVE_IT),
    (
        "select_radix.ptx: setp.ne.u32 %p, %t0, 0;",
        "counts of 0 would be added",
    ),
    (
        "map.ptx: bra END;",
        "a whole chunk would be stored again, one by one",
    ),
    (
        "scatter.ptx: @!%p bra END;",
        "a warp past the width would go through all of it and store nothing",
    ),
];

const ALL_HAVE_IT: &str = "all lanes have what one of them stores";

fn all_are_needed(files: &[&str], cases: &[Case]) {
    dropped::all_are_needed(files, cases, SPARE);
}

/// A launch, whose addresses come from `Memory`.
macro_rules! launch {
    ($memory:ident, $call:expr) => {{
        let call = $call;
        let gpu = $memory.gpu;
        // SAFETY: the operands lie in `memory`, which is kept until it has been read.
        unsafe { call.launch(&gpu.kernels, &gpu.stream) }
    }};
}

fn reduces() -> Vec<Case> {
    let sizes = [
        ([3, 10, 1], 4),
        ([2, 301, 1], 100),
        ([5, 256, 1], 256),
        ([2, 9, 5], 4),
        ([2, 9, 140], 4),
    ];
    let case = |fold: Fold, size: [usize; 3], part: usize| {
        let call = move |x, y| Reduce {
            fold,
            size,
            part,
            x,
            y,
        };
        let variant = call(0, 0).variant();
        Case {
            name: variant.name(),
            ptx: variant.expand().unwrap(),
            launch: Box::new(move |memory| {
                let [outer, n, inner] = size;
                let x = memory.numbers(outer * n * inner, 1);
                let y = memory.numbers(outer * n.div_ceil(part) * inner, 2);
                launch!(memory, call(x, y))
            }),
        }
    };
    sizes
        .into_iter()
        .flat_map(|(size, part)| Fold::ALL.map(|fold| case(fold, size, part)))
        .collect()
}

/// The second pass of a split product, in six parts.
fn folds() -> Vec<Case> {
    let [batch, m, n, parts] = [2, 9, 13, 6];
    let case = |variant: gemm::Fold| Case {
        name: variant.name(),
        ptx: variant.expand().unwrap(),
        launch: Box::new(move |memory| {
            let format = Format::from(variant.output);
            let mut place =
                |count: usize, seed| memory.bytes(&format.encode(&numbers(count, seed)));
            let matrix = |pointer| Matrix {
                pointer,
                stride: n + 2,
                batch_stride: m * (n + 2) + 1,
                transposed: false,
            };
            let size = batch * (m * (n + 2) + 1);
            let (y, r, bias) = (place(size, 1), place(size, 2), place(n, 3));
            let product = gemm::Gemm {
                operands: Type::F32,
                output: variant.output,
                m,
                n,
                k: 64 * parts - 1,
                batch,
                a: matrix(0),
                b: matrix(0),
                extension: None,
                alpha: 1.5,
                bias: variant.bias.then_some(bias),
                activation: variant.activation,
                residual: variant.residual.then_some((-0.75, matrix(r))),
                y: matrix(y),
                split: None,
            };
            let sums = memory.numbers(parts * batch * m * n, 4);
            let gpu = memory.gpu;
            // SAFETY: the operands lie in `memory`, which is kept until it has been read.
            unsafe { product.fold(64, sums, &gpu.kernels, &gpu.stream) }
        }),
    };
    gemm::Fold::all().into_iter().map(case).collect()
}

fn indices(count: usize, below: usize) -> Vec<u32> {
    (0..count)
        .map(|i| ((i * i * 5 + i) % below) as u32)
        .collect()
}

fn gathers() -> Vec<Case> {
    let gather = |size: Size, elements: [Element; 2]| {
        let call = move |x, index, out| Gather {
            size,
            elements,
            x,
            index,
            out,
        };
        let variant = call(0, 0, 0).variant();
        let Size { rows, n, k, width } = size;
        Case {
            name: variant.name(),
            ptx: variant.expand().unwrap(),
            launch: Box::new(move |memory| {
                let x = memory.numbers(rows * n * width * 2, 1);
                let index = memory.indices(&indices(rows * k, n));
                let out = memory.numbers(rows * k * width * 2, 3);
                launch!(memory, call(x, index, out))
            }),
        }
    };
    let size = |rows, n, k, width| Size { rows, n, k, width };
    let scatter = |size: Size| Case {
        name: Scatter::NAME.into(),
        ptx: Scatter::expand().unwrap(),
        launch: Box::new(move |memory| {
            let Size { rows, n, k, width } = size;
            let src = memory.numbers(rows * k * width, 1);
            let index = memory.indices(&indices(rows * k, n));
            let out = memory.numbers(rows * n * width, 3);
            launch!(
                memory,
                Scatter {
                    size,
                    src,
                    index,
                    out
                }
            )
        }),
    };
    let f32s = [Element::F32; 2];
    vec![
        gather(size(2, 7, 5, 12), f32s),
        gather(size(3, 7, 50, 5), f32s),
        gather(size(1, 7, 50, 8), [Element::Bf16, Element::F32]),
        gather(size(2, 7, 50, 3), [Element::F16, Element::F32]),
        scatter(size(1, 61, 70, 5)),
        scatter(size(3, 9, 40, 140)),
        scatter(size(2, 50, 33, 1)),
    ]
}

fn selects() -> Vec<Case> {
    let select = |kind: Kind, rows: usize, n: usize, k: usize| Case {
        name: kind.name().into(),
        ptx: kind.expand().unwrap(),
        launch: Box::new(move |memory| {
            let odd = [f32::NAN, -0.0, 0.0, -3.0, f32::NEG_INFINITY, 0.0, 0.5, 0.5];
            let values = numbers(rows * n, 5).into_iter().enumerate();
            let values = values.map(|(i, x)| if i % 3 == 0 { odd[i / 3 % 8] } else { x });
            let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
            let x = memory.bytes(&bytes);
            let (values, indices) = (
                memory.numbers(rows * k.max(1), 2),
                memory.numbers(rows * k.max(1), 3),
            );
            launch!(
                memory,
                Select {
                    kind,
                    rows,
                    n,
                    k,
                    x,
                    values,
                    indices,
                    scratch: 0
                }
            )
        }),
    };
    vec![
        select(Kind::Top, 5, 70, 9),
        select(Kind::Top, 3, 5, 5),
        select(Kind::Kth, 3, 700, 300),
        select(Kind::Kth, 2, 40, 39),
        select(Kind::Kth, 2, 40, 0),
        select(Kind::Kth, 2, 41, 8),
    ]
}

/// Rows long enough for several blocks, of few different numbers, so that equal keys decide by their index.
fn long_selects() -> Vec<Case> {
    let select = |step: Step, kind: Kind, rows: usize, n: usize, k: usize| Case {
        name: step.name().into(),
        ptx: step.expand().unwrap(),
        launch: Box::new(move |memory| {
            let odd = [f32::NAN, -0.0, 0.0, -3.0, f32::NEG_INFINITY, 0.5];
            let values = numbers(rows * n, 5).into_iter().enumerate();
            let values = values.map(|(i, x)| match i % 3 {
                0 => odd[i / 3 % 6],
                1 => (x * 4.0).round(),
                _ => x,
            });
            let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
            let mut call = Select {
                kind,
                rows,
                n,
                k,
                x: memory.bytes(&bytes),
                values: memory.numbers(rows * k.max(1), 2),
                indices: memory.numbers(rows * k.max(1), 3),
                scratch: 0,
            };
            assert!(call.by_digits());
            // Not among what is compared: candidates come in any order.
            let (_scratch, address) = memory.gpu.fresh(call.scratch_bytes());
            call.scratch = address;
            launch!(memory, call)
        }),
    };
    let tops = [Step::Count, Step::Take, Step::Rank];
    let mut all: Vec<_> = tops
        .map(|step| select(step, Kind::Top, 2, 4201, 300))
        .into();
    all.extend([Step::Count, Step::Value].map(|step| select(step, Kind::Kth, 2, 16_501, 7000)));
    all
}

fn updates() -> Vec<Case> {
    let update = |rule: Rule| Case {
        name: rule.name().into(),
        ptx: rule.expand().unwrap(),
        launch: Box::new(move |memory| {
            let parts = [(5, false), (300, true), (130, false)].map(|(n, masked)| {
                let mask: Vec<u8> = (0..n)
                    .flat_map(|i| ((i % 3) as f32).to_le_bytes())
                    .collect();
                Part {
                    n,
                    w: memory.numbers(n, n as u64),
                    g: memory.numbers(n, n as u64 + 1),
                    mask: masked.then(|| memory.bytes(&mask)),
                    slots: [memory.numbers(n, 3), memory.bytes(&[0x3e; 1200][..4 * n])],
                    step: [0.01 * n as f32, 1.5, 0.9],
                }
            });
            let parts = parts.to_vec();
            launch!(memory, Update { rule, parts })
        }),
    };
    // An ε that shows.
    let visible = |rule| match rule {
        Rule::Adam { beta1, beta2, .. } => Rule::Adam {
            beta1,
            beta2,
            eps: 0.25,
        },
        rule => rule,
    };
    Rule::ALL.map(|rule| update(visible(rule))).into()
}

/// A softmax or a gradient of numbers up to `scale`.
fn softmax(variant: softmax::Variant, rows: usize, n: usize, scale: f32) -> Case {
    let row = Row::of(n);
    let kernel = Kernel { variant, row };
    Case {
        name: kernel.name(),
        ptx: kernel.expand().unwrap(),
        launch: Box::new(move |memory| {
            let [x, y, dy] = [1, 2, 3].map(|seed| {
                let x = numbers(rows * n, seed).into_iter().map(|x| x * scale);
                memory.bytes(&x.flat_map(f32::to_le_bytes).collect::<Vec<u8>>())
            });
            launch!(
                memory,
                Softmax {
                    variant,
                    rows,
                    n,
                    x,
                    y,
                    dy
                }
            )
        }),
    }
}

fn rows() -> Vec<Case> {
    let mut all = vec![];
    // Rows that a warp and a block keep, and one that is walked over: no such row is needed to see what each line does.
    for (rows, n) in [(5, 3), (6, 70), (2, 1500), (1, Row::MOST + 5)] {
        all.extend(softmax::Variant::ALL.map(|variant| softmax(variant, rows, n, 1.0)));
    }
    // The largest come last, or first, and sums fade.
    all.extend(softmax::Variant::ALL.map(|variant| softmax(variant, 2, 300, 40.0)));
    for (rows, n) in [(5, 3), (6, 70)] {
        for (kind, smoothing) in cross_entropy::Kind::ALL
            .into_iter()
            .flat_map(|kind| [(kind, 0.0), (kind, 0.2)])
        {
            all.push(Case {
                name: kind.name().into(),
                ptx: kind.expand().unwrap(),
                launch: Box::new(move |memory| {
                    let weights: Vec<u8> = (0..rows)
                        .flat_map(|i| (i as f32 * 0.25).to_le_bytes())
                        .collect();
                    // The row of weight 0 holds an infinity.
                    let mut z = numbers(rows * n, 1);
                    z[1] = f32::INFINITY;
                    z[2 * n - 1] = f32::NEG_INFINITY;
                    let z: Vec<u8> = z.into_iter().flat_map(f32::to_le_bytes).collect();
                    let call = CrossEntropy {
                        z: memory.bytes(&z),
                        targets: memory.indices(&indices(rows, n)),
                        weights: memory.bytes(&weights),
                        lse: memory.numbers(rows, 4),
                        kind: match kind {
                            cross_entropy::Kind::Loss { .. } => cross_entropy::Kind::Loss {
                                losses: memory.numbers(rows, 5),
                            },
                            cross_entropy::Kind::Gradient { .. } => cross_entropy::Kind::Gradient {
                                dy: memory.numbers(1, 6),
                            },
                        },
                        rows,
                        n,
                        smoothing,
                    };
                    launch!(memory, call)
                }),
            });
        }
    }
    for variant in norm::Variant::all() {
        for (rows, n, beta) in [(5, 3, 0.0), (130, 7, 0.5), (6, 140, 1.0)] {
            let kind = match variant.kind {
                norm::Kind::Forward { .. } => norm::Kind::Forward { eps: 0.25 },
                norm::Kind::Backward { .. } => norm::Kind::Backward { beta },
                norm::Kind::Columns => norm::Kind::Columns,
            };
            let variant = norm::Variant { kind, ..variant };
            all.push(Case {
                name: variant.name().into(),
                ptx: variant.expand().unwrap(),
                launch: Box::new(move |memory| {
                    let call = Norm {
                        variant,
                        rows,
                        n,
                        x: memory.numbers(rows * n, 1),
                        gain: memory.numbers(n, 2),
                        bias: memory.numbers(n, 3),
                        stats: memory.numbers(2 * rows, 4),
                        dy: memory.numbers(rows * n, 5),
                        // A β of 0 ignores what was there.
                        out: match beta {
                            0.0 => memory.bytes(&vec![0xFF; 8 * rows * n]),
                            _ => memory.numbers((rows * n).max(2 * n * Norm::parts(rows)), 6),
                        },
                    };
                    launch!(memory, call)
                }),
            });
        }
    }
    all
}

fn is_float(element: Element) -> bool {
    matches!(element, Element::F32 | Element::Bf16 | Element::F16)
}

/// Views of [3, 5, n] with rows of 12 elements: contiguous, repeated and every second element.
fn maps() -> Vec<Case> {
    let f32 = Element::F32;
    let case = |function: Function, n: usize, steps: [usize; 4], types: [Element; 2]| {
        // Nothing lies behind the last row's gap.
        let count = if steps[3] == 9 { n } else { 480 };
        let shape = if steps[3] == 9 {
            vec![n]
        } else {
            vec![3, 5, n]
        };
        let operand = move |pointer, element, step: usize| {
            let mut strides = [0; map::MAX_RANK];
            if steps[3] == 9 {
                strides[0] = 1;
            } else {
                (strides[0], strides[1], strides[2]) = (160, 32, step);
            }
            Operand {
                pointer,
                element,
                strides,
            }
        };
        let inputs = move |at: &dyn Fn(usize) -> u64| -> Vec<Operand> {
            (0..function.arity())
                .map(|i| operand(at(i), types[0], steps[i]))
                .collect()
        };
        let build = move |at: &dyn Fn(usize) -> u64, out| Map {
            function,
            constants: [-0.3, 0.4],
            shape: shape.clone(),
            out: operand(out, types[1], if steps[3] == 9 { 1 } else { steps[3] }),
            inputs: inputs(at),
        };
        let variant = build(&|_| 0, 0).variant().unwrap();
        Case {
            name: variant.name(),
            ptx: variant.expand().unwrap(),
            launch: Box::new(move |memory| {
                let at = [1, 2, 3].map(|seed| {
                    let mut x = numbers(count, seed);
                    x.iter_mut().step_by(7).for_each(|x| *x = 0.0);
                    let bytes: Vec<u8> = match types[0] {
                        Element::F32 => x.into_iter().flat_map(f32::to_le_bytes).collect(),
                        _ => (0..8 * count).map(|i| (i * 37 % 23) as u8).collect(),
                    };
                    memory.bytes(&bytes)
                });
                let out = memory.bytes(&vec![0x41; 8 * count]);
                launch!(memory, build(&|i| at[i], out))
            }),
        }
    };
    let f32s = [f32; 2];
    let mut all = vec![
        case(Function::Where, 10, [1, 0, 2, 1], f32s),
        case(Function::Where, 12, [0, 2, 1, 2], f32s),
        case(Function::Where, 11, [2, 1, 1, 1], f32s),
        case(Function::MultiplyAdd, 9, [1, 1, 1, 1], f32s),
        case(Function::Unary(Unary::Affine), 601, [1, 1, 1, 9], f32s),
        case(Function::Unary(Unary::Clamp), 601, [1, 1, 1, 9], f32s),
        case(Function::Slope(Unary::Clamp), 601, [1, 1, 1, 9], f32s),
    ];
    all.extend(Binary::ALL.map(|f| case(Function::Binary(f), 601, [1, 1, 1, 9], f32s)));
    for from in Element::ALL {
        for to in Element::ALL {
            // Integers are not made into other integers.
            let possible = from == to || is_float(to) || (is_float(from) && to != Element::I64);
            if possible {
                let ways = [[1, 1, 1, 1], [2, 1, 1, 2]];
                all.extend(ways.map(|steps| case(Function::Copy, 10, steps, [from, to])));
            }
        }
    }
    all
}

#[test]
fn of_reductions() {
    all_are_needed(&["reduce.ptx"], &reduces());
}

#[test]
fn of_split_products() {
    all_are_needed(&["gemm_fold.ptx"], &folds());
}

#[test]
fn of_gathers_and_scatters() {
    all_are_needed(&["gather.ptx", "scatter.ptx", "element.ptx"], &gathers());
}

#[test]
fn of_selections() {
    all_are_needed(&["select.ptx", "select_key.ptx"], &selects());
}

#[test]
fn of_selections_by_digits() {
    all_are_needed(&["select_radix.ptx"], &long_selects());
}

#[test]
fn of_updates() {
    all_are_needed(&["update.ptx"], &updates());
}

#[test]
fn of_kernels_over_rows() {
    all_are_needed(
        &[
            "row.ptx",
            "held.ptx",
            "softmax.ptx",
            "log_sum_exp.ptx",
            "cross_entropy.ptx",
            "norm.ptx",
        ],
        &rows(),
    );
}

/// Elements of every size, two axes more with gaps, ragged tiles.
fn transposes() -> Vec<Case> {
    let case = |element: Element, [height, width]: [usize; 2], others: bool| {
        // in [2, 3, height, width] and out [2, 3, width, height], the matrices in another order and rows longer; or only a matrix, with
        // nothing behind it.
        let gap = if others { 3 } else { 0 };
        let size = (width + gap) * (height + gap);
        let call = move |from, to| {
            let operand = |pointer, all: [usize; 4]| {
                let mut strides = [0; map::MAX_RANK];
                let used = if others { &all[..] } else { &all[2..] };
                strides[..used.len()].copy_from_slice(used);
                Operand {
                    pointer,
                    element,
                    strides,
                }
            };
            let shape = [2, 3, width, height];
            let map = Map {
                function: Function::Copy,
                constants: [0.0; 2],
                shape: if others {
                    shape.to_vec()
                } else {
                    shape[2..].to_vec()
                },
                out: operand(to, [size, 2 * size, height + gap, 1]),
                inputs: vec![operand(from, [3 * size, size, 1, width + gap])],
            };
            Transpose::of(&map).expect("a transposition")
        };
        let variant = call(0, 0).variant;
        Case {
            name: variant.name(),
            ptx: variant.expand().unwrap(),
            launch: Box::new(move |memory| {
                let bytes = if others { 6 } else { 1 } * size * element.bytes();
                let from: Vec<u8> = (0..bytes).map(|i| (i * 131 % 251) as u8).collect();
                let (from, to) = (memory.bytes(&from), memory.bytes(&vec![0x55; bytes]));
                launch!(memory, call(from, to))
            }),
        }
    };
    let sizes = [Element::U8, Element::Bf16, Element::F32, Element::I64];
    sizes
        .into_iter()
        .flat_map(|element| {
            [
                case(element, [70, 41], false),
                case(element, [9, 75], true),
                case(element, [66, 8], true),
            ]
        })
        .collect()
}

#[test]
fn of_transposes() {
    all_are_needed(&["transpose.ptx"], &transposes());
}

#[test]
fn of_maps() {
    all_are_needed(&["map.ptx", "element.ptx"], &maps());
}
