//! The kernels of attention: on the software driver, all its checks on, against the same composed in f64.

mod common;

use common::{Case, case};
use deltaw_tests::device_as_the_oracle;
use deltaw_tests::gpu::gpu;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

fn compare(case: &Case) {
    let run = |x: &[deltaw_engine::prelude::Tensor]| {
        let y = case.run(x);
        Ok(y.unwrap_or_else(|e| gpu().fail(e)))
    };
    let what = format!("{case:?}");
    device_as_the_oracle(
        &gpu().device,
        &what,
        &case.shapes(),
        case.seed,
        case.kernel_units(),
        run,
    );
}

/// Any width, and more often those that copies by 16 bytes and the kernels' own widths take.
fn widths() -> impl Strategy<Value = usize> {
    prop_oneof![
        1..=130usize,
        (1..=32usize).prop_map(|n| 4 * n),
        Just(64),
        Just(128)
    ]
}

proptest! {
    #![proptest_config(Config { cases: 60, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..Config::default() })]

    /// Sizes up to and past two tiles of 64.
    #[test]
    fn any_attention_is_as_in_f64(case in case(150, widths())) {
        compare(&case);
    }
}

/// In one small tile; over several of keys and of queries, where the largest score moves, and with more keys than queries and fewer.
#[test]
fn over_several_tiles() {
    for (tq, tk, causal, d, bias) in [
        (300, 300, true, 32, None),
        (32, 32, true, 16, None),
        (9, 31, false, 128, Some([false, false, false, true])),
        (40, 300, false, 64, Some([true, true, false, false])),
        (260, 130, true, 64, Some([false, true, true, false])),
        (130, 260, true, 128, Some([true, false, false, true])),
    ] {
        compare(&Case {
            batch: 2,
            heads: 2,
            tq,
            tk,
            d,
            causal,
            masked: !causal,
            bias,
            scale: None,
            packed: false,
            seed: 9,
        });
    }
}
