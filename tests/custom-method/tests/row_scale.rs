//! What the example gets for its few lines: it trains, counts, saves, loads, merges and comes off.

use deltaw_custom_method::RowScale;
use deltaw_models::prelude::*;

fn gpt2() -> (Store, Decoder) {
    let store = Store::new(&Device::cpu(), 0);
    let decoder = Decoder::new(&store.root(), &DecoderConfig::gpt2(16, 16, 2, 2, 8)).unwrap();
    (store, decoder)
}

fn ids() -> Tensor {
    let values: Vec<u32> = (0..24).map(|i| i * 5 % 16).collect();
    Tensor::from_slice(&values, &[3, 8], &Device::cpu()).unwrap()
}

fn loss(decoder: &Decoder) -> Tensor {
    let logits = decoder.forward(&Context::eval(), &ids()).unwrap();
    next_token_loss(&logits, &ids(), None).unwrap()
}

#[test]
fn a_method_from_another_crate_has_everything_the_built_in_ones_have() {
    let (store, decoder) = gpt2();
    let (base, before) = (store.weights(), loss(&decoder).item().unwrap());
    let mut attached = RowScale::default().attach(&store, &[]).unwrap();
    assert_eq!(
        attached.parameters().unwrap(),
        2 * (16 + 16 + 64),
        "keys, values and the inner layer of two blocks"
    );
    assert_eq!(
        loss(&decoder).item().unwrap(),
        before,
        "l = 1 changes nothing"
    );

    let (params, mut optimiser) = (store.trained(), AdamW::new(0.0));
    for _ in 0..30 {
        let grads = backward(&loss(&decoder)).unwrap();
        optimiser.step(&params, &grads, 0.1).unwrap();
    }
    let after = loss(&decoder).item().unwrap();
    assert!(after < before - 0.01, "from {before} to {after}");

    let folder = tempfile::tempdir().unwrap();
    attached.save().unwrap().write(folder.path()).unwrap();
    let (store_again, again) = gpt2();
    let mut loaded = RowScale::default().attach(&store_again, &[]).unwrap();
    loaded.load(&Adapter::read(folder.path()).unwrap()).unwrap();
    assert_eq!(loss(&again).item().unwrap(), after);

    let sites: Vec<Site> = store.sites().into_iter().filter(Site::is_adapted).collect();
    sites.iter().for_each(|site| site.merge().unwrap());
    // l·(x·Wᵀ) and x·(l·W)ᵀ differ in the order of a rounding per product.
    assert!(
        (loss(&decoder).item().unwrap() - after).abs() < 64.0 * f64::from(f32::EPSILON) * after
    );
    attached.detach().unwrap();
    assert_eq!(loss(&decoder).item().unwrap(), before);
    for (name, tensor) in base.iter() {
        let now = store.get(name).unwrap().value();
        assert_eq!(
            now.to_vec::<f32>().unwrap(),
            tensor.to_vec::<f32>().unwrap(),
            "{name}"
        );
    }
    assert_eq!(store.params().len(), base.len());
}
