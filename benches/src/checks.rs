//! A device's kernels against the CPU's: what `doctor` runs.

use deltaw_engine::prelude::*;

use crate::attention::{Case, Operands};
use crate::compare::{U, excess, numbers, swept, tensor, values};
use crate::product::{Product, TYPES};

/// What came out of a check.
pub struct Outcome {
    /// What was checked.
    pub name: String,
    /// The largest error in units of what is allowed, or why there is none.
    pub excess: Result<f64>,
}

impl Outcome {
    /// Whether all errors are allowed.
    pub fn passed(&self) -> bool {
        self.excess.as_ref().is_ok_and(|excess| *excess <= 1.0)
    }
}

type Function = Box<dyn Fn(&[Tensor]) -> Result<Tensor>>;

/// Inputs lie in [−1, 1); a bound each for the value and the gradients, 0 where the bits must agree.
struct Check {
    name: &'static str,
    inputs: Vec<Tensor>,
    bounds: Vec<f64>,
    f: Function,
}

/// How far two sums may be apart that are at most `size` in all and each go through `terms` roundings.
fn sums(terms: usize, size: usize) -> f64 {
    2.0 * (terms + 4) as f64 * U * size as f64
}

fn indices(count: usize, below: usize) -> Result<Tensor> {
    let values = numbers(count, 5)
        .into_iter()
        .map(|x| ((x + 1.0) * 0.5 * below as f32) as u32);
    Tensor::from_slice(&values.collect::<Vec<u32>>(), &[count], &Device::cpu())
}

fn checks() -> Result<Vec<Check>> {
    let mut all = Vec::new();
    let mut add = |name, inputs: Vec<Tensor>, bounds: Vec<f64>, f: Function| {
        all.push(Check {
            name,
            inputs,
            bounds,
            f,
        });
    };
    let x = tensor(&[67, 301], 1)?;
    add(
        "copy of a permuted window",
        vec![tensor(&[5, 33, 18], 2)?],
        vec![0.0; 2],
        Box::new(|x| x[0].permute(&[2, 0, 1])?.narrow(0, 3, 11)?.contiguous()),
    );
    add(
        "broadcast sums and products",
        vec![x.clone(), tensor(&[301], 3)?],
        vec![0.0, 0.0, sums(67, 67)],
        Box::new(|x| x[0].mul(&x[1])?.add(&x[0])),
    );
    type Named = (&'static str, fn(&Tensor) -> Result<Tensor>);
    let functions: [Named; 7] = [
        ("exp", Tensor::exp),
        ("tanh", Tensor::tanh),
        ("sigmoid", Tensor::sigmoid),
        ("silu", Tensor::silu),
        ("gelu", Tensor::gelu),
        ("gelu (tanh)", Tensor::gelu_tanh),
        ("sin", Tensor::sin),
    ];
    // Made of the same correctly rounded operations on both sides, but for the sine: 3 ulp of 1.
    for (name, f) in functions {
        let bound = if name == "sin" { 6.0 * U } else { 0.0 };
        add(
            name,
            vec![x.clone()],
            vec![bound; 2],
            Box::new(move |x| f(&x[0])),
        );
    }
    add(
        "sums over rows",
        vec![x.clone()],
        vec![sums(67, 67), 0.0],
        Box::new(|x| x[0].sum(0)),
    );
    add(
        "sums over columns",
        vec![x.clone()],
        vec![sums(301, 301), 0.0],
        Box::new(|x| x[0].sum(1)),
    );
    add(
        "maxima",
        vec![x.clone()],
        vec![0.0; 2],
        Box::new(|x| x[0].max_keep(&[1])),
    );
    let one = 2.0 * 309.0 * U;
    add(
        "softmax",
        vec![x.clone()],
        vec![one, 3.0 * one],
        Box::new(|x| x[0].softmax()),
    );
    add(
        "log-softmax",
        vec![x.clone()],
        vec![one + 14.0 * U, 903.0 * one],
        Box::new(|x| x[0].log_softmax()),
    );
    let loss = 2.0 * (2.0 * 301.0 + 67.0 + 12.0) * U;
    add(
        "cross-entropy",
        vec![x.clone(), indices(67, 301)?],
        vec![8.0 * loss, loss],
        Box::new(|x| cross_entropy(&x[0], &x[1], &CrossEntropyOptions::default())),
    );
    let columns = 67.0 * 4.0 * (one + 134.0 * U);
    add(
        "layer norm",
        vec![x.clone(), tensor(&[301], 4)?, tensor(&[301], 5)?],
        vec![10.0 * one, 108.0 * one, columns, columns],
        Box::new(|x| layer_norm(&x[0], &x[1], &x[2], 0.25)),
    );
    add(
        "RMS norm",
        vec![x.clone(), tensor(&[301], 4)?],
        vec![10.0 * one, 108.0 * one, columns],
        Box::new(|x| rms_norm(&x[0], &x[1], 0.25)),
    );
    let ctx = Context::train(1, 2);
    add(
        "dropout",
        vec![x.clone()],
        vec![0.0; 2],
        Box::new(move |x| dropout(&x[0], 0.3, &ctx, "doctor")),
    );
    add(
        "rotary positions",
        vec![tensor(&[2, 11, 50, 24], 16)?],
        vec![0.0; 2],
        Box::new(|x| Rotation::first(50, 24, 1e4, x[0].device())?.rotate(&x[0])),
    );
    // Windows of 3 by 4 on 3 channels, 8 outputs; 5·5 windows of each of 2 images.
    add(
        "a convolution",
        vec![tensor(&[2, 3, 9, 14], 17)?, tensor(&[8, 3, 3, 4], 18)?],
        vec![sums(36, 36), sums(8 + 12, 8 * 12), sums(50, 50)],
        Box::new(|x| {
            let options = Conv2dOptions {
                stride: [2, 3],
                padding: [1, 1],
                ..Conv2dOptions::default()
            };
            conv2d(&x[0], &x[1], None, &options)
        }),
    );
    add(
        "rows by index, and their sums",
        vec![tensor(&[40, 96], 6)?, indices(700, 40)?],
        vec![0.0, sums(700, 700)],
        Box::new(|x| x[0].gather_rows(&x[1])),
    );
    add(
        "the largest of a row",
        vec![x.clone()],
        vec![0.0],
        Box::new(|x| Ok(x[0].top_k(17)?.0.detach())),
    );
    add(
        "the k-th value",
        vec![x.clone()],
        vec![0.0],
        Box::new(|x| Ok(x[0].kth_value(50)?.detach())),
    );
    for (name, distribution) in [
        ("uniform numbers", Distribution::Uniform),
        ("normal numbers", Distribution::Normal),
        ("Bernoulli numbers", Distribution::Bernoulli(0.3)),
    ] {
        add(
            name,
            vec![tensor(&[1], 0)?],
            vec![0.0],
            Box::new(move |x| {
                let key = RandomKey::new(3, Purpose::Noise, "doctor");
                Tensor::random(&[50, 1001], distribution, key, x[0].device())
            }),
        );
    }
    for (name, [m, n, k]) in [
        ("a ragged product", [129, 257, 65]),
        ("a large product", [512, 768, 256]),
        ("a product with few rows and a long sum", [8, 96, 4099]),
    ] {
        let bounds = vec![sums(k, k), sums(n, n), sums(m, m)];
        add(
            name,
            vec![tensor(&[m, k], 7)?, tensor(&[k, n], 8)?],
            bounds,
            Box::new(|x| x[0].matmul(&x[1])),
        );
    }
    let [t, n, m, r] = [300, 96, 160, 8];
    let of_rank = vec![
        sums(n + r, n * (1 + r) + 1),
        sums(m + r, m * (1 + r)),
        sums(t + m, t * m),
        sums(t + n, t * n),
        sums(t, t),
    ];
    let factors = vec![
        tensor(&[t, n], 9)?,
        tensor(&[m, n], 10)?,
        tensor(&[r, n], 11)?,
        tensor(&[m, r], 12)?,
        tensor(&[m], 13)?,
    ];
    add(
        "a low-rank linear",
        factors,
        of_rank,
        Box::new(|x| low_rank_linear(&x[0], &x[1].detach(), Some(&x[4]), &x[2], &x[3], None, 1.0)),
    );
    // Weights sum to 1 and have the roundings of a softmax over 70 of scores of 32 products; a gradient has two such sums more.
    let [query, key] = [tensor(&[2, 3, 70, 32], 14)?, tensor(&[2, 3, 70, 32], 15)?];
    let weights = sums(70 + 32 + 12, 4);
    for (name, causal) in [("attention", false), ("causal attention", true)] {
        let inputs = vec![query.clone(), key.clone(), tensor(&[2, 3, 70, 32], 16)?];
        let bounds = vec![
            weights,
            32.0 * weights,
            70.0 * 32.0 * weights,
            70.0 * weights,
        ];
        add(
            name,
            inputs,
            bounds,
            Box::new(move |x| {
                attention(
                    &x[0],
                    &x[1],
                    &x[2],
                    &AttentionOptions {
                        causal,
                        ..AttentionOptions::default()
                    },
                )
            }),
        );
    }
    Ok(all)
}

fn check(check: &Check, device: &Device) -> Result<f64> {
    let moved: Vec<Tensor> = check
        .inputs
        .iter()
        .map(|x| x.to_device(device))
        .collect::<Result<_>>()?;
    let (want, got) = (swept(&check.inputs, &check.f)?, swept(&moved, &check.f)?);
    if got.len() != want.len() || got.len() != check.bounds.len() {
        return Err(Error::Invalid(format!(
            "{} results, {} on the CPU, {} bounds",
            got.len(),
            want.len(),
            check.bounds.len()
        )));
    }
    let mut worst = 0.0f64;
    for ((got, want), bound) in got.iter().zip(&want).zip(&check.bounds) {
        let want = values(want)?.into_iter().map(f64::from);
        worst = worst.max(excess(&values(got)?, want, *bound));
    }
    Ok(worst)
}

/// Three steps of AdamW: bit by bit.
fn adamw(device: &Device) -> Result<f64> {
    let run = |device: &Device| -> Result<Vec<f32>> {
        let store = Store::new(device, 5);
        let params = (0..70)
            .map(|i| {
                store.root().param(
                    &format!("p{i}"),
                    &[1 + i % 7, 1 + 5 * i % 31],
                    Init::Normal(0.1),
                )
            })
            .collect::<Result<Vec<_>>>()?;
        let mut adam = AdamW::new(0.1);
        for step in 0..3 {
            let mut grads = Gradients::default();
            for (i, p) in params.iter().enumerate() {
                grads.set(
                    p.id(),
                    tensor(p.value().shape(), step * 100 + i as u64)?.to_device(device)?,
                );
            }
            adam.step(&params, &grads, 0.01)?;
        }
        let all = params
            .iter()
            .map(|p| values(&p.value()))
            .collect::<Result<Vec<_>>>()?;
        Ok(all.concat())
    };
    let want = run(&Device::cpu())?;
    Ok(excess(&run(device)?, want.into_iter().map(f64::from), 0.0))
}

/// Products of each type with each tile, against f64.
fn products(device: &Device, all: &mut Vec<Outcome>) -> Result<()> {
    let Some(cuda) = device.as_cuda() else {
        return Ok(());
    };
    for (name, operands, dtype) in TYPES {
        let operand =
            |shape: &[usize], seed| tensor(shape, seed)?.converted(dtype)?.to_device(device);
        let mut product = Product::new(
            cuda,
            operands,
            &operand(&[200, 328], 17)?,
            &operand(&[136, 328], 18)?,
        )?;
        for plan in product.plans(cuda) {
            let tile = plan.tile;
            let measured = product.launch(cuda, &plan).and_then(|()| product.excess());
            all.push(Outcome {
                name: format!("{name} products by {}×{} tiles", tile.m, tile.n),
                excess: measured,
            });
        }
    }
    Ok(())
}

fn attentions(device: &Device, all: &mut Vec<Outcome>) {
    for operands in &Operands::ALL {
        for (d, causal) in [(32, false), (64, true), (128, true)] {
            let case = Case {
                batch: 2,
                heads: 3,
                tq: 200,
                tk: 230,
                d,
                causal,
                masked: !causal,
                seed: 20,
            };
            all.push(Outcome {
                name: format!("{} attention, heads of {d}", operands.name),
                excess: case.excess(operands, device),
            });
        }
    }
}

/// All checks of a device.
///
/// # Errors
/// Their inputs cannot be made.
pub fn run(device: &Device) -> Result<Vec<Outcome>> {
    let mut all = Vec::new();
    for one in checks()? {
        all.push(Outcome {
            name: one.name.to_owned(),
            excess: check(&one, device),
        });
    }
    all.push(Outcome {
        name: "AdamW".into(),
        excess: adamw(device),
    });
    products(device, &mut all)?;
    if device.as_cuda().is_some() {
        attentions(device, &mut all);
    }
    Ok(all)
}
