//! What a training step asks of a GPU: its kernel launches and how often the host waits, by the software driver's count, in a
//! committed table.

use std::collections::BTreeMap;
use std::fmt::Write;

use deltaw_emulator::Waits;
use deltaw_engine::prelude::*;
use deltaw_models::decoder::{Decoder, DecoderConfig, next_token_loss};
use deltaw_models::methods::Method;
use deltaw_models::methods::adalora::AdaLora;
use deltaw_models::methods::lora::Lora;
use deltaw_models::methods::selective::Full;
use deltaw_tests::as_committed;
use deltaw_tests::gpu::Gpu;

/// The kernels of the third step of a GPT-2 of four blocks, and how often each is launched; what the host waited for before the loss
/// was read, and with it.
fn launches(method: &dyn Method) -> (BTreeMap<String, usize>, [Waits; 2]) {
    let gpu = Gpu::new();
    let counted = gpu
        .counters()
        .expect("the software driver counts: unset DELTAW_TEST_DEVICE");
    let store = Store::new(&gpu.device, 0);
    let config = DecoderConfig::gpt2(64, 32, 4, 2, 32);
    let decoder = Decoder::new(&store.root(), &config).unwrap();
    let mut attached = method.attach(&store, &[]).unwrap();
    let ids = Tensor::from_slice(&(0..64u32).collect::<Vec<_>>(), &[2, 32], &gpu.device).unwrap();
    let (params, mut optimiser) = (store.trained(), AdamW::new(0.01));
    let mut step = |step| -> Result<[Waits; 2]> {
        let mut loss = next_token_loss(
            &decoder.forward(&Context::train(0, step), &ids)?,
            &ids,
            None,
        )?;
        if let Some(penalty) = attached.penalty()? {
            loss = loss.add(&penalty)?;
        }
        let grads = backward(&loss)?;
        optimiser.step(&params, &grads, 1e-3)?;
        attached.after_step(step, 1000, &grads)?;
        let before = counted.waits().unwrap();
        loss.item()?;
        Ok([before, counted.waits().unwrap()])
    };
    let mut waits = [Waits::default(); 2];
    for at in 0..3 {
        counted.clear().unwrap();
        waits = step(at).unwrap_or_else(|e| gpu.fail(e));
    }
    let mut all = BTreeMap::new();
    for launch in counted.launches().unwrap() {
        *all.entry(launch.kernel).or_default() += 1;
    }
    (all, waits)
}

/// The host waits for the stream to read the loss and for nothing else, pieces of pinned memory that are still on their way aside.
/// `UPDATE=1` in the environment writes the table anew.
#[test]
fn a_steps_launches_are_as_committed() {
    let adalora = AdaLora {
        initial_phase: 0.0,
        every: 1,
        ..AdaLora::target_rank(2)
    };
    let methods: [(&str, &dyn Method); 3] = [
        ("full", &Full),
        ("lora", &Lora::rank(2)),
        ("adalora", &adalora),
    ];
    let mut table =
        String::from("# kernel launches of a training step of a GPT-2 of four blocks\n");
    for (name, method) in methods {
        let (all, [before, after]) = launches(method);
        assert_eq!(before.stream, 0, "{name}: waits before the loss");
        assert_eq!(after.stream, 1, "{name}: waits for the loss");
        assert_eq!(after.context + after.blocking, 0, "{name}: {after:?}");
        let count = all.values().sum::<usize>();
        writeln!(table, "\n{name}: {count} launches").unwrap();
        let mut sorted: Vec<_> = all.into_iter().collect();
        sorted.sort_by(|(a, i), (b, j)| j.cmp(i).then(a.cmp(b)));
        for (kernel, count) in sorted {
            writeln!(table, "{count:6} {kernel}").unwrap();
        }
    }
    as_committed("launches.txt", &table);
}
