//! Every instruction of the kernels that make rows of an update, and take their gradients apart, is needed: see `lines.rs`.

mod common;

use common::dropped::{Case, all_are_needed};
use common::{Format, numbers};
use deltaw_kernels::block_affine::{self, BlockAffine, Element};

/// Instructions without which nothing changes, and why.
const SPARE: &[(&str, &str)] = &[
    ("block_affine.ptx: @%kept bra KEPT;", AGAIN),
    ("block_affine.ptx: setp.le.u32 %kept, %b, 64;", AGAIN),
    (
        "block_affine.ptx: min.u32 %end, %end, %t0;",
        "past the last tile nothing exists",
    ),
];

const AGAIN: &str = "R would be loaded again";

/// Each side, ragged and whole, W of each type, walks and parts of several tiles.
fn block_affines() -> Vec<Case> {
    let (f32, bf16, f16) = (Element::F32, Element::Bf16, Element::F16);
    let sizes = [
        ([11, 23, 5], f32),
        ([108, 257, 1], f32),
        ([40, 48, 20], f32),
        ([70, 80, 36], bf16),
        ([70, 268, 132], f32),
        ([45, 50, 41], f16),
        ([61, 660, 60], f32),
    ];
    let case = |kind, ([rows, n, block], element): ([usize; 3], Element)| {
        let call = move |w| BlockAffine {
            rows,
            n,
            block,
            element,
            w,
        };
        let variant = call(0).variant(kind, 0, 0);
        Case {
            name: variant.name(),
            ptx: variant.expand().unwrap(),
            launch: Box::new(move |memory| {
                let format = match element {
                    Element::Bf16 => Format::Bf16,
                    Element::F16 => Format::F16,
                    _ => Format::F32,
                };
                let w = memory.bytes(&format.encode(&numbers(rows * n, 1)));
                let (call, gpu) = (call(w), memory.gpu);
                let squares = call.blocks() * block * block;
                let (r, g) = (memory.numbers(squares, 2), memory.numbers(rows * n, 3));
                let out = memory.numbers(rows * n, 4);
                let parts = call.parts(gpu.kernels.multiprocessors());
                let sums = memory.numbers(parts * squares, 5);
                // SAFETY: the operands lie in `memory`, which is kept until it has been read.
                unsafe {
                    match kind {
                        block_affine::Kind::Produce => {
                            call.produce(r, out, &gpu.kernels, &gpu.stream)
                        }
                        block_affine::Kind::Contract => {
                            call.contract(g, r, sums, &gpu.kernels, &gpu.stream)
                        }
                    }
                }
            }),
        }
    };
    let kinds = [block_affine::Kind::Produce, block_affine::Kind::Contract];
    sizes
        .into_iter()
        .flat_map(|size| kinds.map(|kind| case(kind, size)))
        .collect()
}

#[test]
fn of_block_affine_updates() {
    all_are_needed(&["block_affine.ptx"], &block_affines(), SPARE);
}
