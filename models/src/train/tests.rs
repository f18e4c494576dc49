use super::masked::Cloze;
use super::*;
use crate::data::corpus::Stream;
use crate::data::tokenizer::Tokenizer;
use crate::encoder::EncoderConfig;
use crate::methods::Method;
use crate::methods::adalora::AdaLora;
use crate::methods::lora::Lora;
use crate::methods::snell::Snell;
use crate::methods::spt::Spt;
use crate::methods::triadaptlora::TriAdaptLora;

const CLOZE: Cloze = Cloze {
    columns: 16,
    rate: 0.3,
    asked: 2,
};

fn config(tokenizer: &Tokenizer) -> EncoderConfig {
    EncoderConfig {
        hidden_size: 16,
        intermediate_size: 32,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        ..EncoderConfig::small(tokenizer.vocabulary(), 16)
    }
}

fn stream(tokenizer: &Tokenizer) -> Stream {
    let text = "In the beginning God created the heaven and the earth. ".repeat(20);
    tokenizer.stream(&[text], 2).unwrap()
}

fn model<'a>(tokenizer: &Tokenizer, stream: &'a Stream) -> MaskedLm<'a> {
    model_on(&Device::cpu(), tokenizer, stream)
}

fn model_on<'a>(device: &Device, tokenizer: &Tokenizer, stream: &'a Stream) -> MaskedLm<'a> {
    MaskedLm::new(&config(tokenizer), tokenizer, stream, CLOZE, 3, device).unwrap()
}

/// Before the first step of a model with a method, or in full with a moving average.
fn start<'a>(
    model: &MaskedLm,
    method: Option<&'a mut (dyn Attached + 'a)>,
    average: Option<f32>,
) -> State<'a> {
    let params = model.store().trained();
    State {
        optimiser: AdamW::new(0.01),
        order: model.order(3, 5).unwrap(),
        average: average.map(|decay| Average::new(decay, &params)),
        method,
        params,
    }
}

/// Takes the steps of so many as [`fit`] does.
fn steps(
    model: &MaskedLm,
    state: &mut State,
    range: std::ops::Range<u64>,
    (total, rate): (u64, f32),
) -> Vec<f64> {
    let mut losses = vec![];
    for step in range {
        let items = state.order.next_batch(5);
        let task = model.loss(&Context::train(3, step), &items, step).unwrap();
        let penalty = state.method.as_ref().and_then(|m| m.penalty().unwrap());
        let loss = penalty.map_or(task.clone(), |p| task.add(&p).unwrap());
        let grads = backward(&loss).unwrap();
        state.optimiser.step(&state.params, &grads, rate).unwrap();
        if let Some(method) = &mut state.method {
            method.after_step(step, total, &grads).unwrap();
        }
        if let Some(average) = &mut state.average {
            average.follow(step, &state.params).unwrap();
        }
        losses.push(loss.item().unwrap());
    }
    losses
}

#[test]
fn a_kept_state_goes_on_to_the_same_bits() {
    const PACE: (u64, f32) = (30, 3e-3);
    let tokenizer = Tokenizer::bytes().unwrap();
    let stream = stream(&tokenizer);
    let averages = |state: &State| -> Vec<Vec<f32>> {
        let values = state.average.as_ref().unwrap().values().iter();
        values.map(|v| v.to_vec::<f32>().unwrap()).collect()
    };
    for device in [Device::cpu(), Device::oracle()] {
        let model = || model_on(&device, &tokenizer, &stream);
        let (one, two, three) = (model(), model(), model());
        let mut whole = start(&one, None, Some(0.9));
        let all = steps(&one, &mut whole, 0..30, PACE);

        let mut first = start(&two, None, Some(0.9));
        let mut losses = steps(&two, &mut first, 0..17, PACE);
        let curve = vec![(0, losses[0])];
        let kept = first.keep(17, &curve).unwrap();

        let mut second = start(&three, None, Some(0.9));
        let (step, curve_again) = second.restore(&kept).unwrap();
        assert_eq!((step, curve_again), (17, curve));
        losses.extend(steps(&three, &mut second, step..30, PACE));
        assert_eq!(losses, all);
        // The oracle averages in f64, of which files keep f32.
        if device.is_cpu() {
            assert_eq!(averages(&second), averages(&whole));
        }
        assert!(losses[29] < losses[0] - 1.0, "it learns: {losses:?}");

        let cut = second.restore(&kept[..kept.len() / 2]);
        assert!(cut.unwrap_err().to_string().contains("checkpoint"));
    }
}

/// Interrupted in the middle of what the method decides: after triplets were pruned, after a matrix grew.
#[test]
fn a_method_goes_on_to_the_same_bits() {
    const PACE: (u64, f32) = (24, 1e-2);
    let tokenizer = Tokenizer::bytes().unwrap();
    let stream = stream(&tokenizer);
    let methods: [Box<dyn Method>; 4] = [
        Box::new(Lora::rank(2)),
        Box::new(AdaLora::target_rank(1)),
        Box::new(TriAdaptLora::target_rank(3)),
        Box::new(Snell::rank(4)),
    ];
    for method in &methods {
        let attach = || {
            let model = model(&tokenizer, &stream);
            let attached = method.attach(model.store(), &[]).unwrap();
            (model, attached)
        };
        let (model, mut attached) = attach();
        let all = steps(
            &model,
            &mut start(&model, Some(&mut *attached), None),
            0..PACE.0,
            PACE,
        );
        let ranks = attached.ranks().unwrap();
        for at in [1, 11, PACE.0 - 2] {
            let (model, mut attached) = attach();
            let mut first = start(&model, Some(&mut *attached), None);
            let before = steps(&model, &mut first, 0..at, PACE);
            let kept = first.keep(at, &Curve::new()).unwrap();
            let (model, mut attached) = attach();
            let mut second = start(&model, Some(&mut *attached), None);
            assert_eq!(second.restore(&kept).unwrap().0, at);
            let after = steps(&model, &mut second, at..PACE.0, PACE);
            let name = method.name();
            assert_eq!([before, after].concat(), all, "{name} from {at}");
            assert_eq!(attached.ranks().unwrap(), ranks, "{name} from {at}");
        }
    }
}

/// As many weights as LoRA has numbers, those with the largest Σ G² over the batches; only they move, and files bring them back.
#[test]
fn spt_trains_the_most_sensitive_weights() {
    const PACE: (u64, f32) = (6, 1e-2);
    let tokenizer = Tokenizer::bytes().unwrap();
    let stream = stream(&tokenizer);
    let method = Spt {
        batches: 2,
        ..Spt::rank(1)
    };
    let model = || model(&tokenizer, &stream);
    let plain = model();
    let mut order = plain.order(3, 5).unwrap();
    let sites = method.targets.of(plain.store()).unwrap();
    plain.store().train_only(|_| true);
    let (mut squares, mut count) = (vec![], 0);
    for step in 0..2 {
        let items = order.next_batch(5);
        let loss = plain.loss(&Context::train(3, step), &items, step).unwrap();
        let grads = backward(&loss).unwrap();
        for (i, site) in sites.iter().enumerate() {
            let g = grads.get(site.param().unwrap().id()).unwrap();
            let own = g.to_vec::<f64>().unwrap().into_iter().enumerate();
            squares.extend(own.map(|(at, g)| ((i, at), g * g)));
        }
    }
    let mut sums = std::collections::BTreeMap::new();
    for (place, square) in squares {
        *sums.entry(place).or_insert(0.0) += square;
    }
    for site in &sites {
        count += site.out_features().unwrap() + site.in_features().unwrap();
    }
    let mut all: Vec<_> = sums.into_iter().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut want: Vec<_> = all[..count].iter().map(|(place, _)| *place).collect();
    want.sort_unstable();

    let tuned = model();
    let before = tuned.store().weights();
    let mut attached = method.attach(tuned.store(), &[]).unwrap();
    prepare(&mut *attached, &tuned, 5, 3).unwrap();
    assert_eq!(attached.parameters().unwrap(), count);
    steps(
        &tuned,
        &mut start(&tuned, Some(&mut *attached), None),
        0..PACE.0,
        PACE,
    );
    let saved = attached.save().unwrap();
    let loss = |model: &MaskedLm| {
        let loss = model.loss(&Context::eval(), &[0, 1, 2], 0).unwrap();
        loss.item().unwrap()
    };
    let (again, tuned_loss) = (model(), loss(&tuned));
    let loaded = saved.attach(again.store(), &[]).unwrap();
    assert_eq!(loss(&again), tuned_loss);
    assert_eq!(loaded.parameters().unwrap(), count);

    let mut moved = vec![];
    for (i, site) in method.targets.of(tuned.store()).unwrap().iter().enumerate() {
        site.merge().unwrap();
        let name = site.param().unwrap().name().to_string();
        let old = before.get(&name).unwrap().to_vec::<f32>().unwrap();
        let new = site.param().unwrap().value().to_vec::<f32>().unwrap();
        let differ = (0..old.len()).filter(|at| old[*at] != new[*at]);
        moved.extend(differ.map(|at| (i, at)));
    }
    assert_eq!(moved, want);
}

#[test]
fn a_nan_is_named_with_the_first_op_that_made_it() {
    let tokenizer = Tokenizer::bytes().unwrap();
    let stream = stream(&tokenizer);
    let model = model(&tokenizer, &stream);
    let params = model.store().trained();
    let forward = || {
        let loss = model.loss(&Context::train(1, 0), &[0, 1], 0)?;
        Ok(loss.affine(0.0, -1.0)?.log()?)
    };
    let error = diverged(4, f64::NAN, &params, forward).to_string();
    assert!(
        error.starts_with("diverged at step 4: the training loss is NaN; "),
        "{error}"
    );
    assert!(error.contains("log"), "{error}");
    let table = params.iter().find(|p| p.shape().len() == 2).unwrap();
    table
        .set(table.value().affine(f64::INFINITY, 0.0).unwrap())
        .unwrap();
    let error = diverged(5, f64::NAN, &params, || {
        model.loss(&Context::train(1, 0), &[0], 0)
    });
    assert!(error.to_string().contains(table.name()), "{error}");
}

#[test]
fn positions_start_as_sinusoids_of_the_weights_size() {
    let tokenizer = Tokenizer::bytes().unwrap();
    let stream = stream(&tokenizer);
    let model = model(&tokenizer, &stream);
    let table = model
        .store()
        .get("bert.embeddings.position_embeddings.weight");
    let values = table.unwrap().value().to_vec::<f32>().unwrap();
    let amplitude = 2f32.sqrt() / 4.0; // √2/√d for d = 16
    assert!((values[16] - amplitude * 1f32.sin()).abs() < 1e-6);
    assert!((values[17] - amplitude * 1f32.cos()).abs() < 1e-6);
    let weight = model.store().get("bert.embeddings.word_embeddings.weight");
    let values = weight.unwrap().value().to_vec::<f32>().unwrap();
    let square = values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32;
    // Of n normal numbers the mean square is known to √(2/n); five times that.
    let tolerance = 5.0 * (2.0 / values.len() as f32).sqrt();
    assert!((square * 16.0 - 1.0).abs() < tolerance, "{square}");
}
