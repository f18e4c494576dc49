//! Decompositions and solvers for matrices, by `faer`, in f64 on the host; outside the tape.
//!
//! A result comes back as f32 on its operand's device. `faer` runs on the calling thread alone, so that results do not
//! depend on the number of threads. Signs that a decomposition leaves open are fixed: see each function.

use faer::linalg::solvers::Solve;
use faer::{Mat, MatRef, Par, Side};

use crate::device::{Device, Distribution};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::finite::Census;
use crate::random::RandomKey;
use crate::tensor::Tensor;

/// Column directions of a range finder beyond those asked for.
const OVERSAMPLING: usize = 8;
/// Power iterations of a range finder.
const ITERATIONS: usize = 4;

/// `A = U·diag(s)·Vᵀ`.
#[derive(Debug, Clone)]
pub struct Svd {
    /// Left singular vectors, `[m, k]`; each one's element of the largest magnitude is positive.
    pub u: Tensor,
    /// Singular values, decreasing, `[k]`.
    pub s: Tensor,
    /// Right singular vectors, `[n, k]`.
    pub v: Tensor,
}

/// `P·A = L·U`.
#[derive(Debug, Clone)]
pub struct Lu {
    /// Row `i` of `P·A` is row `perm[i]` of A; u32.
    pub perm: Tensor,
    /// Unit lower triangular, `[m, min(m, n)]`.
    pub l: Tensor,
    /// Upper triangular, `[min(m, n), n]`.
    pub u: Tensor,
}

/// The matrix in f64.
fn matrix(op: &'static str, operand: &str, a: &Tensor) -> Result<Mat<f64>> {
    faer::set_global_parallelism(Par::Seq);
    let &[m, n] = a.shape() else {
        return Err(Error::shape(
            op,
            format!("{operand} is {:?}, wanted a matrix", a.shape()),
        ));
    };
    let census = Census::of(a)?;
    if !census.is_finite() {
        return Err(Error::Numeric {
            op,
            detail: format!("{operand} holds {}", census.describe(a.shape())),
        });
    }
    let values = a.to_vec::<f64>()?;
    Ok(Mat::from_fn(m, n, |i, j| values[i * n + j]))
}

fn square(op: &'static str, a: &Tensor) -> Result<Mat<f64>> {
    let mat = matrix(op, "A", a)?;
    if mat.nrows() != mat.ncols() {
        return Err(Error::shape(
            op,
            format!("A is {:?}, wanted a square matrix", a.shape()),
        ));
    }
    Ok(mat)
}

/// A square matrix whose halves agree to a few roundings of f32.
fn symmetric(op: &'static str, a: &Tensor) -> Result<Mat<f64>> {
    let mat = square(op, a)?;
    let slack = 16.0 * f64::from(f32::EPSILON) * mat.norm_max();
    for i in 0..mat.nrows() {
        for j in 0..i {
            if (mat[(i, j)] - mat[(j, i)]).abs() > slack {
                return Err(Error::Numeric {
                    op,
                    detail: format!(
                        "A is not symmetric: {} at [{i}, {j}], {} at [{j}, {i}]; pass (A + Aᵀ)/2 if that is meant",
                        mat[(i, j)],
                        mat[(j, i)]
                    ),
                });
            }
        }
    }
    Ok(mat)
}

fn tensor(mat: MatRef<'_, f64>, device: &Device) -> Result<Tensor> {
    let (m, n) = (mat.nrows(), mat.ncols());
    let values: Vec<f64> = (0..m * n).map(|i| mat[(i / n, i % n)]).collect();
    written(&values, &[m, n], device)
}

fn written(values: &[f64], shape: &[usize], device: &Device) -> Result<Tensor> {
    let mut out = Tensor::empty(shape, DType::F32, device)?;
    let backend = device.backend();
    backend.write(&mut out, DType::F64, bytemuck::cast_slice(values))?;
    Ok(out)
}

fn stuck(op: &'static str) -> Error {
    Error::Numeric {
        op,
        detail: "the iteration did not converge".into(),
    }
}

/// Makes the largest element of each column of `lead` positive; `follow`'s columns turn with it.
fn fix_signs(lead: &mut Mat<f64>, follow: Option<&mut Mat<f64>>) {
    let turned: Vec<bool> = (0..lead.ncols())
        .map(|j| {
            let largest = (0..lead.nrows())
                .map(|i| lead[(i, j)])
                .fold(0.0f64, |a, b| if b.abs() > a.abs() { b } else { a });
            largest < 0.0
        })
        .collect();
    let turn = |mat: &mut Mat<f64>| {
        for (j, _) in turned.iter().enumerate().filter(|(_, t)| **t) {
            for i in 0..mat.nrows() {
                mat[(i, j)] = -mat[(i, j)];
            }
        }
    };
    turn(lead);
    if let Some(follow) = follow {
        turn(follow);
    }
}

fn thin(op: &'static str, mat: &Mat<f64>) -> Result<(Mat<f64>, Vec<f64>, Mat<f64>)> {
    let svd = mat.thin_svd().map_err(|_| stuck(op))?;
    let s = svd.S().column_vector().iter().copied().collect();
    Ok((svd.U().to_owned(), s, svd.V().to_owned()))
}

fn svd_parts(mut u: Mat<f64>, s: &[f64], mut v: Mat<f64>, device: &Device) -> Result<Svd> {
    fix_signs(&mut u, Some(&mut v));
    Ok(Svd {
        u: tensor(u.as_ref(), device)?,
        s: written(s, &[s.len()], device)?,
        v: tensor(v.as_ref(), device)?,
    })
}

/// The singular value decomposition with all `k = min(m, n)` values.
///
/// # Errors
/// No matrix, elements that are not finite, no convergence.
pub fn svd(a: &Tensor) -> Result<Svd> {
    let (u, s, v) = thin("svd", &matrix("svd", "A", a)?)?;
    svd_parts(u, &s, v, a.device())
}

/// The numerical rank: singular values above `max(m, n)·2⁻²³` of the largest, what rounding to f32 leaves of a smaller rank.
///
/// # Errors
/// As [`svd`].
pub fn rank(a: &Tensor) -> Result<usize> {
    let (_, s, _) = thin("rank", &matrix("rank", "A", a)?)?;
    let long = a.shape().iter().copied().max().unwrap_or(0) as f64;
    let bound = s
        .first()
        .map_or(0.0, |s| s * long * f64::from(f32::EPSILON));
    Ok(s.iter().filter(|s| **s > bound).count())
}

/// The `k` largest singular values and their vectors by a randomised range finder (Halko, Martinsson & Tropp 2011):
/// `Q = orth((A·Aᵀ)⁴·A·Ω)` with k + 8 columns, then the decomposition of `Qᵀ·A`. Ω is normal, of the stream `key`.
/// The j-th value's relative error falls as `(σ_{k+9}/σ_j)⁹`.
///
/// # Errors
/// As [`svd`], and `k` beyond `min(m, n)`.
pub fn svd_top_k(a: &Tensor, k: usize, key: RandomKey) -> Result<Svd> {
    let mat = matrix("svd_top_k", "A", a)?;
    let (m, n) = (mat.nrows(), mat.ncols());
    if k > m.min(n) {
        return Err(Error::shape(
            "svd_top_k",
            format!(
                "k = {k} of a matrix {:?}, which has {}",
                a.shape(),
                m.min(n)
            ),
        ));
    }
    let width = (k + OVERSAMPLING).min(m.min(n));
    let omega = Tensor::random(&[n, width], Distribution::Normal, key, &Device::cpu())?;
    let orth = |y: Mat<f64>| y.qr().compute_thin_Q();
    let mut q = orth(&mat * matrix("svd_top_k", "Ω", &omega)?);
    for _ in 0..ITERATIONS {
        q = orth(&mat * orth(mat.transpose() * &q));
    }
    let (inner, s, v) = thin("svd_top_k", &(q.transpose() * &mat))?;
    let u = &q * inner.subcols(0, k);
    svd_parts(u, &s[..k], v.subcols(0, k).to_owned(), a.device())
}

/// Eigenvalues, increasing, `[n]`, and the eigenvectors in the columns of `[n, n]` of a symmetric matrix; each vector's
/// element of the largest magnitude is positive.
///
/// # Errors
/// No symmetric matrix, elements that are not finite, no convergence.
pub fn eigh(a: &Tensor) -> Result<(Tensor, Tensor)> {
    let mat = symmetric("eigh", a)?;
    let found = mat
        .self_adjoint_eigen(Side::Lower)
        .map_err(|_| stuck("eigh"))?;
    let values: Vec<f64> = found.S().column_vector().iter().copied().collect();
    let mut vectors = found.U().to_owned();
    fix_signs(&mut vectors, None);
    Ok((
        written(&values, &[values.len()], a.device())?,
        tensor(vectors.as_ref(), a.device())?,
    ))
}

/// `A = Q·R` with `k = min(m, n)`: Q `[m, k]` of orthonormal columns, R `[k, n]` upper triangular with no negative diagonal.
///
/// # Errors
/// No matrix, elements that are not finite.
pub fn qr(a: &Tensor) -> Result<(Tensor, Tensor)> {
    let found = matrix("qr", "A", a)?.qr();
    let (mut q, mut r) = (found.compute_thin_Q(), found.thin_R().to_owned());
    for i in (0..r.nrows()).filter(|i| found.thin_R()[(*i, *i)] < 0.0) {
        for j in 0..r.ncols() {
            r[(i, j)] = -r[(i, j)];
        }
        for j in 0..q.nrows() {
            q[(j, i)] = -q[(j, i)];
        }
    }
    Ok((
        tensor(q.as_ref(), a.device())?,
        tensor(r.as_ref(), a.device())?,
    ))
}

/// The lower triangular L with `A = L·Lᵀ` of a symmetric positive definite matrix.
///
/// # Errors
/// No symmetric matrix, elements that are not finite, a matrix that is not positive definite.
pub fn cholesky(a: &Tensor) -> Result<Tensor> {
    let mat = symmetric("cholesky", a)?;
    let found = mat.llt(Side::Lower).map_err(|error| {
        let faer::linalg::solvers::LltError::NonPositivePivot { index } = error;
        Error::Numeric {
            op: "cholesky",
            detail: format!(
                "A {:?} is not positive definite: the leading minor of order {} is not positive; add a multiple of the identity",
                a.shape(),
                index + 1
            ),
        }
    })?;
    tensor(found.L(), a.device())
}

/// The factorisation with partial pivoting.
///
/// # Errors
/// No matrix, elements that are not finite.
pub fn lu(a: &Tensor) -> Result<Lu> {
    let found = matrix("lu", "A", a)?.partial_piv_lu();
    let perm: Vec<u32> = found.P().arrays().0.iter().map(|i| *i as u32).collect();
    Ok(Lu {
        perm: Tensor::from_slice(&perm, &[perm.len()], a.device())?,
        l: tensor(found.L(), a.device())?,
        u: tensor(found.U(), a.device())?,
    })
}

/// Rows of a right-hand side `[n]` or `[n, c]`.
fn right_side(op: &'static str, b: &Tensor, n: usize) -> Result<Mat<f64>> {
    let column = if b.rank() == 1 {
        b.detach().unsqueeze(1)?
    } else {
        b.detach()
    };
    let mat = matrix(op, "b", &column)?;
    if mat.nrows() != n {
        return Err(Error::shape(
            op,
            format!("A has {n} rows, b is {:?}", b.shape()),
        ));
    }
    Ok(mat)
}

fn solution(x: MatRef<'_, f64>, like: &Tensor) -> Result<Tensor> {
    let x = tensor(x, like.device())?;
    if like.rank() == 1 {
        x.squeeze(1)
    } else {
        Ok(x)
    }
}

/// X with `A·X = B` for a square A; B is `[n]` or `[n, c]`.
///
/// # Errors
/// Shapes that do not fit, elements that are not finite, a singular A.
pub fn solve(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let mat = square("solve", a)?;
    let b_mat = right_side("solve", b, mat.nrows())?;
    let found = mat.partial_piv_lu();
    // A pivot that is lost in the roundings of the elimination.
    let tiny = mat.nrows() as f64 * f64::EPSILON * mat.norm_max();
    if let Some(i) = (0..mat.nrows()).find(|i| found.U()[(*i, *i)].abs() <= tiny) {
        return Err(Error::Numeric {
            op: "solve",
            detail: format!(
                "A {:?} is singular: pivot {i} is {:e}; `lstsq` gives the shortest of the nearest solutions",
                a.shape(),
                found.U()[(i, i)]
            ),
        });
    }
    solution(found.solve(&b_mat).as_ref(), b)
}

/// The shortest X that minimises `‖A·X − B‖`, through the singular values above `max(m, n)·ε·σ₁` (ε of f32).
///
/// # Errors
/// Shapes that do not fit, elements that are not finite, no convergence.
pub fn lstsq(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let mat = matrix("lstsq", "A", a)?;
    let b_mat = right_side("lstsq", b, mat.nrows())?;
    let (u, s, v) = thin("lstsq", &mat)?;
    let largest = s.first().copied().unwrap_or(0.0);
    let cut = mat.nrows().max(mat.ncols()) as f64 * f64::from(f32::EPSILON) * largest;
    let mut scaled = u.transpose() * &b_mat;
    for i in 0..scaled.nrows() {
        for j in 0..scaled.ncols() {
            scaled[(i, j)] = if s[i] > cut {
                scaled[(i, j)] / s[i]
            } else {
                0.0
            };
        }
    }
    solution((&v * scaled).as_ref(), b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;
    use proptest::prelude::*;

    fn normal(m: usize, n: usize, seed: u64) -> Tensor {
        let key = RandomKey::new(seed, Purpose::Sample, "matrix");
        Tensor::random(&[m, n], Distribution::Normal, key, &Device::cpu()).unwrap()
    }

    /// Elements differ by at most `count` roundings of numbers of size `size`.
    fn near(a: &Tensor, b: &Tensor, count: usize, size: f64) {
        assert_eq!(a.shape(), b.shape());
        let limit = count.max(1) as f64 * f64::from(f32::EPSILON) * size;
        for (x, y) in a
            .to_vec::<f64>()
            .unwrap()
            .iter()
            .zip(b.to_vec::<f64>().unwrap())
        {
            assert!((x - y).abs() <= limit, "{x} and {y}, {limit:e} allowed");
        }
    }

    fn eye(n: usize) -> Tensor {
        Tensor::eye(n, &Device::cpu()).unwrap()
    }

    #[test]
    fn by_hand() {
        let svd = svd(&Tensor::from([[3.0, 0.0], [0.0, -5.0]])).unwrap();
        assert_eq!(svd.s.to_vec::<f32>().unwrap(), [5.0, 3.0]);
        assert_eq!(svd.u.to_vec::<f32>().unwrap(), [0.0, 1.0, 1.0, 0.0]);
        assert_eq!(svd.v.to_vec::<f32>().unwrap(), [0.0, 1.0, -1.0, 0.0]);
        let (values, _) = eigh(&Tensor::from([[2.0, 1.0], [1.0, 2.0]])).unwrap();
        near(&values, &Tensor::from([1.0, 3.0]), 1, 3.0);
        let l = cholesky(&Tensor::from([[4.0, 2.0], [2.0, 5.0]])).unwrap();
        assert_eq!(l.to_vec::<f32>().unwrap(), [2.0, 0.0, 1.0, 2.0]);
        let x = solve(
            &Tensor::from([[0.0, 2.0], [4.0, 0.0]]),
            &Tensor::from([6.0, 8.0]),
        )
        .unwrap();
        assert_eq!(x.to_vec::<f32>().unwrap(), [2.0, 3.0]);
        // Two copies of one column share the weight: the shortest solution.
        let x = lstsq(
            &Tensor::from([[1.0, 1.0], [2.0, 2.0]]),
            &Tensor::from([2.0, 4.0]),
        )
        .unwrap();
        near(&x, &Tensor::from([1.0, 1.0]), 1, 1.0);
        let lu = lu(&Tensor::from([[1.0, 2.0], [4.0, 4.0]])).unwrap();
        assert_eq!(lu.perm.to_vec::<u32>().unwrap(), [1, 0]);
        assert_eq!(lu.l.to_vec::<f32>().unwrap(), [1.0, 0.0, 0.25, 1.0]);
        assert_eq!(lu.u.to_vec::<f32>().unwrap(), [4.0, 4.0, 0.0, 1.0]);
    }

    #[test]
    fn the_rank_is_what_rounding_leaves() {
        let low = normal(40, 3, 1).matmul(&normal(3, 25, 2)).unwrap();
        assert_eq!(rank(&low).unwrap(), 3);
        assert_eq!(rank(&normal(40, 25, 3)).unwrap(), 25);
        assert_eq!(rank(&low.affine(0.0, 0.0).unwrap()).unwrap(), 0);
    }

    #[test]
    fn refusals_say_why() {
        let said = |e: Result<Tensor>| e.unwrap_err().to_string();
        let indefinite = Tensor::from([[1.0, 2.0], [2.0, 1.0]]);
        let message = said(cholesky(&indefinite));
        assert!(
            message.contains("not positive definite: the leading minor of order 2"),
            "{message}"
        );
        let message = said(cholesky(&Tensor::from([[1.0, 2.0], [0.0, 1.0]])));
        assert!(
            message.contains("not symmetric: 0 at [1, 0], 2 at [0, 1]"),
            "{message}"
        );
        let message = said(solve(
            &Tensor::from([[1.0, 2.0], [2.0, 4.0]]),
            &Tensor::from([1.0, 1.0]),
        ));
        assert!(message.contains("singular"), "{message}");
        let message = said(solve(
            &Tensor::from([[1.0, 2.0, 3.0]]),
            &Tensor::from([1.0]),
        ));
        assert_eq!(message, "solve: A is [1, 3], wanted a square matrix");
        let message = svd(&Tensor::from([[1.0, f32::NAN]]))
            .unwrap_err()
            .to_string();
        assert_eq!(
            message,
            "svd: A holds 1 NaN and 0 infinite of 2 element(s), the first at [0, 1]"
        );
        let key = RandomKey::new(0, Purpose::Sample, "");
        assert!(svd_top_k(&eye(3), 4, key).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// f64 inside: what is seen is the rounding of the factors to f32, each element of a product up to k of them.
        #[test]
        fn factors_multiply_to_the_matrix(m in 0usize..9, n in 0usize..9, seed: u64) {
            let (a, k) = (normal(m, n, seed), m.min(n));
            let size = 16.0;
            let parts = svd(&a).unwrap();
            let back = parts.u.mul(&parts.s).unwrap().matmul_t(&parts.v, false, true).unwrap();
            near(&back, &a, 3 * k, size);
            near(&parts.u.matmul_t(&parts.u, true, false).unwrap(), &eye(k), 2 * m, 1.0);
            near(&parts.v.matmul_t(&parts.v, true, false).unwrap(), &eye(k), 2 * n, 1.0);
            let (q, r) = qr(&a).unwrap();
            near(&q.matmul(&r).unwrap(), &a, 3 * k, size);
            near(&q.matmul_t(&q, true, false).unwrap(), &eye(k), 2 * m, 1.0);
            let f = lu(&a).unwrap();
            let permuted = a.gather_rows(&f.perm).unwrap();
            near(&f.l.matmul(&f.u).unwrap(), &permuted, 3 * k, size);
        }

        #[test]
        fn solvers_solve(n in 1usize..8, extra in 0usize..4, columns in 1usize..3, seed: u64) {
            // Diagonally heavy, so that the inverse is of order one.
            let a = normal(n, n, seed).affine(0.25, 0.0).unwrap().add(&eye(n).affine(4.0, 0.0).unwrap()).unwrap();
            let b = normal(n, columns, seed ^ 1);
            near(&a.matmul(&solve(&a, &b).unwrap()).unwrap(), &b, 4 * n, 16.0);
            let tall = normal(n + extra, n, seed ^ 2);
            // Of a consistent system the residual is 0: AᵀA·x = Aᵀb.
            let x = normal(n, columns, seed ^ 3);
            let found = lstsq(&tall, &tall.matmul(&x).unwrap()).unwrap();
            let gram = tall.matmul_t(&tall, true, false).unwrap();
            near(&gram.matmul(&found).unwrap(), &gram.matmul(&x).unwrap(), 16 * (n + extra), 256.0);
            let l = cholesky(&gram.add(&eye(n)).unwrap()).unwrap();
            near(&l.matmul_t(&l, false, true).unwrap(), &gram.add(&eye(n)).unwrap(), 3 * n, 64.0);
            let (values, vectors) = eigh(&gram).unwrap();
            near(&vectors.mul(&values).unwrap().matmul_t(&vectors, false, true).unwrap(), &gram, 3 * n, 64.0);
        }
    }

    #[test]
    fn the_randomised_form_finds_the_largest() {
        // Singular values 2^−i: (σ_{k+9}/σ_k)⁹ is far below f32's roundings.
        let (u, _) = qr(&normal(60, 30, 1)).unwrap();
        let (v, _) = qr(&normal(40, 30, 2)).unwrap();
        let s: Vec<f32> = (0..30).map(|i| 0.5f32.powi(i)).collect();
        let s = Tensor::from_slice(&s, &[30], &Device::cpu()).unwrap();
        let a = u.mul(&s).unwrap().matmul_t(&v, false, true).unwrap();
        let whole = svd(&a).unwrap();
        let key = RandomKey::new(5, Purpose::Sample, "range");
        let top = svd_top_k(&a, 4, key).unwrap();
        near(&top.s, &whole.s.narrow(0, 0, 4).unwrap(), 1, 1.0);
        // Vectors of values that lie 1/8 apart turn by roundings over the gap.
        near(&top.u, &whole.u.narrow(1, 0, 4).unwrap(), 8, 1.0);
        near(&top.v, &whole.v.narrow(1, 0, 4).unwrap(), 8, 1.0);
    }
}
