//! Products on the software driver, all its checks on, against f64.

mod common;

use std::cell::RefCell;

use common::case::{Case, Layout};
use common::{Gpu, cases};
use deltaw_kernels::gemm::{Activation, Output, Type};
use proptest::prelude::*;

fn layout() -> impl Strategy<Value = Layout> {
    // Half of all matrices are as chunks want them.
    let padding = prop_oneof![Just(0usize), Just(8), 0..9usize];
    let shift = prop_oneof![Just(0usize), Just(0), Just(8), 1..9usize];
    (any::<bool>(), padding, shift).prop_map(|(transposed, padding, shift)| Layout {
        transposed,
        padding,
        shift,
    })
}

fn activation() -> impl Strategy<Value = Activation> {
    proptest::sample::select(&Activation::ALL[..])
}

/// Sizes of which many are whole chunks, and many ragged.
fn size(most: usize) -> impl Strategy<Value = usize> {
    prop_oneof![1..most, (0..most / 8).prop_map(|i| 8 * (i + 1))]
}

fn case(operands: Type) -> impl Strategy<Value = Case> {
    let own = match operands {
        Type::Bf16 => Output::Bf16,
        Type::F16 => Output::F16,
        Type::Tf32 | Type::F32 => Output::F32,
    };
    let what = (
        prop_oneof![Just(own), Just(Output::F32)],
        0..3usize,
        (
            size(200),
            size(300),
            prop_oneof![9 => size(150), 1 => Just(0)],
        ),
        1..3usize,
        [layout(), layout(), layout()],
    );
    let around = (
        (
            proptest::option::of((size(80), -2.0..2.0f32)),
            any::<[bool; 2]>(),
        ),
        prop_oneof![Just(1.0f32), -2.0..2.0f32],
        any::<bool>(),
        activation(),
        proptest::option::of((-2.0..2.0f32, any::<bool>())),
        proptest::option::of(prop_oneof![Just(64usize), Just(128)]),
        0..1_000_000u64,
    );
    (what, around).prop_map(
        move |(
            (output, tile, (m, n, k), batch, [a, b, y]),
            ((extension, turned), alpha, bias, activation, residual, split, seed),
        )| Case {
            operands,
            output,
            tile,
            size: [m, n, k],
            batch,
            a,
            b,
            y: Layout {
                transposed: false,
                ..y
            },
            extension,
            turned,
            alpha,
            bias,
            activation,
            residual,
            // A second pair is not split, and no k has no parts.
            split: split.filter(|_| extension.is_none() && k > 0),
            seed,
        },
    )
}

thread_local! {
    static GPU: RefCell<Gpu> = RefCell::new(Gpu::new(80));
}

fn agrees(case: &Case) -> Result<(), TestCaseError> {
    let checked = GPU.with_borrow(|gpu| case.run(gpu, None));
    let checked = checked.and_then(|outcome| outcome.check());
    if checked.is_err() {
        // A fault has killed the context.
        GPU.set(Gpu::new(80));
    }
    checked.map_err(TestCaseError::fail)
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn bf16_is_near_f64(case in case(Type::Bf16)) {
        agrees(&case)?;
    }

    #[test]
    fn f16_is_near_f64(case in case(Type::F16)) {
        agrees(&case)?;
    }

    #[test]
    fn tf32_is_near_f64(case in case(Type::Tf32)) {
        agrees(&case)?;
    }

    #[test]
    fn exact_f32_is_near_f64(case in case(Type::F32)) {
        agrees(&case)?;
    }
}
