//! The products: C = A·B by register tiles of a few rows and vectors.

use pulp::Simd;

use crate::cpu::simd::LANES;

/// `C = A·B`, or `C += A·B` with `add`: A m×k with any strides, rows of B and C contiguous, n rounded up to [`LANES`].
#[inline(always)]
pub(super) fn product<S: Simd>(
    simd: S,
    [m, n, k]: [usize; 3],
    (a, a_row, a_col): (&[f32], usize, usize),
    (b, b_row): (&[f32], usize),
    (c, c_row): (&mut [f32], usize),
    add: bool,
) {
    let n = n.next_multiple_of(LANES);
    if m == 0 || n == 0 {
        return;
    }
    assert!(c.len() >= (m - 1) * c_row + n, "attention: C is too short");
    if k > 0 {
        assert!(
            a.len() > (m - 1) * a_row + (k - 1) * a_col && b.len() >= (k - 1) * b_row + n,
            "attention: A or B is too short"
        );
    }
    let lanes = S::F32_LANES;
    // 16 lanes come with 32 registers, which hold twice the sums.
    let most = if lanes == 16 { 8 } else { 4 };
    for j in (0..n).step_by(2 * lanes) {
        let mut i = 0;
        while i < m {
            let rows = if m - i >= most { most } else { (m - i).min(4) };
            // SAFETY: the assertions cover rows below m, columns below n and sums below k; the tile stays inside them.
            unsafe {
                let a = a.as_ptr().add(i * a_row);
                let (b, c) = (b.as_ptr().add(j), c.as_mut_ptr().add(i * c_row + j));
                macro_rules! run {
                    ($rows:literal, $vectors:literal) => {
                        tile::<S, $rows, $vectors>(
                            simd,
                            k,
                            (a, a_row, a_col),
                            (b, b_row),
                            (c, c_row),
                            add,
                        )
                    };
                }
                match (rows, n - j > lanes) {
                    (1, false) => run!(1, 1),
                    (1, true) => run!(1, 2),
                    (2, false) => run!(2, 1),
                    (2, true) => run!(2, 2),
                    (3, false) => run!(3, 1),
                    (3, true) => run!(3, 2),
                    (4, false) => run!(4, 1),
                    (4, true) => run!(4, 2),
                    (_, false) => run!(8, 1),
                    (_, true) => run!(8, 2),
                }
            }
            i += rows;
        }
    }
}

/// M rows × N vectors of C in registers; each element's sum runs along l.
///
/// # Safety
/// The addresses reached lie in the operands.
#[inline(always)]
unsafe fn tile<S: Simd, const M: usize, const N: usize>(
    simd: S,
    k: usize,
    (a, a_row, a_col): (*const f32, usize, usize),
    (b, b_row): (*const f32, usize),
    (c, c_row): (*mut f32, usize),
    add: bool,
) {
    // SAFETY: by this function's contract; vectors are read and written without alignment.
    unsafe {
        let mut sum = [[simd.splat_f32s(0.0); N]; M];
        if add {
            for i in 0..M {
                for j in 0..N {
                    sum[i][j] = c.add(i * c_row).cast::<S::f32s>().add(j).read_unaligned();
                }
            }
        }
        for l in 0..k {
            let mut row = [simd.splat_f32s(0.0); N];
            for j in 0..N {
                row[j] = b.add(l * b_row).cast::<S::f32s>().add(j).read_unaligned();
            }
            for i in 0..M {
                let x = simd.splat_f32s(*a.add(i * a_row + l * a_col));
                for j in 0..N {
                    sum[i][j] = simd.mul_add_f32s(x, row[j], sum[i][j]);
                }
            }
        }
        for i in 0..M {
            for j in 0..N {
                c.add(i * c_row)
                    .cast::<S::f32s>()
                    .add(j)
                    .write_unaligned(sum[i][j]);
            }
        }
    }
}
