//! Packed triangles and panels of their matrix, bit by bit against plain loops.

mod common;

use std::ops::Range;

use common::dropped::{Case, all_are_as_needed};
use common::{Gpu, cases, numbers};
use cudarc::driver::CudaSlice;
use deltaw_kernels::triangular::{Kind, Panel};
use proptest::prelude::*;

/// e and s of each row, of blocks with so many rows each.
fn table(blocks: &[usize]) -> Vec<[usize; 2]> {
    let (mut all, mut end, mut start) = (vec![], 0, 0);
    for rows in blocks {
        end += rows;
        for _ in 0..*rows {
            all.push([end, start]);
            start += end;
        }
    }
    all
}

fn entries(table: &[[usize; 2]]) -> usize {
    table.last().map_or(0, |[end, start]| end + start)
}

fn words(table: &[[usize; 2]]) -> Vec<u8> {
    let words = table.iter().flatten();
    words.flat_map(|x| (*x as u32).to_le_bytes()).collect()
}

/// Where the panel's element (p, q) lies in each part.
fn places(table: &[[usize; 2]], p: usize, q: usize) -> [Option<usize>; 2] {
    [(p, q), (q, p)].map(|(major, minor)| {
        let [end, start] = table[major];
        (minor < end).then_some(start + minor)
    })
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn floats(gpu: &Gpu, slice: &CudaSlice<u8>) -> Vec<f32> {
    let bytes = gpu.stream.clone_dtoh(slice).unwrap();
    let words = bytes.chunks_exact(4);
    words
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}

thread_local! {
    static GPU: Gpu = Gpu::new(80);
}

/// Launches it, and checks panel, parts and the bytes that went.
fn run(
    gpu: &Gpu,
    kind: Kind,
    blocks: &[usize],
    [rows, columns]: [Range<usize>; 2],
    there: [bool; 2],
) {
    let table = table(blocks);
    let count = entries(&table);
    let (width, size) = (columns.len(), rows.len() * columns.len());
    let [mut lower, mut upper] = [1, 2].map(|seed| numbers(count, seed));
    let mut panel = numbers(size, 3);
    let uploaded = [&lower, &upper, &panel].map(|values| gpu.upload(&bytes(values)));
    let known = gpu.upload(&words(&table));
    let call = Panel {
        kind,
        rank: table.len(),
        lower: there[0].then_some(uploaded[0].1),
        upper: there[1].then_some(uploaded[1].1),
        table: known.1,
        rows: rows.clone(),
        columns: columns.clone(),
        panel: uploaded[2].1,
    };
    // SAFETY: the operands are kept until they have been read.
    unsafe { call.launch(&gpu.kernels, &gpu.stream) }.unwrap();
    gpu.finish().unwrap();
    let mut met = 0;
    for (at, cell) in panel.iter_mut().enumerate() {
        let places = places(&table, rows.start + at / width, columns.start + at % width);
        let [l, u] = [0, 1].map(|i| places[i].filter(|_| there[i]));
        met += l.iter().count() + u.iter().count();
        match kind {
            Kind::Unpack => *cell = l.map_or(0.0, |l| lower[l]) + u.map_or(0.0, |u| upper[u]),
            Kind::Pack => {
                l.into_iter().for_each(|l| lower[l] = *cell);
                u.into_iter().for_each(|u| upper[u] = *cell);
            }
        }
    }
    for (want, (slice, _)) in [lower, upper, panel].iter().zip(&uploaded) {
        assert_eq!(floats(gpu, slice)[..want.len()], want[..], "{call:?}");
    }
    if size > 0 {
        let launch = gpu.virtual_device().launches().unwrap().pop().unwrap();
        assert_eq!(launch.counters.global.bytes, call.bytes(met), "{call:?}");
    }
}

proptest! {
    #![proptest_config(cases(60))]

    /// Any panel of any matrix, nothing beside it is written.
    #[test]
    fn panels_are_parts_of_the_matrix(
        blocks in prop::collection::vec(1..30usize, 1..9), rows: [prop::sample::Index; 2], columns: [prop::sample::Index; 2],
        pack: bool, there: [bool; 2],
    ) {
        let rank: usize = blocks.iter().sum();
        let range = |ends: [prop::sample::Index; 2]| {
            let [a, b] = ends.map(|end| end.index(rank + 1));
            a.min(b)..a.max(b)
        };
        let kind = if pack { Kind::Pack } else { Kind::Unpack };
        GPU.with(|gpu| run(gpu, kind, &blocks, [range(rows), range(columns)], there));
    }
}

/// Rows of 64 entries, and the additions that the formula says.
#[test]
fn aligned_rows_go_in_whole_sectors() {
    let gpu = Gpu::new(80);
    run(&gpu, Kind::Unpack, &[64, 64], [0..64, 0..128], [true; 2]);
    run(&gpu, Kind::Pack, &[64, 64], [0..64, 0..128], [true; 2]);
    let launches = gpu.virtual_device().launches().unwrap();
    for launch in &launches {
        let counters = &launch.counters;
        assert_eq!(
            counters.global.units, counters.global.ideal_units,
            "{}",
            launch.kernel
        );
        assert_eq!(
            counters.shared.units, counters.shared.ideal_units,
            "{}",
            launch.kernel
        );
    }
    assert_eq!(launches[0].counters.float_flops, 64 * 128);
}

#[test]
fn rows_outside_of_the_matrix_are_refused() {
    let gpu = Gpu::new(80);
    let call = Panel {
        kind: Kind::Pack,
        rank: 5,
        lower: None,
        upper: None,
        table: 0,
        rows: 3..6,
        columns: 0..5,
        panel: 0,
    };
    // SAFETY: nothing is launched.
    let refused = unsafe { call.launch(&gpu.kernels, &gpu.stream) }.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("rows 3..6, columns 0..5 of 5 × 5"),
        "{refused}"
    );
}

/// Without any one instruction as it is a case gives other bits, moves other bytes, or faults.
#[test]
fn every_instruction_is_needed() {
    let case = |kind: Kind,
                blocks: &'static [usize],
                [rows, columns]: [Range<usize>; 2],
                there: [bool; 2]| Case {
        name: kind.name().into(),
        ptx: kind.expand().unwrap(),
        launch: Box::new(move |memory| {
            let table = table(blocks);
            let mut part = |seed| memory.numbers(entries(&table), seed);
            let (lower, upper) = (part(1), part(2));
            let call = Panel {
                kind,
                rank: table.len(),
                lower: there[0].then_some(lower),
                upper: there[1].then_some(upper),
                table: memory.bytes(&words(&table)),
                rows: rows.clone(),
                columns: columns.clone(),
                panel: memory.numbers(rows.len() * columns.len(), 3),
            };
            let gpu = memory.gpu;
            // SAFETY: the operands lie in `memory`, which is kept until it has been read.
            unsafe { call.launch(&gpu.kernels, &gpu.stream) }
        }),
    };
    let mut all = vec![];
    for kind in Kind::ALL {
        all.push(case(kind, &[3, 40, 9, 30], [5..75, 2..80], [true; 2]));
        all.push(case(kind, &[3, 40, 9, 30], [40..80, 40..60], [true; 2]));
        all.push(case(kind, &[20, 20], [1..36, 3..40], [true, false]));
        all.push(case(kind, &[20, 20], [1..36, 3..40], [false, true]));
    }
    all_are_as_needed(&["triangular.ptx"], &all, &[]);
}
