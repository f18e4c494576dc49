//! How near generated samples are to real ones, by the features of a classifier.
//!
//! Features are rows of an `[N, d]` tensor. Which network they come from decides what a distance means: these are not the
//! published FID and sFID, which use Inception's.

use deltaw_engine::linalg;
use deltaw_engine::prelude::*;

/// Samples as rows: their mean, and R of the centred rows' QR, so that RᵀR/(N − 1) is their covariance.
struct Moments {
    mean: Tensor,
    r: Tensor,
    count: usize,
}

impl Moments {
    fn of(x: &Tensor) -> Result<Self> {
        let &[count, features] = x.shape() else {
            let detail = format!("features are {:?}, wanted [N, d]", x.shape());
            return Err(Error::Invalid(detail));
        };
        if count < 2 || features == 0 {
            let detail =
                format!("{count} rows of {features} features; a covariance wants two rows");
            return Err(Error::Invalid(detail));
        }
        // The oracle computes in f64.
        let x = x.detach().to_device(&Device::oracle())?;
        let mean = x.mean_keep(&[0])?;
        let (_, r) = linalg::qr(&x.sub(&mean)?)?;
        Ok(Moments { mean, r, count })
    }

    fn freedom(&self) -> f64 {
        (self.count - 1) as f64
    }

    /// tr Σ.
    fn trace(&self) -> Result<f64> {
        Ok(self.r.square()?.sum_all()?.item()? / self.freedom())
    }
}

/// The Fréchet distance of the normals that two sets of features `[N, d]` and `[M, d]` suggest (Dowson & Landau 1982; Heusel
/// et al. 2017):
///
/// ```text
/// ‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2·tr (Σ₁Σ₂)^½,      tr (Σ₁Σ₂)^½ = ‖R₁R₂ᵀ‖_* / √((N − 1)(M − 1))
/// ```
///
/// The nuclear norm of the centred sets' R factors stands for the roots of the covariances, which need not be regular. The
/// distance of small sets is too large, by about 1/N: compare sets of equal sizes only.
///
/// # Errors
/// Sets of fewer than two rows, of other widths, or with elements that are not finite.
pub fn frechet_distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    no_grad(|| {
        let (a, b) = (Moments::of(a)?, Moments::of(b)?);
        if a.mean.last_dim() != b.mean.last_dim() {
            return Err(Error::Invalid(format!(
                "Fréchet distance of {} and {} features",
                a.mean.last_dim(),
                b.mean.last_dim()
            )));
        }
        let apart = a.mean.sub(&b.mean)?.square()?.sum_all()?.item()?;
        let common = linalg::svd(&a.r.matmul(&b.r.t()?)?)?.s.sum_all()?.item()?;
        let common = common / (a.freedom() * b.freedom()).sqrt();
        Ok((apart + a.trace()? + b.trace()? - 2.0 * common).max(0.0))
    })
}

/// Improved precision and recall (Kynkäänniemi et al. 2019).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Manifold {
    /// Share of generated samples that lie within the distance to the k-th neighbour of some real one.
    pub precision: f64,
    /// Share of real samples that lie so near to some generated one.
    pub recall: f64,
}

/// Precision and recall of generated features `[M, d]` against real ones `[N, d]`, by k-th neighbours.
///
/// # Errors
/// Sets of no more than k rows, or of other widths.
pub fn precision_recall(real: &Tensor, generated: &Tensor, k: usize) -> Result<Manifold> {
    let (real, generated) = (Cloud::of(real, k)?, Cloud::of(generated, k)?);
    if real.width != generated.width {
        return Err(Error::Invalid(format!(
            "precision of {} features by {}",
            generated.width, real.width
        )));
    }
    Ok(Manifold {
        precision: real.covers(&generated),
        recall: generated.covers(&real),
    })
}

/// Points with the squared distance of each to its k-th neighbour.
struct Cloud {
    points: Vec<f64>,
    width: usize,
    radii: Vec<f64>,
}

fn squared(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

impl Cloud {
    fn of(x: &Tensor, k: usize) -> Result<Self> {
        let &[count, width] = x.shape() else {
            let detail = format!("features are {:?}, wanted [N, d]", x.shape());
            return Err(Error::Invalid(detail));
        };
        if k == 0 || count <= k || width == 0 {
            let detail = format!("the {k}-th neighbour among {count} points of {width} features");
            return Err(Error::Invalid(detail));
        }
        let points = x.to_vec::<f64>()?;
        let rows = || points.chunks_exact(width);
        let radii = rows().map(|p| {
            let mut distances: Vec<f64> = rows().map(|q| squared(p, q)).collect();
            // The nearest of all is the point itself.
            *distances.select_nth_unstable_by(k, f64::total_cmp).1
        });
        Ok(Cloud {
            radii: radii.collect(),
            points,
            width,
        })
    }

    /// The share of the other's points inside some ball of this one's.
    fn covers(&self, other: &Cloud) -> f64 {
        let rows = |cloud: &Cloud| cloud.points.len() / cloud.width;
        let inside = |q: &&[f64]| {
            let balls = self.points.chunks_exact(self.width).zip(&self.radii);
            balls
                .into_iter()
                .any(|(p, radius)| squared(p, q) <= *radius)
        };
        let count = other
            .points
            .chunks_exact(other.width)
            .filter(inside)
            .count();
        count as f64 / rows(other) as f64
    }
}
