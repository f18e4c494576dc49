//! What a frozen base costs: no memory for what nobody differentiates. Alone in its program, since it counts all live bytes.

use deltaw_engine::pool::{Tag, usage};
use deltaw_engine::prelude::*;
use deltaw_models::decoder::{Decoder, DecoderConfig};
use deltaw_models::methods::lora::Lora;
use deltaw_models::methods::selective::{Full, LinearProbe};
use deltaw_models::methods::{Method, Targets};

/// Bytes that are kept for backward when a decoder of some blocks has run forward.
fn saved(blocks: usize, method: &dyn Method) -> usize {
    let store = Store::new(&Device::cpu(), 0);
    let decoder = Decoder::new(&store.root(), &DecoderConfig::gpt2(64, 32, blocks, 4, 32)).unwrap();
    let attached = method.attach(&store, &[]).unwrap();
    let ids =
        Tensor::from_slice(&(0..64u32).collect::<Vec<_>>(), &[2, 32], &Device::cpu()).unwrap();
    let before = usage().live[Tag::Saved as usize];
    let logits = decoder.forward(&Context::train(0, 0), &ids).unwrap();
    let held = usage().live[Tag::Saved as usize] - before;
    // Indices that a gather keeps are the caller's too.
    drop((logits, attached, ids));
    assert_eq!(
        usage().live[Tag::Saved as usize],
        before,
        "the tape frees what it kept"
    );
    held
}

#[test]
fn only_what_lies_above_the_first_adapter_is_kept() {
    assert_eq!(saved(4, &LinearProbe), 0);
    let last = |block: usize| Lora {
        targets: Targets::modules([format!("h.{block}.mlp.c_proj")]),
        ..Lora::rank(2)
    };
    let (two, four) = (saved(2, &last(1)), saved(4, &last(3)));
    assert_eq!(two, four, "blocks below the adapter cost nothing");
    let first = saved(4, &last(0));
    assert!(first > four);
    // The same blocks with trained weights keep their inputs too.
    assert!(saved(4, &Full) > first);
    // A trained linear reads GELU's result, and makes it again from the operand that GELU keeps.
    let kept = |trained: bool| {
        let before = usage().live[Tag::Saved as usize];
        let matrix = || Tensor::randn(&[64, 32], 1, &Device::cpu()).unwrap();
        let (u, w) = (matrix().trained(), matrix());
        let w = if trained { w.trained() } else { w };
        let _y = linear(&u.gelu().unwrap(), &w, None).unwrap();
        usage().live[Tag::Saved as usize] - before
    };
    assert_eq!(kept(true), kept(false));
    // In half the bytes, a frozen base is kept as it is.
    let store = Store::new(&Device::cpu(), 0);
    let decoder = Decoder::new(&store.root(), &DecoderConfig::gpt2(64, 32, 1, 4, 32)).unwrap();
    let ids =
        Tensor::from_slice(&(0..32u32).collect::<Vec<_>>(), &[1, 32], &Device::cpu()).unwrap();
    let logits = || {
        no_grad(|| decoder.forward(&Context::eval(), &ids))
            .unwrap()
            .to_vec::<f64>()
            .unwrap()
    };
    let (full, held) = (logits(), usage().live[Tag::Weights as usize]);
    store
        .convert(DType::Bf16, |name| {
            name.ends_with(".weight") && !name.contains("ln_")
        })
        .unwrap();
    assert!(usage().live[Tag::Weights as usize] < held);
    let (half, size) = (logits(), full.iter().fold(0.0f64, |m, v| m.max(v.abs())));
    // Weights rounded to 8 bits: 2⁻⁹ each, along a chain of six products.
    let worst = full
        .iter()
        .zip(&half)
        .fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
    assert!(
        worst > 0.0 && worst < 6.0 * size / 256.0,
        "{worst} of {size}"
    );
}
