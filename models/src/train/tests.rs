use super::masked::Cloze;
use super::*;
use crate::data::corpus::Stream;
use crate::data::tokenizer::Tokenizer;
use crate::encoder::EncoderConfig;
use crate::methods::Method;
use crate::methods::adalora::AdaLora;
use crate::methods::lora::Lora;
use crate::methods::snell::Snell;
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
    let (config, device) = (config(tokenizer), Device::cpu());
    MaskedLm::new(&config, tokenizer, stream, CLOZE, 3, &device).unwrap()
}

/// Takes the steps as [`fit`] does.
fn steps(model: &MaskedLm, state: &mut State, range: std::ops::Range<u64>) -> Vec<f64> {
    let params = state.params;
    range
        .map(|step| {
            let items = state.order.next_batch(5);
            let loss = model.loss(&Context::train(3, step), &items, step).unwrap();
            let grads = backward(&loss).unwrap();
            state.optimiser.step(params, &grads, 3e-3).unwrap();
            let average = state.average.as_mut().unwrap();
            average.follow(step, params).unwrap();
            loss.item().unwrap()
        })
        .collect()
}

#[test]
fn a_kept_state_goes_on_to_the_same_bits() {
    let tokenizer = Tokenizer::bytes().unwrap();
    let stream = stream(&tokenizer);
    /// What a run holds besides its model.
    struct Held(Vec<Param>, AdamW, Order, Average);
    impl Held {
        fn new(model: &MaskedLm) -> Self {
            let params = model.store().trained();
            let average = Average::new(0.9, &params);
            Held(
                params,
                AdamW::new(0.01),
                model.order(3, 5).unwrap(),
                average,
            )
        }

        fn state(&mut self) -> State<'_> {
            State {
                params: &self.0,
                optimiser: &mut self.1,
                order: &mut self.2,
                average: Some(&mut self.3),
                method: None,
            }
        }

        fn averages(&self) -> Vec<Vec<f32>> {
            let values = self.3.values().iter();
            values.map(|v| v.to_vec::<f32>().unwrap()).collect()
        }
    }
    let start = || {
        let model = model(&tokenizer, &stream);
        let held = Held::new(&model);
        (model, held)
    };
    let (model, mut whole) = start();
    let all = steps(&model, &mut whole.state(), 0..30);

    let (model, mut first) = start();
    let mut losses = steps(&model, &mut first.state(), 0..17);
    let curve = vec![(0, losses[0])];
    let kept = first.state().keep(17, &curve).unwrap();

    let (model, mut second) = start();
    let (step, curve_again) = second.state().restore(&kept).unwrap();
    assert_eq!((step, curve_again), (17, curve));
    losses.extend(steps(&model, &mut second.state(), step..30));
    assert_eq!(losses, all);
    assert_eq!(second.averages(), whole.averages());
    assert!(losses[29] < losses[0] - 1.0, "it learns: {losses:?}");

    let cut = second.state().restore(&kept[..kept.len() / 2]);
    assert!(cut.unwrap_err().to_string().contains("checkpoint"));
}

/// Interrupted in the middle of what the method decides: after triplets were pruned, after a matrix grew.
#[test]
fn a_method_goes_on_to_the_same_bits() {
    const STEPS: u64 = 24;
    let tokenizer = Tokenizer::bytes().unwrap();
    let stream = stream(&tokenizer);
    let methods: [Box<dyn Method>; 4] = [
        Box::new(Lora::rank(2)),
        Box::new(AdaLora::target_rank(1)),
        Box::new(TriAdaptLora::target_rank(3)),
        Box::new(Snell::rank(4)),
    ];
    for method in &methods {
        let start = || {
            let model = model(&tokenizer, &stream);
            let attached = method.attach(model.store(), &[]).unwrap();
            let params = model.store().trained();
            let order = model.order(3, 5).unwrap();
            (model, attached, params, AdamW::new(0.01), order)
        };
        let take = |(model, attached, params, optimiser, order): &mut (
            MaskedLm,
            Box<dyn Attached>,
            Vec<Param>,
            AdamW,
            Order,
        ),
                    range: std::ops::Range<u64>| {
            let mut losses = vec![];
            for step in range {
                let items = order.next_batch(5);
                let task = model.loss(&Context::train(3, step), &items, step).unwrap();
                let penalty = attached.penalty().unwrap();
                let loss = penalty.map_or(task.clone(), |p| task.add(&p).unwrap());
                let grads = backward(&loss).unwrap();
                optimiser.step(params, &grads, 1e-2).unwrap();
                attached.after_step(step, STEPS, &grads).unwrap();
                losses.push(loss.item().unwrap());
            }
            (losses, attached.ranks().unwrap())
        };
        let all = take(&mut start(), 0..STEPS);
        for at in [1, 11, STEPS - 2] {
            let mut first = start();
            let (before, _) = take(&mut first, 0..at);
            let (_, attached, params, optimiser, order) = &mut first;
            let mut state = State {
                params,
                optimiser,
                order,
                average: None,
                method: Some(&mut **attached),
            };
            let kept = state.keep(at, &Curve::new()).unwrap();
            let mut second = start();
            let (_, attached, params, optimiser, order) = &mut second;
            state = State {
                params,
                optimiser,
                order,
                average: None,
                method: Some(&mut **attached),
            };
            assert_eq!(state.restore(&kept).unwrap().0, at);
            let (after, ranks) = take(&mut second, at..STEPS);
            let name = method.name();
            assert_eq!(([before, after].concat(), ranks), all, "{name} from {at}");
        }
    }
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
