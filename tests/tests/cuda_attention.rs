//! The kernels of attention: on the software driver, all its checks on, against the same composed in f64.

mod common;

use common::{Case, case};
use deltaw_benches::attention::{self, Operands};
use deltaw_benches::compare::tensor_on;
use deltaw_engine::prelude::*;
use deltaw_tests::device_as_the_oracle;
use deltaw_tests::gpu::{Gpu, gpu};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};

fn compare(case: &Case) {
    let run = |x: &[Tensor]| {
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

fn by_type() -> impl Strategy<Value = (usize, attention::Case)> {
    let size = || prop_oneof![1 => Just(1usize), 6 => 2..=150usize];
    let sizes = (1..3usize, 1..3usize, size(), size(), widths());
    (
        0..Operands::ALL.len(),
        sizes,
        any::<[bool; 2]>(),
        any::<u64>(),
    )
        .prop_map(
            |(operands, (batch, heads, tq, tk, d), [causal, masked], seed)| {
                let case = attention::Case {
                    batch,
                    heads,
                    tq,
                    tk,
                    d,
                    causal,
                    masked,
                    seed,
                };
                (operands, case)
            },
        )
}

/// The op on the tensor cores, whatever its operands are held in, beside the CPU's in f32. Heads of more than 128 are composed.
#[test]
fn the_tensor_cores_are_near_the_cpu() {
    // Other tests' products stay exact on theirs.
    let gpu = Gpu::new();
    let config = Config {
        cases: 30,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..Config::default()
    };
    let near = |(operands, case): (usize, attention::Case)| {
        let operands = &Operands::ALL[operands];
        let excess = case.excess(operands, &gpu.device);
        let excess = excess.unwrap_or_else(|e| gpu.fail(e));
        prop_assert!(
            excess <= 1.0,
            "{} {case:?}: {excess} of what is allowed",
            operands.name
        );
        Ok(())
    };
    if let Err(e) = TestRunner::new(config).run(&by_type(), near) {
        panic!("{e}");
    }
}

/// With tf32 attention differs from the exact one, until it is no more asked for.
#[test]
fn tf32_is_asked_for() {
    let gpu = Gpu::new();
    let [q, k, v] = [1, 2, 3].map(|seed| tensor_on(&[1, 2, 40, 32], seed, &gpu.device).unwrap());
    let run = || {
        let o = attention(&q, &k, &v, &AttentionOptions::default())?;
        o.contiguous()?.to_vec::<f32>()
    };
    let read = |o: Result<Vec<f32>>| o.unwrap_or_else(|e| gpu.fail(e));
    let exact = read(run());
    let cut = read(attention::on_tensor_cores(&gpu.device, run));
    assert_eq!(read(run()), exact);
    assert_ne!(cut, exact);
}
