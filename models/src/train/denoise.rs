//! Diffusion models: training on pictures, the loss on held-out ones, and samples beside real ones.

use deltaw_engine::prelude::*;
use serde::{Deserialize, Serialize};

use super::Learner;
use super::pictures::{Seen, Seer};
use crate::components::Partition;
use crate::data::draw::Draw;
use crate::data::images::{ImageSet, Normalisation};
use crate::data::order::Order;
use crate::diffusion::{self, Process, Sampler};
use crate::dit::{Dit, DitConfig};
use crate::experiment::{Cell, Result, Stage};
use crate::metrics::{frechet_distance, precision_recall};

/// Share of samples that are trained without their class, for guidance.
const UNLABELLED: f64 = 0.1;
/// Samples computed at a time.
const ROWS: usize = 64;
/// The neighbour whose distance is the radius of precision and recall.
const NEIGHBOUR: usize = 3;

/// Whose tailors a sample is trained with, where weights are in components.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Routing {
    /// Those of its class's group; without a class, none.
    Own,
    /// All.
    Open,
    /// Those of a group that its class is given anew, at random, in every step.
    Random,
}

/// How samples are drawn: DDIM (η = 0) with guidance.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Steps of the process that are taken.
    pub steps: usize,
    /// s of [`Dit::guided`].
    pub guidance: f64,
}

/// A DiT with pictures to learn from.
pub struct Denoiser<'a> {
    /// Parameters and sites.
    pub store: Store,
    /// The model.
    pub dit: Dit,
    process: Process,
    pictures: &'a ImageSet,
    routing: Routing,
}

impl<'a> Denoiser<'a> {
    /// A new model of linear noise in 1000 steps; what it has not of a base is drawn from `seed`.
    ///
    /// # Errors
    /// Sizes that do not divide.
    pub fn new(
        config: &DitConfig,
        partition: Option<&Partition>,
        pictures: &'a ImageSet,
        routing: Routing,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let store = Store::new(device, seed);
        Ok(Denoiser {
            dit: Dit::new(&store.root(), config, partition)?,
            store,
            process: Process::linear(1000),
            pictures,
            routing,
        })
    }

    /// The class that stands for none.
    fn unlabelled(&self) -> u32 {
        self.dit.config().num_embeds_ada_norm as u32
    }

    /// The group of a class: as many classes in each, in their order.
    fn group(&self, class: u32) -> u32 {
        match self.dit.partition() {
            Some(partition) if class < self.unlabelled() => {
                class * partition.groups as u32 / self.unlabelled()
            }
            _ => u32::MAX,
        }
    }

    /// Classes of a training step, some left out, and the groups that the samples are trained with.
    fn step(&self, seed: u64, step: u64, labels: &[u32]) -> (Vec<u32>, Vec<u32>) {
        let mut draw = Draw::at(seed, "unlabelled", &[step]);
        let classes: Vec<u32> = (labels.iter())
            .map(|label| match draw.uniform() < UNLABELLED {
                true => self.unlabelled(),
                false => *label,
            })
            .collect();
        let mut groups: Vec<u32> =
            (0..self.dit.partition().map_or(0, |p| p.groups as u32)).collect();
        if self.routing == Routing::Random {
            Draw::at(seed, "random tailors", &[step]).shuffle(&mut groups);
        }
        let given = |class: &u32| {
            let own = self.group(*class) as usize;
            groups.get(own).copied().unwrap_or(u32::MAX)
        };
        let route = classes.iter().map(given).collect();
        (classes, route)
    }

    /// In how many of the first `steps` steps of a run each group's tailors are updated.
    ///
    /// # Errors
    /// No pictures.
    pub fn updates(&self, seed: u64, steps: u64, batch: usize) -> Result<Vec<usize>> {
        let mut order = self.order(seed, batch)?;
        let mut counts = vec![0; self.dit.partition().map_or(0, |p| p.groups)];
        for step in 0..steps {
            let items = order.next_batch(batch);
            let labels: Vec<u32> = (items.iter())
                .map(|i| self.pictures.labels[*i as usize])
                .collect();
            let (_, route) = self.step(seed, step, &labels);
            for (group, count) in counts.iter_mut().enumerate() {
                *count += usize::from(route.contains(&(group as u32)));
            }
        }
        Ok(counts)
    }

    fn gated(&self, ctx: Context, route: &[u32]) -> Result<Context> {
        Ok(match self.dit.partition() {
            Some(partition) if self.routing != Routing::Open => {
                ctx.with_gate(partition.gate(route, self.store.device())?)
            }
            _ => ctx,
        })
    }

    fn classes(&self, classes: &[u32]) -> Result<Tensor> {
        Ok(Tensor::from_slice(
            classes,
            &[classes.len()],
            self.store.device(),
        )?)
    }

    /// `mean ‖ε − ε̂‖²` of each picture over `levels` fixed pairs (t, ε), one t in each of as many equal parts of the process.
    /// `group` says whose tailors a class gets.
    ///
    /// # Errors
    /// An interruption, or pictures of another size.
    pub fn held_out(
        &self,
        stage: &Stage<'_>,
        set: &ImageSet,
        levels: usize,
        group: impl Fn(u32) -> u32,
    ) -> Result<Vec<f32>> {
        let mut losses = vec![0.0; set.len()];
        let items: Vec<u32> = (0..set.len() as u32).collect();
        for (level, rows) in (0..levels).flat_map(|l| items.chunks(ROWS).map(move |r| (l, r))) {
            stage.check()?;
            let batch = set.batch(rows, &Normalisation::SIGNED)?;
            let x0 = Tensor::from_slice(&batch.pixels, &batch.shape, self.store.device())?;
            let t: Vec<u32> = (rows.iter())
                .map(|item| {
                    let within =
                        Draw::at(0, "held-out", &[level as u64, u64::from(*item)]).uniform();
                    ((level as f64 + within) * self.process.len() as f64 / levels as f64) as u32
                })
                .collect();
            let key = RandomKey {
                step: level as u64,
                ..RandomKey::new(0, Purpose::Noise, "held-out")
            };
            let first = rows[0] as usize;
            let (window, width) = (first..first + rows.len(), x0.len() / rows.len());
            let noise =
                Tensor::random_window(window, 0..width, Distribution::Normal, key, x0.device())?
                    .reshape(&batch.shape)?;
            let route: Vec<u32> = batch.labels.iter().map(|c| group(*c)).collect();
            let ctx = self.gated(Context::eval(), &route)?;
            let one = no_grad(|| self.losses(&ctx, &x0, &noise, &t, &batch.labels))?;
            for (item, loss) in rows.iter().zip(one.to_vec::<f32>()?) {
                losses[*item as usize] += loss / levels as f32;
            }
        }
        Ok(losses)
    }

    /// The same with every class's own group.
    ///
    /// # Errors
    /// As [`Denoiser::held_out`].
    pub fn held_out_own(
        &self,
        stage: &Stage<'_>,
        set: &ImageSet,
        levels: usize,
    ) -> Result<Vec<f32>> {
        self.held_out(stage, set, levels, |class| self.group(class))
    }

    fn losses(
        &self,
        ctx: &Context,
        x0: &Tensor,
        noise: &Tensor,
        t: &[u32],
        classes: &[u32],
    ) -> Result<Tensor> {
        let noised = self.process.noised(x0, noise, t)?;
        let steps: Vec<f32> = t.iter().map(|t| *t as f32).collect();
        let predicted = self
            .dit
            .forward(ctx, &noised, &steps, &self.classes(classes)?)?;
        Ok(self.process.losses(&predicted, x0, noise, t)?)
    }

    /// A sample of each of these classes, `[N, C, H, W]` in [−1, 1].
    ///
    /// # Errors
    /// An interruption, or a class that is not there.
    pub fn samples(
        &self,
        stage: &Stage<'_>,
        classes: &[u32],
        sampling: Sampling,
        seed: u64,
    ) -> Result<Tensor> {
        let process = self.process.spaced(sampling.steps);
        let (side, channels) = (self.dit.config().sample_size, self.dit.config().in_channels);
        let mut parts = vec![];
        for (i, classes) in classes.chunks(ROWS).enumerate() {
            let route: Vec<u32> = classes.iter().map(|c| self.group(*c)).collect();
            let ctx = self.gated(Context::eval(), &route)?;
            let labels = self.classes(classes)?;
            let predict = |x: &Tensor, t: u32| {
                let t = vec![t as f32; classes.len()];
                self.dit.guided(&ctx, x, &t, &labels, sampling.guidance)
            };
            parts.push(diffusion::sample(
                &process,
                Sampler::Ddim { eta: 0.0 },
                &[classes.len(), channels, side, side],
                (seed, i * ROWS),
                true,
                self.store.device(),
                predict,
            )?);
            stage.check()?;
        }
        Ok(Tensor::concat(&parts.iter().collect::<Vec<_>>(), 0)?)
    }
}

impl Learner for Denoiser<'_> {
    fn store(&self) -> &Store {
        &self.store
    }

    fn order(&self, seed: u64, _: usize) -> Result<Order> {
        Ok(Order::new(self.pictures.len(), seed)?)
    }

    /// Steps t, noise and left-out classes depend on the run's seed and step alone: arms see the same.
    fn loss(&self, ctx: &Context, items: &[u32], step: u64) -> Result<Tensor> {
        let batch = self.pictures.batch(items, &Normalisation::SIGNED)?;
        let device = self.store.device();
        let x0 = Tensor::from_slice(&batch.pixels, &batch.shape, device)?;
        let mut draw = Draw::at(ctx.seed, "diffusion", &[step]);
        let t: Vec<u32> = (items.iter())
            .map(|_| draw.below(self.process.len()) as u32)
            .collect();
        let key = ctx.key(Purpose::Noise, "diffusion");
        let noise = Tensor::random(&batch.shape, Distribution::Normal, key, device)?;
        let (classes, route) = self.step(ctx.seed, step, &batch.labels);
        let ctx = self.gated(ctx.clone(), &route)?;
        Ok(self.losses(&ctx, &x0, &noise, &t, &classes)?.mean_all()?)
    }
}

/// How generated pictures compare with as many real ones, to the eyes of a classifier: the Fréchet distances of its features
/// (`FD`) and of its map of them (`spatial FD`), precision and recall, and how often it sees the class that was asked for.
///
/// # Errors
/// Too few pictures.
pub fn likeness(cell: Cell, real: &Seen, generated: &Seen, asked: &[u32]) -> Result<Cell> {
    let manifold = precision_recall(&real.features, &generated.features, NEIGHBOUR)?;
    let right = asked.iter().zip(&generated.classes).filter(|(a, b)| a == b);
    Ok(cell
        .metric("FD", frechet_distance(&real.features, &generated.features)?)
        .metric("spatial FD", frechet_distance(&real.map, &generated.map)?)
        .metric("precision", 100.0 * manifold.precision)
        .metric("recall", 100.0 * manifold.recall)
        .metric(
            "samples seen as asked",
            100.0 * right.count() as f64 / asked.len() as f64,
        ))
}

/// Pictures as a model's input, in [−1, 1].
///
/// # Errors
/// None but those of the device.
pub fn pixels(set: &ImageSet, seer: &Seer) -> Result<Tensor> {
    let items: Vec<u32> = (0..set.len() as u32).collect();
    let batch = set.batch(&items, &Normalisation::SIGNED)?;
    Ok(Tensor::from_slice(
        &batch.pixels,
        &batch.shape,
        &seer.device,
    )?)
}

/// A row for each class: `columns` real pictures, a gap, as many generated ones, in bytes `[height, width, 3]`; returns the width
/// too. Both sets `[N, 3, side, side]` hold pictures of the same classes.
///
/// # Errors
/// Sets that do not match.
pub fn side_by_side(
    real: &Tensor,
    generated: &Tensor,
    classes: &[u32],
    columns: usize,
) -> Result<(usize, Vec<u8>)> {
    let side = real.last_dim();
    let shape = [classes.len(), 3, side, side];
    real.expect_shape("side by side", "the real pictures", &shape)?;
    generated.expect_shape("side by side", "the generated pictures", &shape)?;
    let rows = classes.iter().max().map_or(0, |c| *c as usize + 1);
    // White, with a line between pictures and half a picture between the sets.
    let (cell, half) = (side + 1, columns * (side + 1));
    let width = 2 * half + side / 2;
    let mut rgb = vec![255u8; 3 * width * rows * cell];
    for (set, left) in [(real, 0), (generated, half + side / 2)] {
        let values = set.to_vec::<f32>()?;
        let mut taken = vec![0; rows];
        for (picture, class) in values.chunks_exact(3 * side * side).zip(classes) {
            let column = &mut taken[*class as usize];
            if *column == columns {
                continue;
            }
            let corner = *class as usize * cell * width + left + *column * cell;
            *column += 1;
            for (i, value) in picture.iter().enumerate() {
                let (channel, y, x) = (i / (side * side), i / side % side, i % side);
                let byte = (127.5 * (value.clamp(-1.0, 1.0) + 1.0)).round() as u8;
                rgb[3 * (corner + y * width + x) + channel] = byte;
            }
        }
    }
    Ok((width, rgb))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_rows_and_sets_are_halves() {
        let grey = |values: &[f32]| {
            // Pictures of 2×2 pixels of one grey each.
            let all: Vec<f32> = values.iter().flat_map(|v| [*v; 12]).collect();
            Tensor::from_slice(&all, &[values.len(), 3, 2, 2], &Device::cpu()).unwrap()
        };
        let (real, drawn) = (grey(&[-1.0, 0.0, 0.2]), grey(&[1.0, -3.0, -0.2]));
        let (width, rgb) = side_by_side(&real, &drawn, &[1, 0, 1], 1).unwrap();
        // A picture and its line, half a picture's gap, and again.
        assert_eq!(width, 3 + 1 + 3);
        let white = [255u8; 7];
        let row = |a: u8, b: u8| [a, a, 255, 255, b, b, 255];
        let want = [
            row(128, 0),
            row(128, 0),
            white,
            row(0, 255),
            row(0, 255),
            white,
        ]
        .concat();
        let red: Vec<u8> = rgb.iter().step_by(3).copied().collect();
        assert_eq!(red, want);
        assert!(side_by_side(&real, &drawn, &[1, 0], 1).is_err());
    }
}
