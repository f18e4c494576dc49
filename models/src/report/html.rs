//! report.html: one file, nothing loaded from elsewhere, no script.

use std::collections::BTreeMap;

use minijinja::Environment;
use serde::Serialize;
use serde_json::json;

use super::Report;
use super::plots::{self, Band, SIZES, Spot};
use super::terminal::{count, p_value, spread};
use crate::experiment::stats::mean;
use crate::experiment::{Cube, Error, Matrix, Result, TRAINABLE};

const TEMPLATE: &str = include_str!("report.html");

/// A drawing for wide pages and one for narrow ones.
#[derive(Serialize)]
struct Plot {
    title: String,
    wide: String,
    narrow: String,
    /// (arm, colour)
    legend: Vec<(String, String)>,
}

#[derive(Serialize)]
struct Table {
    title: String,
    head: Vec<String>,
    /// (arm, colour, entries, trainable, seconds)
    rows: Vec<(String, String, Vec<String>, String, String)>,
}

/// The whole page.
pub(super) fn page(report: &Report, cube: &Cube) -> Result<String> {
    let mut environment = Environment::new();
    environment
        .add_template("report.html", TEMPLATE)
        .map_err(Error::other)?;
    let (arms, groups) = report.axes();
    let claims = report
        .claims
        .iter()
        .map(|claim| {
            let strip = plots::strip(claim)?;
            let p = claim.p_corrected.map(p_value);
            Ok(json!({ "claim": claim, "strip": strip, "p": p }))
        })
        .collect::<Result<Vec<_>>>()?;
    let arm_what: BTreeMap<_, _> = report.paper.arms.iter().cloned().collect();
    let glossary: Vec<_> = arms
        .iter()
        .enumerate()
        .map(|(i, arm)| {
            (
                arm,
                plots::css(i),
                arm_what.get(arm).cloned().unwrap_or_default(),
            )
        })
        .collect();
    let values = json!({
        "report": report,
        "claims": claims,
        "glossary": glossary,
        "words": report.verdict.outcome.words(),
        "tables": tables(report, &arms, &groups),
        "spots": spots(report, &arms)?,
        "curves": curves(cube, &arms, &groups)?,
        "heat_maps": heat_maps(report, &arms)?,
        "pictures": pictures(cube, &arms),
        "figures": figures(report),
        "sweeps": sweeps(report),
        "record": report.record.as_ref().map(|r| r.in_words()),
        "memory": report.measured.peak_rss_bytes.map(|b| format!("{:.0} MiB", b as f64 / 1048576.0)),
        "settings": report.config.settings.iter().map(|(k, v)| (k, plain(v))).collect::<Vec<_>>(),
    });
    let values = minijinja::Value::from(minijinja::value::Serde(values));
    let page = environment
        .get_template("report.html")
        .and_then(|t| t.render(values));
    page.map_err(Error::other)
}

/// A setting as one would write it: text without its quotes.
fn plain(value: &serde_json::Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), String::from)
}

fn group_name(group: &(String, String)) -> String {
    [group.0.as_str(), group.1.as_str()]
        .join(" ")
        .trim()
        .to_owned()
}

fn tables(report: &Report, arms: &[String], groups: &[(String, String)]) -> Vec<Table> {
    let table = |metric: crate::experiment::Metric| {
        let row = |(i, arm): (usize, &String)| {
            let entries = groups
                .iter()
                .map(|g| report.entry(arm, g, &metric))
                .collect();
            let trainable = report.per_seed(arm, TRAINABLE);
            let trainable = if trainable.is_empty() {
                "–".into()
            } else {
                count(mean(&trainable))
            };
            let seconds = report
                .measured
                .arm_seconds
                .get(arm)
                .map_or("–".into(), |s| format!("{s:.1}"));
            (arm.clone(), plots::css(i), entries, trainable, seconds)
        };
        let unit = if metric.unit.is_empty() {
            String::new()
        } else {
            format!(" ({})", metric.unit)
        };
        Table {
            title: format!("{}{unit}", metric.name),
            head: groups.iter().map(group_name).collect(),
            rows: arms.iter().enumerate().map(row).collect(),
        }
    };
    report.shown_metrics().into_iter().map(table).collect()
}

fn legend(arms: &[String], used: impl Iterator<Item = usize>) -> Vec<(String, String)> {
    used.map(|i| (arms[i].clone(), plots::css(i))).collect()
}

fn both(
    title: String,
    arms: Vec<(String, String)>,
    draw: impl Fn((u32, u32)) -> Result<String>,
) -> Result<Plot> {
    Ok(Plot {
        title,
        wide: draw(SIZES[0])?,
        narrow: draw(SIZES[1])?,
        legend: arms,
    })
}

/// Each metric against the trainable parameters.
fn spots(report: &Report, arms: &[String]) -> Result<Vec<Plot>> {
    let mut plots = Vec::new();
    for metric in report.shown_metrics() {
        let spot = |(index, arm): (usize, &String)| {
            let parameters = report.per_seed(arm, TRAINABLE);
            let values = report.per_seed(arm, &metric.name);
            let counted = !parameters.is_empty() && !values.is_empty() && mean(&parameters) > 0.0;
            counted.then(|| Spot {
                index,
                parameters: mean(&parameters),
                values,
            })
        };
        let spots: Vec<Spot> = arms.iter().enumerate().filter_map(spot).collect();
        if !spots.is_empty() {
            let legend = legend(arms, spots.iter().map(|s| s.index));
            let title = format!("{} against trainable parameters", metric.name);
            plots.push(both(title, legend, |size| {
                plots::against_parameters(size, &metric.name, &spots)
            })?);
        }
    }
    Ok(plots)
}

/// Per curve and group: every arm's mean and range over its seeds.
fn curves(cube: &Cube, arms: &[String], groups: &[(String, String)]) -> Result<Vec<Plot>> {
    let names: std::collections::BTreeSet<&String> =
        cube.cells().flat_map(|(_, c)| c.curves.keys()).collect();
    let mut plots = Vec::new();
    for name in names {
        for group in groups {
            let mut bands = Vec::new();
            for (index, arm) in arms.iter().enumerate() {
                let mut steps: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
                let wanted = cube.cells().filter(|(id, _)| {
                    id.arm == *arm && id.task == group.0 && id.setting == group.1
                });
                for (step, value) in wanted.filter_map(|(_, c)| c.curves.get(name)).flatten() {
                    steps.entry(*step).or_default().push(*value);
                }
                let point = |(step, v): (&u64, &Vec<f64>)| {
                    let low = v.iter().copied().fold(f64::INFINITY, f64::min);
                    let high = v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    (*step as f64, mean(v), low, high)
                };
                let points: Vec<_> = thinned(steps.iter().map(point).collect());
                if !points.is_empty() {
                    bands.push(Band { index, points });
                }
            }
            if !bands.is_empty() {
                let legend = legend(arms, bands.iter().map(|b| b.index));
                let title = format!("{name}, {}", group_name(group));
                plots.push(both(title, legend, |size| {
                    plots::curves(size, "step", name, &bands)
                })?);
            }
        }
    }
    Ok(plots)
}

/// At most some 300 points, the last one among them.
fn thinned<T: Copy>(points: Vec<T>) -> Vec<T> {
    let every = points.len().div_ceil(300).max(1);
    let last = points.len().saturating_sub(1);
    points
        .iter()
        .enumerate()
        .filter(|(i, _)| i % every == 0 || *i == last)
        .map(|(_, p)| *p)
        .collect()
}

/// Matrices of one name, arm and task, averaged over seeds.
fn heat_maps(report: &Report, arms: &[String]) -> Result<Vec<Plot>> {
    let mut groups: BTreeMap<(usize, String, String, String), Vec<&Matrix>> = BTreeMap::new();
    for cell in &report.results.cells {
        let place = arms.iter().position(|a| *a == cell.id.arm).unwrap_or(0);
        for (name, matrix) in &cell.matrices {
            let key = (
                place,
                cell.id.task.clone(),
                cell.id.setting.clone(),
                name.clone(),
            );
            groups.entry(key).or_default().push(matrix);
        }
    }
    let mut plots = Vec::new();
    for ((arm, task, setting, name), matrices) in groups {
        let first = matrices[0];
        let alike: Vec<&Matrix> = matrices
            .iter()
            .copied()
            .filter(|m| m.rows == first.rows && m.columns == first.columns)
            .collect();
        let average = |i: usize| {
            let there: Vec<f64> = alike.iter().filter_map(|m| m.values[i]).collect();
            (!there.is_empty()).then(|| mean(&there))
        };
        let values = (0..first.values.len()).map(average).collect();
        let matrix = Matrix {
            values,
            ..first.clone()
        };
        let group = group_name(&(task, setting));
        let title = format!(
            "{name}: {} on {group}, mean of {} seeds. {}",
            arms[arm],
            alike.len(),
            matrix.caption
        );
        plots.push(both(title.trim_end().to_owned(), Vec::new(), |size| {
            plots::heat_map(size.0, &matrix)
        })?);
    }
    Ok(plots)
}

/// Pictures arm by arm, as they stand in the cells.
fn pictures(cube: &Cube, arms: &[String]) -> Vec<serde_json::Value> {
    let mut all = vec![];
    for arm in arms {
        for (id, cell) in cube.cells().filter(|(id, _)| id.arm == *arm) {
            let shown = |picture| json!({ "place": id.to_string(), "picture": picture });
            all.extend(cell.pictures.values().map(shown));
        }
    }
    all
}

/// The paper's figures with ours of the same arm.
fn figures(report: &Report) -> Vec<serde_json::Value> {
    let metric = report.shown_metrics().into_iter().next();
    let ours = |arm: &str| {
        let metric = metric.as_ref()?;
        let values = report.per_seed(arm, &metric.name);
        (!values.is_empty())
            .then(|| format!("{} {}", spread(&values, metric.decimals), metric.name))
    };
    report
        .paper
        .figures
        .iter()
        .map(|figure| json!({ "figure": figure, "ours": ours(&figure.arm) }))
        .collect()
}

/// Sweeps with their scores as text, the chosen one marked.
fn sweeps(report: &Report) -> Vec<serde_json::Value> {
    let text = |scores: &[Option<f64>]| match scores.iter().copied().collect::<Option<Vec<f64>>>() {
        Some(values) => spread(&values, 3),
        None => "diverged".into(),
    };
    let sweep = |sweep: &crate::experiment::tune::Sweep| {
        let arm = |arm: &crate::experiment::tune::SweptArm| {
            let scores: Vec<(String, bool)> = arm
                .scores
                .iter()
                .enumerate()
                .map(|(i, s)| (text(s), arm.chosen == Some(i)))
                .collect();
            json!({ "name": arm.arm, "scores": scores, "at_edge": arm.at_edge })
        };
        json!({
            "name": sweep.name,
            "metric": sweep.metric.name,
            "candidates": sweep.candidates.iter().map(plain).collect::<Vec<_>>(),
            "seeds": sweep.seeds.len(),
            "arms": sweep.arms.iter().map(arm).collect::<Vec<_>>(),
        })
    };
    report.results.sweeps.iter().map(sweep).collect()
}
