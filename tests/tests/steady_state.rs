//! What a training step takes from the system once training runs: nothing. Alone in its program, since it counts every buffer.

use deltaw_engine::pool::usage;
use deltaw_engine::prelude::*;
use deltaw_models::decoder::{Decoder, DecoderConfig, next_token_loss};
use deltaw_models::methods::Method;
use deltaw_models::methods::adalora::AdaLora;
use deltaw_models::methods::lora::Lora;
use deltaw_models::methods::selective::Full;

const STEPS: u64 = 8;

/// Blocks taken from the system after each step of a small GPT-2.
fn fresh_blocks(method: &dyn Method) -> Vec<usize> {
    let device = Device::cpu();
    let store = Store::new(&device, 0);
    let config = DecoderConfig::gpt2(64, 32, 2, 4, 32);
    let decoder = Decoder::new(&store.root(), &config).unwrap();
    let mut attached = method.attach(&store, &[]).unwrap();
    let ids = Tensor::from_slice(&(0..64u32).collect::<Vec<_>>(), &[2, 32], &device).unwrap();
    let (params, mut optimiser) = (store.trained(), AdamW::new(0.01));
    let step = |step| {
        let logits = decoder.forward(&Context::train(0, step), &ids).unwrap();
        let mut loss = next_token_loss(&logits, &ids, None).unwrap();
        drop(logits);
        if let Some(penalty) = attached.penalty().unwrap() {
            loss = loss.add(&penalty).unwrap();
        }
        let grads = backward(&loss).unwrap();
        optimiser.step(&params, &grads, 1e-3).unwrap();
        attached.after_step(step, STEPS, &grads).unwrap();
        drop((loss, grads));
        usage().fresh_blocks
    };
    (0..STEPS).map(step).collect()
}

#[test]
fn steps_after_the_second_take_no_new_memory() {
    // AdaLoRA prunes from its first step on, so that every kind of its steps is among those counted.
    let adalora = AdaLora {
        initial_phase: 0.0,
        every: 1,
        ..AdaLora::target_rank(2)
    };
    let methods: [(&str, &dyn Method); 3] = [
        ("lora", &Lora::rank(2)),
        ("full", &Full),
        ("adalora", &adalora),
    ];
    for (name, method) in methods {
        let fresh = fresh_blocks(method);
        assert!(
            fresh[2..].iter().all(|count| *count == fresh[1]),
            "{name}: blocks taken by the end of each step: {fresh:?}"
        );
    }
}
