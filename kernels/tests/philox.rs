//! Random numbers on the software driver against the generator's published answers and against f64.

mod common;

use std::f64::consts::TAU;

use common::{Gpu, cases, philox};
use cudarc::driver::DevicePtr;
use deltaw_kernels::philox::{Distribution, Fill};
use proptest::prelude::*;

/// The authors' known answers (Random123, kat_vectors): counter, key, words.
const KNOWN: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
    (
        [0; 4],
        [0; 2],
        [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8],
    ),
    (
        [u32::MAX; 4],
        [u32::MAX; 2],
        [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
    ),
    (
        [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
        [0xa409_3822, 0x299f_31d0],
        [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
    ),
];

/// What may come out: the number itself, or a value and how far from it.
fn wanted(distribution: Distribution, words: [u32; 4], i: usize) -> (f64, f64) {
    let uniform = f64::from(words[i] >> 8) / f64::from(1 << 24);
    match distribution {
        Distribution::Uniform => (uniform, 0.0),
        Distribution::Bernoulli(p) => (f64::from(u8::from(uniform < f64::from(p))), 0.0),
        Distribution::Normal => {
            let [w0, w1] = [words[i / 2 * 2], words[i / 2 * 2 + 1]].map(f64::from);
            let u = (w0 + 0.5) / 2f64.powi(32);
            let radius = (-2.0 * u.ln()).sqrt();
            let angle = TAU * w1 / 2f64.powi(32);
            let z = radius
                * if i.is_multiple_of(2) {
                    angle.cos()
                } else {
                    angle.sin()
                };
            // With e = 2⁻²⁴: u is rounded twice, by 2e of it, which moves ln u by 2e; ln itself errs by 2e of its size, √ by
            // half of its argument's relative error and e. The angle is rounded thrice, by 3e of at most π/4; sin and cos
            // err by 3e, the product by e.
            let e = 2f64.powi(-24);
            (
                z,
                e * (2.0 / radius.max(1e-3) + (1.0 + 1.0 + 1.0) * radius + radius * (2.4 + 3.0)),
            )
        }
    }
}

/// Fills a window, `shift` elements into memory whose every element is −7 before, rows `gap` apart.
fn fill(gpu: &Gpu, mut fill: Fill, [shift, gap]: [usize; 2]) -> Vec<f32> {
    fill.stride = (fill.columns.end - fill.columns.start) as usize + gap;
    let memory = gpu
        .stream
        .clone_htod(&vec![-7.0f32; shift + fill.rows * fill.stride])
        .unwrap();
    fill.out = memory.device_ptr(&gpu.stream).0 + 4 * shift as u64;
    // SAFETY: the rows lie in `memory`, which is read after.
    unsafe { fill.launch(&gpu.kernels, &gpu.stream) }.unwrap();
    gpu.finish().unwrap();
    let launch = gpu.virtual_device().launches().unwrap().pop().unwrap();
    assert_eq!(launch.counters.global.bytes, fill.bytes());
    gpu.stream.clone_dtoh(&memory).unwrap()
}

#[test]
fn the_published_answers_come_out() {
    let gpu = Gpu::new(80);
    for (counter, key, words) in KNOWN {
        assert_eq!(philox(counter, key), words);
        let window = Fill {
            distribution: Distribution::Uniform,
            stream: [key[0], key[1], counter[2], counter[3]],
            first_row: counter[1],
            rows: 1,
            columns: 4 * u64::from(counter[0])..4 * u64::from(counter[0]) + 4,
            out: 0,
            stride: 0,
        };
        let got = fill(&gpu, window, [0, 0]);
        assert_eq!(got, words.map(|w| (w >> 8) as f32 / (1 << 24) as f32));
    }
}

#[test]
fn whole_rows_are_stored_in_whole_sectors() {
    let gpu = Gpu::new(80);
    let window = Fill {
        distribution: Distribution::Normal,
        stream: [1, 2, 3, 4],
        first_row: 0,
        rows: 3,
        columns: 8..1032,
        out: 0,
        stride: 0,
    };
    fill(&gpu, window, [0, 0]);
    let counters = gpu
        .virtual_device()
        .launches()
        .unwrap()
        .pop()
        .unwrap()
        .counters;
    assert_eq!(counters.global.units, counters.global.ideal_units);
}

#[test]
fn a_window_outside_of_the_plane_is_refused() {
    let gpu = Gpu::new(80);
    let window = Fill {
        distribution: Distribution::Uniform,
        stream: [0; 4],
        first_row: u32::MAX,
        rows: 2,
        columns: 0..4,
        out: 0,
        stride: 4,
    };
    // SAFETY: nothing is launched.
    let refused = unsafe { window.launch(&gpu.kernels, &gpu.stream) }.unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("philox: rows 4294967295..4294967297"),
        "{refused}"
    );
}

thread_local! {
    static GPU: Gpu = Gpu::new(80);
}

proptest! {
    #![proptest_config(cases(60))]

    /// Any window of any stream, and nothing beside it is written.
    #[test]
    fn windows_are_parts_of_the_plane(
        which in 0..3usize, p in 0.0..1.0f32, stream: [u32; 4], first_row in 0..u32::MAX - 8, start in 0..1u64 << 33,
        width in 1..1200u64, rows in 1..6usize, shift in 0..5usize, gap in 0..5usize,
    ) {
        let distribution = [Distribution::Uniform, Distribution::Bernoulli(p), Distribution::Normal][which];
        let window = Fill { distribution, stream, first_row, rows, columns: start..start + width, out: 0, stride: 0 };
        let got = GPU.with(|gpu| fill(gpu, window, [shift, gap]));
        let (before, lines) = got.split_at(shift);
        prop_assert!(before.iter().all(|x| *x == -7.0));
        for (r, line) in lines.chunks(width as usize + gap).enumerate() {
            let (numbers, after) = line.split_at(width as usize);
            prop_assert!(after.iter().all(|x| *x == -7.0));
            for (i, got) in numbers.iter().enumerate() {
                let column = start + i as u64;
                let words = philox([(column / 4) as u32, first_row + r as u32, stream[2], stream[3]], [stream[0], stream[1]]);
                let (exact, bound) = wanted(distribution, words, (column % 4) as usize);
                let error = (f64::from(*got) - exact).abs();
                prop_assert!(error <= bound, "{distribution:?} row {r}, column {column}: {got} for {exact}, {error:e} of {bound:e}");
            }
        }
    }
}
