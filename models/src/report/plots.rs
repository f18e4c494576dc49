//! The plots, as SVG text: each is drawn twice, for a wide page and for a telephone.

use std::fmt::Display;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::experiment::stats::{mean, std_dev};
use crate::experiment::{Error, Judged, Matrix, Result, State};

/// Distinct for most colour-blind readers (after Okabe & Ito, darkened for white paper).
const PALETTE: [(u8, u8, u8); 10] = [
    (0, 94, 162),
    (208, 84, 0),
    (0, 128, 96),
    (170, 60, 130),
    (90, 90, 100),
    (178, 132, 0),
    (60, 150, 210),
    (150, 30, 40),
    (90, 70, 160),
    (110, 140, 30),
];
const INK: RGBColor = RGBColor(55, 60, 70);
const GRID: RGBColor = RGBColor(229, 231, 235);

/// A plot's two sizes in pixels: wide, narrow.
pub(super) const SIZES: [(u32, u32); 2] = [(760, 340), (360, 270)];

/// The arm's colour, as for CSS.
pub(super) fn css(index: usize) -> String {
    let (r, g, b) = PALETTE[index % PALETTE.len()];
    format!("rgb({r},{g},{b})")
}

fn colour(index: usize) -> RGBColor {
    let (r, g, b) = PALETTE[index % PALETTE.len()];
    RGBColor(r, g, b)
}

fn failed(e: impl Display) -> Error {
    Error::Invalid(format!("a plot cannot be drawn: {e}"))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn svg(size: (u32, u32), draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        draw(&area)?;
        area.present().map_err(failed)?;
    }
    Ok(text)
}

fn font(size: i32, color: RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&color)
}

/// The axis [low, high] around values, with a margin, never empty.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
        (l.min(v), h.max(v))
    });
    if !low.is_finite() || !high.is_finite() {
        return (0.0, 1.0);
    }
    let margin = if high > low {
        0.06 * (high - low)
    } else {
        0.5 * high.abs().max(1.0)
    };
    (low - margin, high + margin)
}

/// "12", "0.25", "1.5k", "3M".
pub(super) fn short(value: f64) -> String {
    let magnitude = value.abs();
    let (scaled, suffix) = match magnitude {
        m if m >= 1e9 => (value / 1e9, "G"),
        m if m >= 1e6 => (value / 1e6, "M"),
        m if m >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        m if m >= 100.0 || m == 0.0 => 0,
        m if m >= 10.0 => 1,
        m if m >= 0.1 => 2,
        _ => 4,
    };
    let text = format!("{scaled:.digits$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    };
    format!("{text}{suffix}")
}

/// One arm's curve: its colour's index, and (step, mean, lowest, highest) over its seeds.
pub(super) struct Band {
    pub index: usize,
    pub points: Vec<(f64, f64, f64, f64)>,
}

/// Curves with the range of their seeds as a band.
pub(super) fn curves(
    size: (u32, u32),
    x_name: &str,
    y_name: &str,
    bands: &[Band],
) -> Result<String> {
    let all = || bands.iter().flat_map(|b| &b.points);
    let (y0, y1) = range(all().flat_map(|p| [p.2, p.3]));
    let x1 = all().map(|p| p.0).fold(0.0, f64::max).max(1.0);
    svg(size, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(10)
            .x_label_area_size(38)
            .y_label_area_size(52)
            .build_cartesian_2d(0.0..x1, y0..y1)
            .map_err(failed)?;
        mesh(&mut chart, size, (x_name, y_name), (&short, &short))?;
        for band in bands {
            let color = colour(band.index);
            let upper = band.points.iter().map(|p| (p.0, p.3));
            let lower = band.points.iter().rev().map(|p| (p.0, p.2));
            let outline: Vec<(f64, f64)> = upper.chain(lower).collect();
            chart
                .draw_series([Polygon::new(outline, color.mix(0.13))])
                .map_err(failed)?;
        }
        for band in bands {
            let line = band.points.iter().map(|p| (p.0, p.1));
            chart
                .draw_series(LineSeries::new(line, colour(band.index).stroke_width(2)))
                .map_err(failed)?;
        }
        Ok(())
    })
}

type Chart<'a, 'b> = ChartContext<
    'a,
    SVGBackend<'b>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;
type Format<'a> = &'a dyn Fn(f64) -> String;

fn mesh(
    chart: &mut Chart<'_, '_>,
    size: (u32, u32),
    names: (&str, &str),
    formats: (Format<'_>, Format<'_>),
) -> Result<()> {
    let narrow = size.0 < 500;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(RGBColor(160, 165, 175))
        .x_labels(if narrow { 5 } else { 9 })
        .y_labels(6)
        .x_label_formatter(&|x| formats.0(*x))
        .y_label_formatter(&|y| formats.1(*y))
        .x_desc(names.0)
        .y_desc(names.1)
        .label_style(font(12, INK))
        .axis_desc_style(font(13, INK))
        .draw()
        .map_err(failed)
}

/// One arm in the plane of trainable parameters and a metric.
pub(super) struct Spot {
    pub index: usize,
    pub parameters: f64,
    pub values: Vec<f64>,
}

/// A metric against the trainable parameters (logarithmic), with ± one standard deviation over the seeds.
pub(super) fn against_parameters(size: (u32, u32), metric: &str, spots: &[Spot]) -> Result<String> {
    let ends = |s: &Spot| {
        [
            mean(&s.values) - std_dev(&s.values),
            mean(&s.values) + std_dev(&s.values),
        ]
    };
    let (y0, y1) = range(spots.iter().flat_map(ends));
    let (x0, x1) = range(spots.iter().map(|s| s.parameters.log10()));
    let (x0, x1) = (x0 - 0.05, x1 + 0.05);
    svg(size, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(10)
            .x_label_area_size(38)
            .y_label_area_size(52)
            .build_cartesian_2d(x0..x1, y0..y1)
            .map_err(failed)?;
        // On a long axis only whole powers are named.
        let powers = |x: f64| match x1 - x0 > 1.5 && (x - x.round()).abs() > 1e-6 {
            true => String::new(),
            false => short(10f64.powf(x)),
        };
        mesh(
            &mut chart,
            size,
            ("trainable parameters", metric),
            (&powers, &short),
        )?;
        for spot in spots {
            let (x, [low, high]) = (spot.parameters.log10(), ends(spot));
            let color = colour(spot.index);
            let cap = 0.006 * (x1 - x0);
            let strokes = [
                [(x, low), (x, high)],
                [(x - cap, low), (x + cap, low)],
                [(x - cap, high), (x + cap, high)],
            ];
            for stroke in strokes {
                chart
                    .draw_series([PathElement::new(stroke, color.stroke_width(2))])
                    .map_err(failed)?;
            }
            let centre = (x, mean(&spot.values));
            chart
                .draw_series([Circle::new(centre, 6, WHITE.filled())])
                .map_err(failed)?;
            chart
                .draw_series([Circle::new(centre, 5, color.filled())])
                .map_err(failed)?;
        }
        Ok(())
    })
}

/// From pale to deep blue; `share` in 0..=1.
fn heat(share: f64) -> RGBColor {
    let stops = [
        (244.0, 248.0, 252.0),
        (158.0, 199.0, 228.0),
        (38.0, 116.0, 178.0),
        (8.0, 48.0, 107.0),
    ];
    let place = share.clamp(0.0, 1.0) * (stops.len() - 1) as f64;
    let i = (place as usize).min(stops.len() - 2);
    let t = place - i as f64;
    let blend = |a: f64, b: f64| (a + t * (b - a)).round() as u8;
    let ((r0, g0, b0), (r1, g1, b1)) = (stops[i], stops[i + 1]);
    RGBColor(blend(r0, r1), blend(g0, g1), blend(b0, b1))
}

/// A matrix with its numbers in the cells.
pub(super) fn heat_map(width: u32, matrix: &Matrix) -> Result<String> {
    let (rows, columns) = (
        matrix.rows.len().max(1) as i32,
        matrix.columns.len().max(1) as i32,
    );
    let text_px = if width < 500 { 11 } else { 13 };
    let longest = matrix
        .rows
        .iter()
        .map(|r| r.chars().count())
        .max()
        .unwrap_or(0) as i32;
    let left = (longest * text_px * 6 / 10 + 12).min(width as i32 / 3);
    let cell_w = ((width as i32 - left - 4) / columns).max(1);
    let cell_h = (cell_w * 2 / 3).clamp(24, 44);
    // Labels that do not fit their column are turned.
    let widest = matrix
        .columns
        .iter()
        .map(|c| c.chars().count())
        .max()
        .unwrap_or(0) as i32;
    let turned = widest * text_px * 6 / 10 > cell_w;
    let top = if turned {
        widest * text_px * 6 / 10 + 14
    } else {
        24
    };
    let numbers: Vec<f64> = matrix.values.iter().flatten().copied().collect();
    let low = numbers.iter().copied().fold(f64::INFINITY, f64::min);
    let high = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    svg((width, (top + rows * cell_h + 4) as u32), |area| {
        let label = font(text_px, INK);
        for (c, name) in matrix.columns.iter().enumerate() {
            let x = left + c as i32 * cell_w + cell_w / 2;
            let style = if turned {
                let turned = ("sans-serif", text_px)
                    .into_font()
                    .transform(FontTransform::Rotate270);
                turned.color(&INK).pos(Pos::new(HPos::Left, VPos::Center))
            } else {
                label.pos(Pos::new(HPos::Center, VPos::Bottom))
            };
            area.draw_text(name, &style, (x, top - 7)).map_err(failed)?;
        }
        for (r, name) in matrix.rows.iter().enumerate() {
            let y = top + r as i32 * cell_h;
            let style = label.pos(Pos::new(HPos::Right, VPos::Center));
            area.draw_text(name, &style, (left - 8, y + cell_h / 2))
                .map_err(failed)?;
            for c in 0..columns {
                let Some(&Some(value)) = matrix.values.get(r * columns as usize + c as usize)
                else {
                    continue;
                };
                let share = if high > low {
                    (value - low) / (high - low)
                } else {
                    0.5
                };
                let x = left + c * cell_w;
                let tile = [(x + 1, y + 1), (x + cell_w - 1, y + cell_h - 1)];
                area.draw(&Rectangle::new(tile, heat(share).filled()))
                    .map_err(failed)?;
                let text = short(value);
                if text.chars().count() as i32 * text_px * 6 / 10 < cell_w - 4 {
                    let ink = if share > 0.45 { WHITE } else { INK };
                    let style = font(text_px, ink).pos(Pos::new(HPos::Center, VPos::Center));
                    area.draw_text(&text, &style, (x + cell_w / 2, y + cell_h / 2))
                        .map_err(failed)?;
                }
            }
        }
        Ok(())
    })
}

/// A claim's interval as a strip: the seeds as dots, under them the estimate in its interval, the thresholds. None without an interval.
pub(super) fn strip(claim: &Judged) -> Result<Option<String>> {
    let (Some((low, high)), Some(estimate)) = (claim.interval, claim.estimate) else {
        return Ok(None);
    };
    let seeds = claim.per_seed.iter().copied();
    let (x0, x1) = range(
        [low, high, estimate]
            .into_iter()
            .chain(seeds)
            .chain(claim.thresholds.iter().copied()),
    );
    let color = match claim.state {
        State::Holds => RGBColor(11, 122, 75),
        State::Fails => RGBColor(179, 38, 30),
        State::Inconclusive => RGBColor(138, 97, 0),
    };
    let (width, height) = (260, 52);
    let place = |x: f64| (6.0 + (x - x0) / (x1 - x0) * f64::from(width - 12)) as i32;
    let (seeds_at, middle) = (7, 20);
    let text = svg((width as u32, height), |area| {
        for threshold in &claim.thresholds {
            let x = place(*threshold);
            let line = [(x, 2), (x, 34)];
            area.draw(&PathElement::new(
                line,
                RGBColor(150, 155, 165).stroke_width(1),
            ))
            .map_err(failed)?;
            let style = font(11, RGBColor(110, 115, 125)).pos(Pos::new(HPos::Center, VPos::Top));
            let x = x.clamp(16, width - 16);
            area.draw_text(&short(*threshold), &style, (x, 37))
                .map_err(failed)?;
        }
        for value in &claim.per_seed {
            let dot = Circle::new((place(*value), seeds_at), 2, color.mix(0.45).filled());
            area.draw(&dot).map_err(failed)?;
        }
        let bar = [(place(low), middle), (place(high), middle)];
        area.draw(&PathElement::new(bar, color.stroke_width(3)))
            .map_err(failed)?;
        area.draw(&Circle::new((place(estimate), middle), 5, color.filled()))
            .map_err(failed)
    })?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ticks_read_well() {
        let cases = [
            (0.0, "0"),
            (0.25, "0.25"),
            (1500.0, "1500"),
            (15_000.0, "15k"),
            (2.5e6, "2.5M"),
            (-3.0, "-3"),
        ];
        for (value, text) in cases {
            assert_eq!(short(value), text);
        }
    }

    proptest! {
        /// Whatever the numbers, the plots are drawn, and stay within their frame.
        #[test]
        fn any_numbers_can_be_drawn(
            values in prop::collection::vec(-1e6..1e6f64, 1..6),
            parameters in 1.0..1e9f64,
            narrow: bool,
        ) {
            let size = SIZES[usize::from(narrow)];
            let spot = Spot { index: 3, parameters, values: values.clone() };
            let points = values.iter().enumerate().map(|(i, &v)| (i as f64, v, v - 1.0, v + 1.0)).collect();
            let rows = values.len();
            let matrix = Matrix {
                caption: String::new(),
                rows: (0..rows).map(|r| format!("layer {r}")).collect(),
                columns: vec!["query".into()],
                values: values.iter().map(|&v| Some(v)).collect(),
            };
            for text in [
                against_parameters(size, "accuracy", &[spot])?,
                curves(size, "step", "loss", &[Band { index: 11, points }])?,
                heat_map(size.0, &matrix)?,
            ] {
                prop_assert!(text.starts_with("<svg") && text.contains("viewBox") && !text.contains("NaN"));
            }
        }
    }
}
