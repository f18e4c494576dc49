//! What the kernels do, by the driver's counters, against the formulas.

mod common;

use common::Gpu;
use common::case::Case;
use deltaw_kernels::gemm::{Activation, Gemm, Output, Plan, Tile, Type};

/// The product of a case, its tile, and what its launch did.
fn measure(case: &Case) -> (Gemm, &'static Tile, deltaw_emulator::Counters) {
    let gpu = Gpu::new(80);
    let outcome = case.run(&gpu, None).unwrap();
    outcome.check().unwrap();
    let launches = gpu.virtual_device().launches().unwrap();
    assert_eq!(launches.len(), 1);
    let tiles = outcome.gemm.tiles();
    (
        outcome.gemm,
        &tiles[case.tile],
        launches[0].counters.clone(),
    )
}

const TYPES: [Type; 4] = [Type::Bf16, Type::F16, Type::Tf32, Type::F32];

fn layouts(case: &Case) -> impl Iterator<Item = Case> + '_ {
    [(false, false), (false, true), (true, false), (true, true)]
        .into_iter()
        .map(|(a, b)| {
            let mut case = case.clone();
            (case.a.transposed, case.b.transposed) = (a, b);
            case
        })
}

/// On whole tiles bytes are the formula's to the byte; sectors are at most 5 % more than the bytes need; all products are
/// on the tensor cores but for exact f32; FLOPs beside the formula's are the epilogue's few per element.
#[test]
fn whole_tiles_move_what_the_formula_says() {
    for operands in TYPES {
        for (tile, shape) in Tile::of(operands).iter().enumerate() {
            let mut case = Case::plain(operands, tile, [2 * shape.m, shape.n, 3 * shape.k]);
            (case.bias, case.residual) = (true, Some((0.5, false)));
            for case in layouts(&case) {
                let (gemm, shape, counters) = measure(&case);
                let name = gemm.variant(shape).unwrap().name();
                // The bias is read by every thread for its own columns: once a tile and row of threads, not once.
                let chunk = 16 / gemm.output.bytes();
                let bias = 2 * shape.threads() * chunk - gemm.n;
                let formula = gemm.tile_bytes(shape) + (bias * gemm.output.bytes()) as u64;
                assert_eq!(counters.global.bytes, formula, "{name}");
                assert!(
                    counters.global.efficiency() >= 0.95,
                    "{name}: {:?}",
                    counters.global
                );
                let (on_mma, own) = match operands {
                    Type::F32 => (0, gemm.flops()),
                    _ => (gemm.flops(), 0),
                };
                assert_eq!(counters.matrix_flops, on_mma, "{name}");
                // α and bias in one fused multiply-add, the residual in another.
                assert_eq!(
                    counters.float_flops,
                    own + 4 * (gemm.m * gemm.n) as u64,
                    "{name}"
                );
                assert_eq!(
                    counters.shared.units, counters.shared.ideal_units,
                    "{name}: bank conflicts"
                );
            }
        }
    }
}

/// A ragged product whose rows are whole sectors stays within 1.15 times the tile traffic, with whole tiles counted at the edges.
#[test]
fn ragged_tiles_move_little_more() {
    for operands in TYPES {
        for tile in 0..2 {
            let case = Case::plain(operands, tile, [208, 336, 144]);
            for case in layouts(&case) {
                let (gemm, shape, counters) = measure(&case);
                let name = gemm.variant(shape).unwrap().name();
                let ratio = counters.global.bytes as f64 / gemm.tile_bytes(shape) as f64;
                assert!((0.9..=1.15).contains(&ratio), "{name}: {ratio}");
                assert!(
                    counters.global.efficiency() >= 0.95,
                    "{name}: {:?}",
                    counters.global
                );
            }
        }
    }
}

/// A second pair costs its own tiles, whichever way it lies, and an activation no traffic.
#[test]
fn a_second_pair_costs_its_own_bytes() {
    let mut case = Case::plain(Type::Bf16, 1, [128, 128, 64]);
    case.b.transposed = true;
    (case.extension, case.activation) = (Some((32, 0.5)), Activation::Gelu);
    for turned in [[false; 2], [true, false], [true; 2]] {
        case.turned = turned;
        let (gemm, shape, counters) = measure(&case);
        assert_eq!(counters.global.bytes, gemm.tile_bytes(shape));
        assert_eq!(gemm.tile_bytes(shape), ((128 + 128) * 96 + 128 * 128) * 2);
        assert_eq!(counters.matrix_flops, gemm.flops());
        assert!(counters.global.efficiency() >= 0.95, "{turned:?}");
    }
}

/// Large products take the large tile, small ones enough tiles for the multiprocessors, and those of few tiles and a long k are
/// split.
#[test]
fn the_plan_follows_the_size() {
    let case = |size| {
        let gpu = Gpu::new(80);
        let mut case = Case::plain(Type::Bf16, 2, [64, 64, 32]);
        case.b.transposed = true;
        let mut gemm = case.run(&gpu, None).unwrap().gemm;
        [gemm.m, gemm.n, gemm.k] = size;
        gemm
    };
    let tiles = Tile::of(Type::Bf16);
    let whole = |tile| Plan { tile, chunk: None };
    let large = case([4096, 4096, 4096]);
    assert_eq!(large.plan(108, 166_912), whole(&tiles[0]));
    // An RTX 4090's blocks have 99 KiB of shared memory: not enough for three stages of the large tile.
    assert_eq!(large.plan(128, 101_376), whole(&tiles[1]));
    assert_eq!(case([512, 768, 768]).plan(108, 166_912), whole(&tiles[2]));
    // A low rank's gradient over many tokens: 12 tiles for 108 multiprocessors.
    let thin = case([8, 768, 16_384]);
    let plan = thin.plan(108, 166_912);
    let parts = plan.chunk.map(|chunk| 16_384usize.div_ceil(chunk));
    assert!(parts.is_some_and(|parts| parts >= 9), "{plan:?}");
    assert_eq!(plan.scratch_bytes(&thin), 4 * 8 * 768 * parts.unwrap());
}

/// A split product moves the operands' tiles once, and its sums out and in again.
#[test]
fn a_split_moves_its_sums_twice() {
    for operands in TYPES {
        let tile = &Tile::of(operands)[2];
        let mut case = Case::plain(operands, 2, [2 * tile.m, tile.n, 256]);
        (case.output, case.split, case.batch) = (Output::F32, Some(64), 2);
        let gpu = Gpu::new(80);
        let outcome = case.run(&gpu, None).unwrap();
        outcome.check().unwrap();
        let gemm = outcome.gemm;
        let launches = gpu.virtual_device().launches().unwrap();
        let [first, second] = [0, 1].map(|i| &launches[i].counters);
        let sums = gemm.sums(64, 0);
        assert_eq!(first.global.bytes, sums.tile_bytes(tile));
        let elements = (gemm.batch * gemm.m * gemm.n) as u64;
        assert_eq!(second.global.bytes, (4 + 1) * 4 * elements);
        assert!(second.global.efficiency() >= 0.95, "{:?}", second.global);
        assert_eq!(
            first.shared.units, first.shared.ideal_units,
            "{operands:?}: bank conflicts"
        );
    }
}
