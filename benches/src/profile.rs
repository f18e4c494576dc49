//! Self time per op and pass from the engine's trace spans.

use std::collections::BTreeMap;
use std::fmt::Write;

use deltaw_engine::trace::Event;

/// One line of the profile.
#[derive(Debug, Default, Clone, Copy)]
struct Line {
    calls: usize,
    own_us: i64,
}

/// A table of the time each op spent in itself (spans inside it subtracted) per step, largest first. Spans inside a
/// `backward` span are counted apart.
pub fn table(events: &[Event], steps: usize) -> String {
    let mut threads: BTreeMap<u64, Vec<&Event>> = BTreeMap::new();
    for event in events {
        threads.entry(event.thread).or_default().push(event);
    }
    let mut lines: BTreeMap<(&str, &str), Line> = BTreeMap::new();
    for spans in threads.values_mut() {
        // Parents before their children: earlier start first, the longer first among equals.
        spans.sort_by_key(|e| (e.start_us, std::cmp::Reverse(e.dur_us)));
        let mut open: Vec<(&Event, &str)> = Vec::new();
        for event in spans {
            while open
                .last()
                .is_some_and(|(e, _)| e.start_us + e.dur_us <= event.start_us)
            {
                open.pop();
            }
            let pass = match open.last() {
                Some((parent, pass)) => {
                    lines.entry((parent.name, pass)).or_default().own_us -= event.dur_us as i64;
                    if parent.name == "backward" {
                        "backward"
                    } else {
                        pass
                    }
                }
                None => "forward",
            };
            let line = lines.entry((event.name, pass)).or_default();
            line.calls += 1;
            line.own_us += event.dur_us as i64;
            open.push((event, pass));
        }
    }
    let mut lines: Vec<_> = lines.into_iter().collect();
    lines.sort_by_key(|(_, line)| std::cmp::Reverse(line.own_us));
    let mut out = format!(
        "{:<20} {:<9} {:>7} {:>10}\n",
        "op", "pass", "calls", "ms/step"
    );
    for ((name, pass), line) in lines {
        let ms = line.own_us as f64 / 1e3 / steps as f64;
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{name:<20} {pass:<9} {:>7.1} {ms:>10.3}",
            line.calls as f64 / steps as f64
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_subtracted_from_their_parents() {
        let span = |name, start_us, dur_us| Event {
            name,
            start_us,
            dur_us,
            thread: 1,
        };
        // Listed as they end: children first.
        let events = [
            span("linear", 0, 10),
            span("matmul", 22, 4),
            span("linear", 20, 10),
            span("backward", 15, 20),
        ];
        let table = table(&events, 1);
        let line = |op: &str, pass: &str| {
            let found = table
                .lines()
                .map(|l| l.split_whitespace().collect::<Vec<_>>())
                .find(|l| l[..2] == [op, pass]);
            found.map(|l| l[3].parse::<f64>().unwrap())
        };
        assert_eq!(line("linear", "forward"), Some(0.010));
        assert_eq!(line("linear", "backward"), Some(0.006));
        assert_eq!(line("matmul", "backward"), Some(0.004));
        assert_eq!(line("backward", "forward"), Some(0.010));
    }
}
