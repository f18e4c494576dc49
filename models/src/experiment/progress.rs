//! What the run is doing and how long it will take: a bar on a terminal, a plain line now and then elsewhere.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::console;

/// The least time between two plain lines.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

enum Display {
    Bar(ProgressBar),
    Lines { last: Instant },
    Silent,
}

/// Stages of one name: how many are expected, done, and what they took.
#[derive(Default)]
struct Kind {
    expected: usize,
    done: usize,
    computed: usize,
    seconds: f64,
}

/// The run's progress on standard error.
pub(super) struct Progress {
    display: Display,
    kinds: BTreeMap<String, Kind>,
    stage: String,
    label: String,
    started: Instant,
    first: Option<(u64, Instant)>,
}

impl Progress {
    /// A bar where standard error is a terminal, lines where it is not.
    pub fn new() -> Self {
        let display = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(0);
            if let Ok(style) = ProgressStyle::with_template("{bar:24} {msg}") {
                bar.set_style(style.progress_chars("━╸─"));
            }
            Display::Bar(bar)
        } else {
            // The first line may come at once.
            let now = Instant::now();
            Display::Lines {
                last: now.checked_sub(BETWEEN_LINES).unwrap_or(now),
            }
        };
        Self::on(display)
    }

    /// Nothing is shown.
    pub fn silent() -> Self {
        Self::on(Display::Silent)
    }

    fn on(display: Display) -> Self {
        let (stage, label) = (String::new(), String::new());
        Self {
            display,
            kinds: BTreeMap::new(),
            stage,
            label,
            started: Instant::now(),
            first: None,
        }
    }

    /// So many more stages of a name are to come.
    pub fn expect(&mut self, stage: &str, count: usize) {
        self.kinds.entry(stage.into()).or_default().expected += count;
    }

    /// A stage begins.
    pub fn begin(&mut self, stage: &str, label: &str) {
        (self.stage, self.label) = (stage.into(), label.into());
        (self.started, self.first) = (Instant::now(), None);
        self.show(0, 0);
    }

    /// The stage has done so much of so much.
    pub fn step(&mut self, done: u64, total: u64) {
        self.first.get_or_insert((done, Instant::now()));
        self.show(done, total);
    }

    /// A stage is done; `seconds` where it was computed now and not taken from the cache.
    pub fn end(&mut self, stage: &str, seconds: Option<f64>) {
        let kind = self.kinds.entry(stage.into()).or_default();
        kind.done += 1;
        kind.expected = kind.expected.max(kind.done);
        if let Some(seconds) = seconds {
            kind.computed += 1;
            kind.seconds += seconds;
        }
    }

    /// A line that stays.
    pub fn note(&self, text: &str) {
        match &self.display {
            Display::Bar(bar) => bar.suspend(|| console::tell(text)),
            Display::Lines { .. } => console::tell(text),
            Display::Silent => {}
        }
    }

    /// Takes the bar off the screen.
    pub fn clear(&self) {
        if let Display::Bar(bar) = &self.display {
            bar.finish_and_clear();
        }
    }

    fn show(&mut self, done: u64, total: u64) {
        let due = match &self.display {
            Display::Bar(_) => true,
            Display::Lines { last } => last.elapsed() >= BETWEEN_LINES,
            Display::Silent => false,
        };
        if !due {
            return;
        }
        let text = self.describe(done, total);
        match &mut self.display {
            Display::Bar(bar) => {
                bar.set_length(total.max(1));
                bar.set_position(done);
                bar.set_message(text);
            }
            Display::Lines { last } => {
                *last = Instant::now();
                console::tell(&text);
            }
            Display::Silent => {}
        }
    }

    fn describe(&self, done: u64, total: u64) -> String {
        let kind = self.kinds.get(&self.stage);
        let (number, of) = kind.map_or((1, 1), |k| (k.done + 1, k.expected.max(k.done + 1)));
        let mut text = format!("{} {number}/{of}", self.stage);
        if !self.label.is_empty() {
            text += &format!(": {}", self.label);
        }
        if total > 0 {
            text += &format!(", {done} of {total}");
        }
        let here = self.stage_left(done, total);
        if let Some(left) = here {
            text += &format!(", {} left", human(left));
        }
        match self.others_left() {
            Some(0.0) | None => text,
            Some(others) => {
                text + &format!("; about {} in all", human(others + here.unwrap_or(0.0)))
            }
        }
    }

    /// Seconds until this stage is done, from the steps seen in this sitting.
    fn stage_left(&self, done: u64, total: u64) -> Option<f64> {
        let (first, since) = self.first?;
        let steps = done.checked_sub(first).filter(|&n| n > 0)?;
        Some(since.elapsed().as_secs_f64() / steps as f64 * total.saturating_sub(done) as f64)
    }

    /// Seconds for the stages still to come, where each expected kind has been timed.
    fn others_left(&self) -> Option<f64> {
        let mut sum = 0.0;
        for (name, kind) in &self.kinds {
            let this = usize::from(*name == self.stage);
            let to_come = kind.expected.saturating_sub(kind.done + this);
            if to_come > 0 {
                if kind.computed == 0 {
                    return None;
                }
                sum += to_come as f64 * kind.seconds / kind.computed as f64;
            }
        }
        Some(sum)
    }
}

/// A duration as one reads it: "8 s", "3 min", "1 h 05 min".
pub(crate) fn human(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    match s {
        0..=99 => format!("{s} s"),
        100..=5399 => format!("{} min", (s + 30) / 60),
        _ => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let cases = [
            (0.4, "0 s"),
            (99.0, "99 s"),
            (100.0, "2 min"),
            (3600.0, "60 min"),
            (7500.0, "2 h 05 min"),
        ];
        for (seconds, text) in cases {
            assert_eq!(human(seconds), text);
        }
    }

    #[test]
    fn the_time_left_comes_from_like_stages() {
        let mut progress = Progress::silent();
        progress.expect("fine-tune", 4);
        progress.begin("fine-tune", "lora");
        assert_eq!(progress.describe(0, 0), "fine-tune 1/4: lora");
        progress.end("fine-tune", Some(60.0));
        progress.end("fine-tune", None);
        progress.begin("fine-tune", "full");
        assert_eq!(
            progress.describe(3, 9),
            "fine-tune 3/4: full, 3 of 9; about 60 s in all"
        );
    }
}
