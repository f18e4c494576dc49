//! Kernels at the sizes of real models, with what they compute and move: what `doctor` and the bench `kernels` time.

use std::time::Instant;

use deltaw_engine::device::cuda::Cuda;
use deltaw_engine::ops::kernelized::{Competition, Kernel, Values};
use deltaw_engine::ops::random_basis::{Bases, RandomBasis};
use deltaw_engine::ops::triangular::Core;
use deltaw_engine::prelude::*;
use deltaw_kernels::patches::{Kind, Patches};

use crate::attention::{Operands, on_tensor_cores};
use crate::bound::median;
use crate::compare::tensor_on;
use crate::product::{Product, TYPES};

/// A layer `[in] → [out]` of a model: GPT-2 small and ViT-B/16 (768), DiT-B/2's modulation, LLaMA-7B.
pub const LAYERS: [(&str, usize, usize); 5] = [
    ("gpt2 attention", 768, 2304),
    ("vit-b mlp", 768, 3072),
    ("dit-b/2 modulation", 768, 4608),
    ("llama-7b attention", 4096, 4096),
    ("llama-7b mlp", 4096, 11008),
];

/// Something to time.
pub struct Subject {
    /// The kernel and its sizes.
    pub name: String,
    /// Floating-point operations, 0 for what only moves.
    pub flops: u64,
    /// The fewest bytes that it moves.
    pub bytes: u64,
    /// Does it once; on a GPU asks for it.
    pub run: Box<dyn FnMut() -> Result<()>>,
}

/// Products of a type over so many tokens.
///
/// # Errors
/// Not enough memory.
pub fn products(device: &Device, tokens: usize) -> Result<Vec<Subject>> {
    let mut all = Vec::new();
    for (model, inside, out) in LAYERS {
        let (x, w) = (
            tensor_on(&[tokens, inside], 1, device)?,
            tensor_on(&[out, inside], 2, device)?,
        );
        for (name, operands, dtype) in TYPES {
            let name = format!("{model} {tokens}x{out}x{inside} {name}");
            let flops = 2 * (tokens * out * inside) as u64;
            if device.as_cuda().is_none() {
                if name.ends_with(" f32") {
                    let (x, w) = (x.clone(), w.t()?);
                    let bytes = 4 * (tokens * (inside + out) + inside * out) as u64;
                    all.push(Subject {
                        name,
                        flops,
                        bytes,
                        run: Box::new(move || x.matmul(&w).map(drop)),
                    });
                }
                continue;
            }
            let (a, b, own) = (x.converted(dtype)?, w.converted(dtype)?, device.clone());
            let cuda = own
                .as_cuda()
                .ok_or_else(|| Error::Invalid("a GPU".into()))?;
            let mut product = Product::new(cuda, operands, &a, &b)?;
            let (plan, bytes, device) = (product.plan(cuda), product.bytes(), device.clone());
            let run = move || match device.as_cuda() {
                Some(cuda) => product.launch(cuda, &plan),
                None => Ok(()),
            };
            all.push(Subject {
                name,
                flops,
                bytes,
                run: Box::new(run),
            });
        }
    }
    Ok(all)
}

/// One subject of every other kernel family.
///
/// # Errors
/// Not enough memory.
pub fn families(device: &Device, tokens: usize) -> Result<Vec<Subject>> {
    let mut all = Vec::new();
    let (t, d) = (tokens as u64, 768u64);
    let mut add = |name: String, flops: u64, bytes: u64, run: Box<dyn FnMut() -> Result<()>>| {
        all.push(Subject {
            name,
            flops,
            bytes,
            run,
        });
    };
    let x = tensor_on(&[tokens, 768], 1, device)?;
    let (gain, bias) = (tensor_on(&[768], 2, device)?, tensor_on(&[768], 3, device)?);
    let wide = tensor_on(&[tokens, 3072], 4, device)?;
    {
        let wide = wide.clone();
        add(
            format!("gelu {t}x3072"),
            0,
            8 * t * 3072,
            Box::new(move || wide.gelu().map(drop)),
        );
    }
    {
        let (x, bias) = (x.clone(), bias.clone());
        add(
            format!("broadcast sum {t}x768"),
            0,
            8 * t * d,
            Box::new(move || x.add(&bias).map(drop)),
        );
    }
    {
        let wide = wide.clone();
        add(
            format!("transpose {t}x3072"),
            0,
            8 * t * 3072,
            Box::new(move || wide.permute(&[1, 0]).map(drop)),
        );
    }
    {
        let wide = wide.clone();
        add(
            format!("sum over tokens {t}x3072"),
            0,
            4 * t * 3072,
            Box::new(move || wide.sum(0).map(drop)),
        );
    }
    {
        let wide = wide.clone();
        add(
            format!("softmax {t}x3072"),
            0,
            8 * t * 3072,
            Box::new(move || wide.softmax().map(drop)),
        );
    }
    {
        let (x, gain, bias) = (x.trained(), gain.trained(), bias.trained());
        let dy = tensor_on(&[tokens, 768], 12, device)?;
        let (a, g, da) = (x.clone(), gain.clone(), dy.clone());
        add(
            format!("layer norm and its gradient {t}x768"),
            0,
            4 * 5 * t * d,
            Box::new(move || {
                backward_with(&layer_norm(&x, &gain, &bias, 1e-5)?, dy.clone()).map(drop)
            }),
        );
        add(
            format!("RMS norm and its gradient {t}x768"),
            0,
            4 * 5 * t * d,
            Box::new(move || backward_with(&rms_norm(&a, &g, 1e-5)?, da.clone()).map(drop)),
        );
    }
    {
        let classes: Vec<u32> = (0..tokens as u32)
            .map(|i| i.wrapping_mul(2_654_435_761) % 3072)
            .collect();
        let classes = Tensor::from_slice(&classes, &[tokens], device)?;
        let logits = wide.trained();
        add(
            format!("cross-entropy and its gradient {t}x3072"),
            0,
            12 * t * 3072,
            Box::new(move || {
                backward(&cross_entropy(
                    &logits,
                    &classes,
                    &CrossEntropyOptions::default(),
                )?)
                .map(drop)
            }),
        );
    }
    {
        let ids: Vec<u32> = (0..tokens as u32)
            .map(|i| i.wrapping_mul(2_654_435_761) % 5000)
            .collect();
        let (ids, table) = (
            Tensor::from_slice(&ids, &[tokens], device)?,
            tensor_on(&[5000, 768], 5, device)?.trained(),
        );
        add(
            format!("embedding and its gradient {t} of 5000x768"),
            0,
            4 * (3 * t * d + 5000 * d),
            Box::new(move || backward(&table.gather_rows(&ids)?.sum_all()?).map(drop)),
        );
    }
    {
        let wide = wide.clone();
        add(
            format!("top 64 of {t}x3072"),
            0,
            4 * t * 3072,
            Box::new(move || wide.top_k(64).map(drop)),
        );
    }
    if device.as_cuda().is_some() {
        // A ViT's, whose windows share no pixel; and 3 by 3, in which 9 windows do.
        let images = (tokens / 128).max(1);
        for (size, [kernel, stride, padding]) in [(224usize, [16usize, 16, 0]), (64, [3, 1, 1])] {
            let windows = (size + 2 * padding - kernel) / stride + 1;
            let elements = [size * size, (windows * kernel).pow(2)].map(|n| images * 3 * n);
            for (kind, way) in [
                (Kind::Forward, ""),
                (Kind::Backward { beta: 0.0 }, "' gradient"),
            ] {
                let [x, y] = elements.map(|n| tensor_on(&[n], 14, device));
                let (x, y, own) = (x?, y?, device.clone());
                let mut patches = Patches {
                    kind,
                    batch: images,
                    groups: 1,
                    channels: 3,
                    image: [size; 2],
                    kernel: [kernel; 2],
                    stride: [stride; 2],
                    padding: [padding; 2],
                    dilation: [1; 2],
                    x: 0,
                    y: 0,
                };
                let run = move || {
                    let Some(cuda) = own.as_cuda() else {
                        return Ok(());
                    };
                    (patches.x, patches.y) =
                        (cuda.address("patches", &x)?, cuda.address("patches", &y)?);
                    let (kernels, stream) = cuda.launcher();
                    // SAFETY: contiguous tensors of these sizes, which nobody else holds.
                    let launched = unsafe { patches.launch(kernels, stream) };
                    launched.map_err(|e| Error::Invalid(e.to_string()))
                };
                add(
                    format!("patches{way} {kernel}x{kernel} of {images} images 3x{size}x{size}"),
                    0,
                    patches.minimum_bytes(),
                    Box::new(run),
                );
            }
        }
    }
    {
        let (x, dy) = (wide.trained(), wide.clone());
        let ctx = Context::train(1, 0);
        add(
            format!("dropout and its gradient {t}x3072"),
            0,
            16 * t * 3072,
            Box::new(move || {
                backward_with(&dropout(&x, 0.1, &ctx, "speed")?, dy.clone()).map(drop)
            }),
        );
    }
    {
        let heads = tensor_on(&[12, tokens, 64], 13, device)?;
        let (x, turn) = (heads.trained(), Rotation::first(tokens, 64, 1e4, device)?);
        add(
            format!("rotary and its gradient, 12 heads of {t}x64"),
            0,
            4 * (4 * 12 * t * 64 + 2 * t * 64),
            Box::new(move || backward_with(&turn.rotate(&x)?, heads.clone()).map(drop)),
        );
    }
    {
        let device = device.clone();
        let key = RandomKey::new(1, Purpose::Noise, "speed");
        add(
            format!("normal numbers {t}x3072"),
            0,
            4 * t * 3072,
            Box::new(move || {
                Tensor::random(&[tokens, 3072], Distribution::Normal, key, &device).map(drop)
            }),
        );
    }
    {
        let (store, count) = (Store::new(device, 0), (tokens / 32).clamp(1, 48));
        let params = (0..count)
            .map(|i| {
                store
                    .root()
                    .param(&format!("p{i}"), &[768, 768], Init::Normal(0.1))
            })
            .collect::<Result<Vec<_>>>()?;
        let mut grads = Gradients::default();
        for p in &params {
            grads.set(p.id(), p.value().deep_clone()?);
        }
        let mut adam = AdamW::new(0.01);
        add(
            format!("AdamW of {count} matrices 768x768"),
            0,
            7 * 4 * count as u64 * d * d,
            Box::new(move || adam.step(&params, &grads, 1e-4)),
        );
    }
    {
        let sequences = (tokens / 128).max(1);
        let of = |seed| tensor_on(&[sequences, 12, 128, 64], seed, device);
        let (q, k, v) = (of(6)?.trained(), of(7)?.trained(), of(8)?.trained());
        let flops = 4 * (sequences * 12 * 128 * 128 * 64) as u64;
        let bytes = 4 * 4 * (sequences * 12 * 128 * 64) as u64;
        let name = format!("{sequences} sequences of 128, 12 heads of 64");
        if device.as_cuda().is_some() {
            for operands in &Operands::ALL {
                let [a, b, c] = [&q, &k, &v].map(|x| x.converted(operands.dtype));
                let (a, b, c, device) = (a?, b?, c?, device.clone());
                let size = operands.dtype.size() as u64;
                add(
                    format!("attention, {name}, {}", operands.name),
                    flops,
                    bytes / 16 * (3 * size + 4),
                    Box::new(move || {
                        let whole = AttentionOptions::default();
                        on_tensor_cores(&device, || attention(&a, &b, &c, &whole).map(drop))
                    }),
                );
            }
            let (q, k, v, device) = (q.clone(), k.clone(), v.clone(), device.clone());
            add(
                format!("attention and its gradient, {name}, tf32"),
                flops / 2 * 7,
                3 * bytes,
                Box::new(move || {
                    on_tensor_cores(&device, || {
                        let y = attention(&q, &k, &v, &AttentionOptions::default())?;
                        backward(&y.sum_all()?).map(drop)
                    })
                }),
            );
        }
        let whole = AttentionOptions::default();
        let (a, b, c) = (q.detach(), k.detach(), v.detach());
        add(
            format!("attention, {name}"),
            flops,
            bytes,
            Box::new(move || attention(&a, &b, &c, &whole).map(drop)),
        );
        // Backward makes the weights again: five products beside the two.
        add(
            format!("attention and its gradient, {name}"),
            flops / 2 * 7,
            3 * bytes,
            Box::new(move || {
                backward(&attention(&q, &k, &v, &AttentionOptions::default())?.sum_all()?).map(drop)
            }),
        );
    }
    all.extend(updates(device, tokens)?);
    Ok(all)
}

/// A linear of x, W and an update's parameters.
type Updated = Box<dyn Fn(&Tensor, &Tensor, &[Tensor]) -> Result<Tensor>>;

const SNELL: KernelizedSparse = KernelizedSparse {
    heads: 2,
    kernel: Kernel::Distance { scale: 0.1 },
    competition: Competition::Quantile(0.9),
    values: Values::Soft,
};

const RANDLORA: RandomBasis = RandomBasis {
    rank: 32,
    scale: 0.5,
    seed: 1,
    bases: Bases::Uniform,
    distinct: usize::MAX,
};

/// Frozen linears with an update of each family, and their gradients: at least W is read twice, and parameters with their gradients.
fn updates(device: &Device, tokens: usize) -> Result<Vec<Subject>> {
    const N: usize = 768;
    let x = tensor_on(&[tokens, N], 1, device)?.trained();
    let mut all = Vec::new();
    // `flops` but for the products with x and dy.
    let mut add = |name: &str, m: usize, shapes: &[&[usize]], flops: usize, update: Updated| {
        let (x, w) = (x.clone(), tensor_on(&[m, N], 9, device)?);
        let params: Vec<Tensor> = (shapes.iter().zip(10..))
            .map(|(shape, seed)| Ok(tensor_on(shape, seed, device)?.trained()))
            .collect::<Result<_>>()?;
        let trained: usize = params.iter().map(Tensor::len).sum();
        let numbers = 4 * tokens * (m + N) + 2 * m * N + 3 * trained;
        let (method, setting) = name.split_once(", ").unwrap_or((name, ""));
        all.push(Subject {
            name: format!("{method} linear and its gradient {tokens}x{m}x{N}, {setting}"),
            flops: (4 * tokens * m * N + flops) as u64,
            bytes: 4 * numbers as u64,
            run: Box::new(move || backward(&update(&x, &w, &params)?.sum_all()?).map(drop)),
        });
        Ok::<(), Error>(())
    };
    let thin = |m: usize, r: usize| 8 * tokens * r * (m + N);
    // G, of what does not factor.
    let gradient = 2 * tokens * N * N;
    add(
        "low-rank, r = 8",
        3072,
        &[&[8, N], &[3072, 8]],
        thin(3072, 8),
        Box::new(|x, w, p| low_rank_linear(x, w, None, &p[0], &p[1], None, 2.0)),
    )?;
    let core = Core::new(&[8, 16, 24, 32, 40, 48, 56, 64])?;
    let entries = core.entries();
    add(
        "triangular, r = 64",
        N,
        &[&[64, N], &[N, 64], &[entries], &[entries]],
        thin(N, 64) + 6 * N * 64 * 64,
        Box::new(move |x, w, p| {
            let a = triangular_matmul(&core, Some(&p[2]), Some(&p[3]), &p[0])?;
            low_rank_linear(x, w, None, &a, &p[1], None, 2.0)
        }),
    )?;
    add(
        "block-affine, b = 64",
        N,
        &[&[N / 64, 64, 64]],
        gradient + 6 * N * N * 64,
        Box::new(|x, w, p| block_affine_linear(x, w, None, &p[0])),
    )?;
    // K is made four times for the threshold, twice for W + ΔW, once for its gradient.
    add(
        "kernelized-sparse, r = 2 x 8",
        N,
        &[&[2, N, 8], &[2, N, 8]],
        gradient + (7 * 3 + 6) * N * N * 16,
        Box::new(|x, w, p| kernelized_sparse_linear(x, w, None, (&p[0], &p[1]), SNELL)),
    )?;
    let terms = RANDLORA.terms(N, N);
    add(
        "random-basis, r = 32",
        N,
        &[&[32, terms], &[terms, N]],
        gradient + 6 * N * N * N,
        Box::new(|x, w, p| random_basis_linear(x, w, None, (&p[0], &p[1]), RANDLORA)),
    )?;
    Ok(all)
}

/// Seconds that it takes, the median of nine measurements after a warm-up; a GPU's is asked for often enough between two waits
/// that these do not count.
///
/// # Errors
/// Its own.
pub fn seconds(subject: &mut Subject, cuda: Option<&Cuda>, at_least: f64) -> Result<f64> {
    let finish = || cuda.map_or(Ok(()), Cuda::synchronize);
    (subject.run)()?;
    finish()?;
    let mut of = |count: usize| -> Result<f64> {
        let start = Instant::now();
        for _ in 0..count {
            (subject.run)()?;
        }
        finish()?;
        Ok(start.elapsed().as_secs_f64() / count as f64)
    };
    let once = of(1)?;
    let count = ((at_least / once) as usize).clamp(1, 1000);
    let mut all = (0..9).map(|_| of(count)).collect::<Result<Vec<f64>>>()?;
    Ok(median(&mut all))
}
