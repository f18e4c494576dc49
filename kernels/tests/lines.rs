//! Every instruction of the row, index, map and update kernels is needed: without it (all its copies in the expanded text) some
//! case must give other bits, fault in the driver's checks, or hang. What the kernels give as they are is compared with the CPU
//! elsewhere.

mod common;

use common::dropped::{self, Case};
use common::{Format, numbers};
use deltaw_kernels::cross_entropy::{self, CrossEntropy};
use deltaw_kernels::dropout::Dropout;
use deltaw_kernels::gather::{Element, Gather, Scatter, Size};
use deltaw_kernels::gemm::{self, Matrix, Type};
use deltaw_kernels::map::{self, Binary, Function, Map, Operand, Unary};
use deltaw_kernels::norm::{self, Norm, Sums};
use deltaw_kernels::patches::{self, Patches};
use deltaw_kernels::reduce::{Fold, Reduce};
use deltaw_kernels::rotary::{Axis, Rotary};
use deltaw_kernels::select::{Kind, Select, Step};
use deltaw_kernels::softmax::{self, Kernel, Row, Softmax};
use deltaw_kernels::transpose::Transpose;
use deltaw_kernels::update::{Part, Rule, Update};

/// Instructions without which nothing changes, and why.
const SPARE: &[(&str, &str)] = &[
    ("reduce.ptx: setp.eq.u32 %p, %column, 0;", ALL_HAVE_IT),
    ("norm_walk.ptx: setp.eq.u32 %p, %lane, 0;", ALL_HAVE_IT),
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
                    let z = memory.bytes(&z);
                    let call = CrossEntropy {
                        z,
                        targets: memory.indices(&indices(rows, n)),
                        weights: memory.bytes(&weights),
                        lse: memory.numbers(rows, 4),
                        kind: match kind {
                            cross_entropy::Kind::Loss { .. } => cross_entropy::Kind::Loss {
                                losses: memory.numbers(rows, 5),
                            },
                            cross_entropy::Kind::Gradient { .. } => cross_entropy::Kind::Gradient {
                                // In the logits' place, or not.
                                dz: if n == 3 {
                                    z
                                } else {
                                    memory.numbers(rows * n, 7)
                                },
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
    all
}

/// Rows of whole blocks of four, and others; some is kept and some not.
fn dropouts() -> Vec<Case> {
    let case = |rows: usize, width: usize| {
        let call = move |x, y| Dropout {
            rows,
            width,
            stream: [1, 2, 3, 4],
            keep: 0.4,
            x,
            y,
        };
        let variant = call(0, 0).variant();
        Case {
            name: variant.name(),
            ptx: variant.expand().unwrap(),
            launch: Box::new(move |memory| {
                let x = memory.numbers(rows * width, 1);
                let y = memory.numbers(rows * width, 2);
                launch!(memory, call(x, y))
            }),
        }
    };
    vec![case(3, 7), case(50, 13), case(40, 16)]
}

#[test]
fn of_dropout() {
    all_are_needed(&["dropout.ptx"], &dropouts());
}

/// Windows that share pixels and that do not, and pixels that none shows; groups, padding and gaps; whole fours.
fn patches() -> Vec<Case> {
    let plain = Patches {
        kind: patches::Kind::Forward,
        batch: 2,
        groups: 1,
        channels: 3,
        image: [7, 9],
        kernel: [3, 2],
        stride: [1, 2],
        padding: [1, 0],
        dilation: [1, 1],
        x: 0,
        y: 0,
    };
    let grouped = Patches {
        batch: 3,
        groups: 2,
        channels: 2,
        stride: [2, 1],
        padding: [2, 3],
        dilation: [2, 3],
        ..plain
    };
    let wide = Patches {
        image: [6, 12],
        kernel: [2, 4],
        stride: [1, 4],
        padding: [1, 4],
        ..plain
    };
    let shared = Patches {
        kernel: [4, 8],
        stride: [3, 4],
        padding: [0, 0],
        ..wide
    };
    let case = |call: Patches| {
        let variant = call.variant();
        Case {
            name: variant.name(),
            ptx: variant.expand().unwrap(),
            launch: Box::new(move |memory| {
                let [ho, wo] = call.windows().unwrap();
                let images = call.batch * call.groups * call.channels;
                let (x, y) = (
                    images * call.image[0] * call.image[1],
                    images * ho * wo * call.kernel[0] * call.kernel[1],
                );
                // A β of 0 ignores what was there.
                let x = match call.kind {
                    patches::Kind::Backward { beta: 0.0 } => memory.bytes(&vec![0xFF; 4 * x]),
                    _ => memory.numbers(x, 1),
                };
                let y = memory.numbers(y, 2);
                launch!(memory, Patches { x, y, ..call })
            }),
        }
    };
    let mut all = vec![];
    for call in [plain, grouped, wide, shared] {
        all.push(case(call));
        for beta in [0.0, 0.5] {
            let kind = patches::Kind::Backward { beta };
            all.push(case(Patches { kind, ..call }));
        }
    }
    all
}

#[test]
fn of_patches() {
    all_are_needed(&["patches.ptx"], &patches());
}

/// No axis but the repeated one, one and two; views with gaps; more rows of a place than a thread has.
fn rotaries() -> Vec<Case> {
    let axis = |size, strides| Axis { size, strides };
    let case = |half: usize, axes: &[Axis], back: bool| {
        let axes = axes.to_vec();
        let call = move |x, y, tables| Rotary {
            half,
            axes: axes.clone(),
            back,
            x,
            y,
            tables,
        };
        let variant = call(0, 0, [0; 2]).variant();
        Case {
            name: variant.name(),
            ptx: variant.expand().unwrap(),
            launch: Box::new(move |memory| {
                let all = call(0, 0, [0; 2]).axes;
                let count = |k: usize, row: usize| {
                    let last = all.iter().map(|axis| (axis.size - 1) * axis.strides[k]);
                    last.sum::<usize>() + row
                };
                let x = memory.numbers(count(0, 2 * half), 1);
                // In place where the rows lie alike: what is turned twice shows.
                let alike = all.iter().all(|axis| axis.strides[0] == axis.strides[1]);
                let y = if alike {
                    x
                } else {
                    memory.numbers(count(1, 2 * half), 2)
                };
                let tables = [3, 4].map(|seed| memory.numbers(count(2, half), seed));
                launch!(memory, call(x, y, tables))
            }),
        }
    };
    vec![
        case(3, &[axis(11, [7, 7, 0])], false),
        case(4, &[axis(3, [8, 8, 0])], true),
        case(8, &[axis(10, [80, 96, 0]), axis(5, [16, 16, 8])], true),
        case(5, &[axis(20, [10, 30, 5]), axis(3, [200, 10, 0])], false),
        case(
            4,
            &[
                axis(2, [260, 240, 20]),
                axis(6, [40, 40, 0]),
                axis(5, [8, 8, 4]),
            ],
            false,
        ),
    ]
}

#[test]
fn of_rotations() {
    all_are_needed(&["rotary.ptx"], &rotaries());
}

/// Rows that warps and blocks keep, in one part and in two, and longer ones; with all results, and without either of a gradient's.
fn norms() -> Vec<Case> {
    let case = |step, centred, [rows, n]: [usize; 2], beta: f32, wanted: [bool; 2]| {
        let row = Row::of(n);
        let kernel = norm::Kernel { centred, step, row };
        Case {
            name: kernel.name(),
            ptx: kernel.expand().unwrap(),
            launch: Box::new(move |memory| {
                let [dx, sums] = [rows * n, 2 * n * Norm::parts(rows)].map(|count| {
                    memory.bytes(&vec![if beta == 0.0 { 0xFF } else { 0x3E }; 4 * count])
                });
                let kind = match step {
                    norm::Step::Forward => norm::Kind::Forward {
                        eps: 0.25,
                        bias: memory.numbers(n, 3),
                        y: dx,
                    },
                    _ => norm::Kind::Backward {
                        beta,
                        dy: memory.numbers(rows * n, 5),
                        dx: if wanted[0] { dx } else { 0 },
                        sums: if wanted[1] { sums } else { 0 },
                    },
                };
                let call = Norm {
                    centred,
                    kind,
                    rows,
                    n,
                    x: memory.numbers(rows * n, 1),
                    gain: memory.numbers(n, 2),
                    stats: memory.numbers(2 * rows, 4),
                };
                launch!(memory, call)
            }),
        }
    };
    let (long, both) = (Row::MOST + 5, [true; 2]);
    let mut all = vec![];
    for centred in [true, false] {
        for size in [[5, 3], [20, 140], [18, 1030], [2, long]] {
            all.push(case(norm::Step::Forward, centred, size, 0.0, both));
        }
        let backward = norm::Step::Backward;
        for (size, beta) in [([5, 3], 0.0), ([20, 140], 0.5), ([18, 1030], 1.0)] {
            all.push(case(backward, centred, size, beta, both));
            all.extend(
                [[true, false], [false, true]]
                    .map(|wanted| case(backward, centred, size, beta, wanted)),
            );
        }
        for beta in [0.0, 0.5] {
            all.push(case(backward, centred, [2, long], beta, [true, false]));
        }
        all.push(case(
            norm::Step::Columns,
            centred,
            [17, long],
            0.0,
            [false, true],
        ));
    }
    all
}

fn norm_sums() -> Vec<Case> {
    let case = |parts, n, centred: bool| Case {
        name: Sums::NAME.into(),
        ptx: Sums::expand().unwrap(),
        launch: Box::new(move |memory| {
            let call = Sums {
                parts,
                n,
                sums: memory.numbers(2 * parts * n, 1),
                gain: memory.numbers(n, 2),
                bias: if centred { memory.numbers(n, 3) } else { 0 },
            };
            launch!(memory, call)
        }),
    };
    vec![case(3, 37, true), case(40, 70, true), case(20, 5, false)]
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
        ],
        &rows(),
    );
}

#[test]
fn of_norms() {
    all_are_needed(&["held.ptx", "norm.ptx", "norm_walk.ptx"], &norms());
    all_are_needed(&["norm_sums.ptx"], &norm_sums());
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
