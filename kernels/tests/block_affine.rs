//! Every instruction of the kernels for block-affine updates is needed as it is: see `lines.rs`.

mod common;

use common::dropped::{Case, all_are_as_needed};
use deltaw_kernels::block_affine::{self, BlockAffine, Element};

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
        ([1, 64 * 216, 64], f32),
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
                let w = memory.weight(rows * n, element);
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
fn every_instruction_is_needed() {
    all_are_as_needed(&["block_affine.ptx"], &block_affines(), &[]);
}
