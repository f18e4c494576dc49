//! Copies by tiles: every element where it belongs, none beside, and the fewest sectors.

mod common;

use common::{Gpu, cases};
use deltaw_kernels::map::{Element, Function, MAX_RANK, Map, Operand};
use deltaw_kernels::transpose::{MIN_SIDE, Transpose};
use proptest::prelude::*;

const SIZES: [Element; 4] = [Element::U8, Element::F16, Element::F32, Element::I64];

/// Strides of a contiguous matrix of these sizes whose axes lie in this order, the last row axis `gap` elements longer.
fn strides(shape: &[usize], order: &[usize], gap: usize) -> [usize; MAX_RANK] {
    let (mut strides, mut step) = ([0; MAX_RANK], 1);
    for (i, axis) in order.iter().rev().enumerate() {
        strides[*axis] = step;
        step *= shape[*axis] + if i == 0 { gap } else { 0 };
    }
    strides
}

/// The elements that strides reach, in the shape's order.
fn reach(shape: &[usize], strides: &[usize; MAX_RANK]) -> Vec<usize> {
    let mut all = vec![0];
    for (n, stride) in shape.iter().zip(strides) {
        let places = all
            .iter()
            .flat_map(|at| (0..*n).map(move |i| at + i * stride));
        all = places.collect();
    }
    all
}

/// A copy from axes in one order to axes in another.
fn copy(element: Element, shape: &[usize], orders: [&[usize]; 2], gap: usize) -> Map {
    let operand = |order| Operand {
        pointer: 0,
        element,
        strides: strides(shape, order, gap),
    };
    Map {
        function: Function::Copy,
        constants: [0.0; 2],
        shape: shape.to_vec(),
        out: operand(orders[1]),
        inputs: vec![operand(orders[0])],
    }
}

/// Runs the transposition that a copy is; its memory after it, and what it should be: 0x55 wherever nothing is written.
fn run(gpu: &Gpu, mut map: Map) -> (Vec<u8>, Vec<u8>, Transpose) {
    let bytes = map.out.element.bytes();
    let [from, to] = [&map.inputs[0], &map.out].map(|x| reach(&map.shape, &x.strides));
    let size = |places: &[usize]| (places.iter().max().unwrap_or(&0) + 1) * bytes;
    let source: Vec<u8> = (0..size(&from)).map(|i| (i * 131 % 251) as u8).collect();
    let mut wanted = vec![0x55; size(&to)];
    let (_source, pointer) = gpu.upload(&source);
    map.inputs[0].pointer = pointer;
    let (out, pointer) = gpu.upload(&wanted);
    map.out.pointer = pointer;
    for (from, to) in from.iter().zip(&to) {
        wanted[to * bytes..][..bytes].copy_from_slice(&source[from * bytes..][..bytes]);
    }
    let transpose = Transpose::of(&map).expect("a transposition");
    // SAFETY: the operands' memory is as large as their strides reach, and read after the launch.
    unsafe { transpose.launch(&gpu.kernels, &gpu.stream) }.unwrap();
    gpu.finish().unwrap_or_else(|e| panic!("{map:?}: {e}"));
    (gpu.stream.clone_dtoh(&out).unwrap(), wanted, transpose)
}

thread_local! {
    static GPU: Gpu = Gpu::new(80);
}

proptest! {
    #![proptest_config(cases(48))]

    /// Any order of up to four axes whose last one changes, ragged, with gaps after rows that nobody writes to.
    #[test]
    fn every_element_arrives(
        size in 0..4usize, shape in prop::collection::vec(1..5usize, 2..=4), sides in [8..150usize, 8..90usize],
        keys: [u8; 8], gap in 0..4usize,
    ) {
        let (mut shape, rank) = (shape.clone(), shape.len());
        let order = |keys: &[u8]| {
            let mut order: Vec<usize> = (0..rank).collect();
            order.sort_by_key(|i| keys[*i]);
            order
        };
        let (from, mut to) = (order(&keys[..4]), order(&keys[4..]));
        if from[rank - 1] == to[rank - 1] {
            to.rotate_right(1);
        }
        (shape[from[rank - 1]], shape[to[rank - 1]]) = (sides[0], sides[1]);
        let map = copy(SIZES[size], &shape, [&from, &to], gap);
        let (got, wanted, _) = GPU.with(|gpu| run(gpu, map.clone()));
        prop_assert!(got == wanted, "{:?}", map);
    }
}

/// Matrices, `[B, T, H, D]` to `[B, H, D, T]`, and images' channels last to first: whole sectors only, each byte once, and no two
/// lanes in a bank, with whole tiles and with ragged ones.
#[test]
fn sectors_are_the_fewest_and_banks_free() {
    let copies: [(&[usize], &[usize], &[usize]); 5] = [
        (&[128, 192], &[0, 1], &[1, 0]),
        (&[96, 160], &[0, 1], &[1, 0]),
        (&[224, 32], &[1, 0], &[0, 1]),
        (&[2, 64, 3, 32], &[0, 1, 2, 3], &[0, 2, 3, 1]),
        (&[2, 64, 96], &[0, 1, 2], &[0, 2, 1]),
    ];
    for element in SIZES {
        for (shape, from, to) in copies {
            let gpu = Gpu::new(80);
            let (got, wanted, transpose) = run(&gpu, copy(element, shape, [from, to], 0));
            assert!(got == wanted, "{element:?} {shape:?}");
            let counters = gpu.virtual_device().launches().unwrap().remove(0).counters;
            let what = format!(
                "{element:?} {shape:?}: {:?} {:?}",
                counters.global, counters.shared
            );
            assert_eq!(counters.global.bytes, transpose.minimum_bytes(), "{what}");
            assert!(counters.global.efficiency() >= 0.95, "{what}");
            assert_eq!(counters.shared.units, counters.shared.ideal_units, "{what}");
        }
    }
}

/// What is no transposition is left to the element by element copy.
#[test]
fn other_copies_are_left() {
    let of = |shape: &[usize], from: &[usize], to: &[usize]| {
        Transpose::of(&copy(Element::F32, shape, [from, to], 0)).is_some()
    };
    assert!(of(&[8, 8], &[0, 1], &[1, 0]));
    assert!(!of(&[8, 8], &[0, 1], &[0, 1]), "the same order");
    assert!(!of(&[2, 3, 64], &[0, 1, 2], &[1, 0, 2]), "rows stay whole");
    assert!(!of(&[64, MIN_SIDE - 1], &[0, 1], &[1, 0]), "short rows");
    let mut map = copy(Element::F32, &[64, 64], [&[0, 1], &[1, 0]], 0);
    map.out.element = Element::Bf16;
    assert!(Transpose::of(&map).is_none(), "another type");
    let mut map = copy(Element::F32, &[64, 64], [&[0, 1], &[1, 0]], 0);
    map.inputs[0].strides[1] = 0;
    assert!(Transpose::of(&map).is_none(), "rows that repeat one number");
}
