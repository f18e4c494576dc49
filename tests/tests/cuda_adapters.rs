//! PEFT's adapters on the CUDA backend, run by the software driver: logits, and the loss's gradients by what trains.

use deltaw_engine::prelude::*;
use deltaw_tests::gpu::Gpu;
use deltaw_tests::peft::Fixture;
use deltaw_tests::small::{CHAIN, close};

#[test]
fn adapters_compute_on_the_device_what_they_compute_in_peft() {
    let gpu = Gpu::new();
    let some = |values: Result<Vec<f64>>| values.unwrap_or_else(|e| gpu.fail(e));
    for name in [
        "peft-vera",
        "peft-ia3",
        "peft-oft",
        "peft-oft-neumann",
        "peft-oft-shared",
        "peft-randlora",
        "peft-config-patterns",
        "peft-config-rsdora",
    ] {
        let fixture = Fixture::open(name);
        let swept = |device: &Device| -> Vec<(String, Vec<f64>)> {
            let bert = Fixture::bert("bert-classes", "", device);
            fixture
                .adapter()
                .attach(&bert.store, &[])
                .unwrap_or_else(|e| gpu.fail(e));
            let logits = fixture.bert_logits(&bert);
            let labels = fixture.integers("input.labels", device);
            let loss = cross_entropy(&logits, &labels, &CrossEntropyOptions::default());
            let loss = loss.unwrap_or_else(|e| gpu.fail(e));
            let grads = backward(&loss).unwrap_or_else(|e| gpu.fail(e));
            let trained = bert.store.trained();
            let of = |p: &Param| {
                (
                    p.name().to_string(),
                    some(grads.get(p.id()).unwrap().to_vec()),
                )
            };
            let logits = [("want.logits".to_string(), some(logits.to_vec()))];
            logits.into_iter().chain(trained.iter().map(of)).collect()
        };
        let (far, exact) = (swept(&gpu.device), swept(&Device::oracle()));
        let want = fixture
            .weights
            .get("want.logits")
            .unwrap()
            .to_vec::<f64>()
            .unwrap();
        // A rotation of k inputs and ΔW of N·r terms more than LoRA's products.
        let chain = (CHAIN + 2 * 6 * 6 * 8) as f64;
        close(name, &far[0].1, &want, chain);
        for ((param, got), (_, want)) in far.iter().zip(&exact).skip(1) {
            close(&format!("{name}: {param}"), got, want, 3.0 * chain);
        }
    }
}
