//! Whole training steps on the software driver: from the CPU's state each step gives the CPU's loss, gradients and weights, and takes
//! no new memory once training runs.

use std::collections::BTreeMap;

use deltaw_engine::prelude::*;
use deltaw_engine::tape::Gradients;
use deltaw_models::decoder::next_token_loss;
use deltaw_models::encoder::{Encoder, EncoderConfig, EncoderFamily};
use deltaw_models::methods::Method;
use deltaw_models::methods::adalora::AdaLora;
use deltaw_models::methods::lora::Lora;
use deltaw_models::methods::selective::Full;
use deltaw_tests::gpu::Gpu;
use deltaw_tests::small::{Bert, CHAIN, HEADS, close, gpt2};

const STEPS: u64 = 5;

fn adalora() -> AdaLora {
    AdaLora {
        initial_phase: 0.0,
        every: 1,
        ..AdaLora::target_rank(2)
    }
}

/// One step's loss and gradients by name.
fn step(store: &Store, loss: &Tensor, gpu: &Gpu) -> (f64, Vec<(String, Vec<f64>)>, Gradients) {
    let value = loss.item().unwrap_or_else(|e| gpu.fail(e));
    let grads = backward(loss).unwrap_or_else(|e| gpu.fail(e));
    let named = (store.trained().iter())
        .filter_map(|p| Some((p.name().to_owned(), grads.get(p.id())?)))
        .map(|(name, g)| (name, g.to_vec::<f64>().unwrap_or_else(|e| gpu.fail(e))))
        .collect();
    (value, named, grads)
}

/// The gradients of a layer's parameters as one: a key's bias, which softmax does not see, has none but roundings of its weight's size.
fn together(grads: &[(String, Vec<f64>)]) -> BTreeMap<&str, Vec<f64>> {
    let mut layers = BTreeMap::<&str, Vec<f64>>::new();
    for (name, grad) in grads {
        let layer = name
            .rsplit_once('.')
            .map_or(name.as_str(), |(layer, _)| layer);
        layers.entry(layer).or_default().extend(grad);
    }
    layers
}

/// Takes the same steps on both; before each the device's weights are set to the CPU's.
fn side_by_side<M>(
    method: &dyn Method,
    heads: &[&str],
    build: impl Fn(&Device) -> M,
    store: impl Fn(&M) -> &Store,
    loss: impl Fn(&M, u64) -> Result<Tensor>,
) {
    let gpu = Gpu::new();
    let (near, far) = (build(&Device::cpu()), build(&gpu.device));
    let [mut on_cpu, mut on_gpu] = [&near, &far].map(|m| method.attach(store(m), heads).unwrap());
    let (mut adam, mut adam_far) = (AdamW::new(0.01), AdamW::new(0.01));
    let mut fresh = vec![];
    for at in 0..STEPS {
        for (a, b) in store(&near).params().iter().zip(store(&far).params()) {
            assert_eq!(a.name(), b.name());
            b.set(a.value().to_device(&gpu.device).unwrap()).unwrap();
        }
        let penalised = |task: Tensor, penalty: Option<Tensor>| match penalty {
            Some(penalty) => task.add(&penalty).unwrap(),
            None => task,
        };
        let of_cpu = penalised(loss(&near, at).unwrap(), on_cpu.penalty().unwrap());
        let of_gpu = penalised(
            loss(&far, at).unwrap_or_else(|e| gpu.fail(e)),
            on_gpu.penalty().unwrap(),
        );
        let (want, want_grads, grads) = step(store(&near), &of_cpu, &gpu);
        let (got, got_grads, grads_far) = step(store(&far), &of_gpu, &gpu);
        // Both sides are within CHAIN roundings of half a unit; a gradient goes through the chain three times: the values that
        // it is made of, what comes down to it, and its own products.
        let units = CHAIN as f64;
        close("loss", &[got], &[want], units);
        assert_eq!(want_grads.len(), got_grads.len());
        for ((name, got), (_, want)) in together(&got_grads).iter().zip(&together(&want_grads)) {
            close(&format!("{name}, step {at}"), got, want, 3.0 * units);
        }
        let (params, params_far) = (store(&near).trained(), store(&far).trained());
        // The same gradients go into both optimisers, whose states so stay equal: Adam divides by their size, however small.
        let mut given = Gradients::default();
        for (a, b) in params.iter().zip(&params_far) {
            if let Some(g) = grads.get(a.id()) {
                given.set(b.id(), g.to_device(&gpu.device).unwrap());
            }
        }
        adam.step(&params, &grads, 1e-3).unwrap();
        adam_far.step(&params_far, &given, 1e-3).unwrap();
        on_cpu.after_step(at, STEPS, &grads).unwrap();
        on_gpu.after_step(at, STEPS, &given).unwrap();
        for (a, b) in params.iter().zip(&params_far) {
            let (a, b) = (a.value(), b.value());
            let bits = |x: &Tensor| -> Vec<u32> {
                x.to_vec::<f32>()
                    .unwrap()
                    .iter()
                    .map(|x| x.to_bits())
                    .collect()
            };
            assert_eq!(bits(&a), bits(&b), "weights after step {at}");
        }
        drop((of_cpu, of_gpu, grads, grads_far, given));
        fresh.push(gpu.device.as_cuda().unwrap().fresh_blocks());
    }
    // What the host sends takes turns between blocks, all of which there are after three steps.
    assert!(
        fresh[3..].iter().all(|n| *n == fresh[2]),
        "{}: blocks taken by the end of each step: {fresh:?}",
        method.name()
    );
}

#[test]
fn an_encoder_trains_as_on_the_cpu() {
    for method in [&Full as &dyn Method, &Lora::rank(2), &adalora()] {
        side_by_side(method, &HEADS, Bert::new, |m| &m.store, Bert::loss);
    }
}

#[test]
fn a_decoder_trains_as_on_the_cpu() {
    for method in [&Full as &dyn Method, &adalora()] {
        side_by_side(
            method,
            &[],
            gpt2,
            |m| &m.0,
            |(store, decoder), at| {
                let ids: Vec<u32> = (0..24).map(|i| (i * 11 + 5 + at as u32) % 31).collect();
                let ids = Tensor::from_slice(&ids, &[2, 12], store.device())?;
                let logits = decoder.forward(&Context::train(0, at), &ids)?;
                next_token_loss(&logits, &ids, None)
            },
        );
    }
}

/// A RoBERTa counts the tokens of rows that end in padding, or begin with it, where they are.
#[test]
fn positions_are_counted_on_the_device() {
    let gpu = Gpu::new();
    let config = EncoderConfig {
        family: EncoderFamily::Roberta { pad: 1 },
        hidden_size: 8,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        intermediate_size: 8,
        ..EncoderConfig::small(20, 9)
    };
    let rows = [0u32, 7, 7, 19, 2, 1, 1, 1, 1, 1, 0, 5, 1, 2];
    let embedded = |device: &Device| {
        let store = Store::new(device, 3);
        let encoder = Encoder::new(&store.root(), &config).unwrap();
        let ids = Tensor::from_slice(&rows, &[2, 7], device).unwrap();
        let types = Tensor::from_slice(&[0u32; 14], &[2, 7], device).unwrap();
        let reads = || device.as_cuda().map(|cuda| cuda.reads());
        let before = reads();
        let x = encoder.embed(&Context::eval(), &ids, &types);
        let x = x.unwrap_or_else(|e| gpu.fail(e));
        assert_eq!(reads(), before, "the host waited");
        x.to_vec::<f64>().unwrap_or_else(|e| gpu.fail(e))
    };
    // A part of the chain.
    let [got, want] = [&gpu.device, &Device::cpu()].map(embedded);
    close("embeddings", &got, &want, CHAIN as f64);
}
