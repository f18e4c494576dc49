//! Order statistics of a row. NaN counts as larger than every number; ties go to the lower index.

use std::cmp::Ordering;

fn larger_first(a: f32, b: f32) -> Ordering {
    b.partial_cmp(&a)
        .unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
}

/// The `values.len()` largest elements in decreasing order and their indices.
pub fn top_k(row: &[f32], values: &mut [f32], indices: &mut [u32]) {
    let k = values.len();
    let mut order: Vec<u32> = (0..row.len() as u32).collect();
    // No two indices compare equal, so that an unstable sort has one outcome.
    let before = |i: &u32, j: &u32| -> Ordering {
        larger_first(row[*i as usize], row[*j as usize]).then(i.cmp(j))
    };
    if 0 < k && k < order.len() {
        order.select_nth_unstable_by(k - 1, before);
    }
    order.truncate(k);
    order.sort_unstable_by(before);
    for ((v, slot), i) in values.iter_mut().zip(indices).zip(order) {
        (*v, *slot) = (row[i as usize], i);
    }
}

/// The `k`-th smallest element, from 0.
pub fn kth_value(row: &[f32], k: usize) -> f32 {
    let mut row = row.to_vec();
    *row.select_nth_unstable_by(k, |a, b| larger_first(*b, *a)).1
}
