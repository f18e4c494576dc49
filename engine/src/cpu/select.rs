//! Order statistics of a row. NaN counts as larger than every number; ties go to the lower index.

fn larger_first(a: f32, b: f32) -> std::cmp::Ordering {
    b.partial_cmp(&a)
        .unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
}

/// The `values.len()` largest elements in decreasing order and their indices.
pub fn top_k(row: &[f32], values: &mut [f32], indices: &mut [u32]) {
    let mut order: Vec<u32> = (0..row.len() as u32).collect();
    order.sort_by(|i, j| larger_first(row[*i as usize], row[*j as usize]).then(i.cmp(j)));
    for ((v, slot), i) in values.iter_mut().zip(indices).zip(order) {
        (*v, *slot) = (row[i as usize], i);
    }
}

/// The `k`-th smallest element, from 0.
pub fn kth_value(row: &[f32], k: usize) -> f32 {
    let mut row = row.to_vec();
    *row.select_nth_unstable_by(k, |a, b| larger_first(*b, *a)).1
}
