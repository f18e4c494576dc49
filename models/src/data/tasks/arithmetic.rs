//! Arithmetic that is generated: word problems that are answered by their working.
//!
//! ```text
//! problem   Ruth has 12 figs, finds 4 and sells 5:      working   12+4=16-5=11
//! ```

use crate::data::draw::Draw;
use crate::data::split::{Fractions, Splits};

/// The largest number that occurs.
const MOST: usize = 20;
const NAMES: [&str; 8] = [
    "Adam", "Ruth", "Levi", "Mary", "John", "Anna", "Paul", "Lois",
];
const THINGS: [&str; 8] = [
    "figs", "lambs", "coins", "loaves", "pots", "nets", "cups", "doves",
];
/// What adds, and what takes away.
const VERBS: [[&str; 4]; 2] = [
    ["finds", "buys", "gets", "makes"],
    ["sells", "loses", "gives", "burns"],
];

/// `a ± b`, if it is one of the sums that occur.
fn result(a: usize, plus: bool, b: usize) -> Option<usize> {
    let c = if plus { Some(a + b) } else { a.checked_sub(b) };
    c.filter(|c| *c <= MOST)
}

fn sign(plus: bool) -> char {
    if plus { '+' } else { '-' }
}

/// A step: b is added or taken away.
type Step = (bool, usize);

fn a_step(from: usize, draw: &mut Draw) -> (Step, usize) {
    loop {
        let (plus, b) = (draw.below(2) == 0, 1 + draw.below(5));
        if let Some(to) = result(from, plus, b) {
            return ((plus, b), to);
        }
    }
}

/// `count` word problems of `steps` steps with their workings.
pub fn problems(count: usize, steps: usize) -> impl Iterator<Item = (String, String)> {
    (0..count).map(move |i| {
        problem(
            steps,
            &mut Draw::at(0, "problem", &[steps as u64, i as u64]),
        )
    })
}

/// The same in three splits. A problem's identity is its calculation: none of one split occurs in another, in whatever words.
pub fn tasks(count: usize, steps: usize, fractions: &Fractions) -> Splits<Vec<(String, String)>> {
    Splits::of(problems(count, steps), |(_, working)| {
        fractions.assign("arithmetic", working)
    })
}

fn problem(steps: usize, draw: &mut Draw) -> (String, String) {
    let (name, things) = (
        NAMES[draw.below(NAMES.len())],
        THINGS[draw.below(THINGS.len())],
    );
    let mut now = 1 + draw.below(15);
    let (mut text, mut working) = (format!("{name} has {now} {things}"), now.to_string());
    for step in 0..steps {
        let ((plus, b), to) = a_step(now, draw);
        let verbs = VERBS[usize::from(!plus)];
        text += if step + 1 == steps && steps > 1 {
            " and "
        } else {
            ", "
        };
        text += &format!("{} {b}", verbs[draw.below(verbs.len())]);
        working += &format!("{}{b}={to}", sign(plus));
        now = to;
    }
    (text + ":", working)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of a working, each of whose sums is right.
    fn value(working: &str) -> usize {
        let mut parts = working.split('=');
        let mut now: usize = 0;
        let mut left = parts.next().unwrap().to_string();
        for part in parts {
            let at = left.find(['+', '-']).unwrap();
            let (a, b): (usize, usize) =
                (left[..at].parse().unwrap(), left[at + 1..].parse().unwrap());
            let end = part.find(['+', '-']).unwrap_or(part.len());
            now = part[..end].parse().unwrap();
            assert_eq!(
                if left.as_bytes()[at] == b'+' {
                    a + b
                } else {
                    a - b
                },
                now,
                "{working}"
            );
            left = part.to_string();
        }
        now
    }

    #[test]
    fn workings_are_right_and_follow_the_words() {
        let problems = tasks(500, 3, &Fractions::default());
        for (text, working) in problems.train.iter().chain(&problems.test) {
            assert!(value(working) <= MOST);
            let numbers = text
                .split(|c: char| !c.is_ascii_digit())
                .filter(|n| !n.is_empty());
            let asked: Vec<&str> = numbers.collect();
            let steps = working
                .split(['='])
                .map(|s| s.rsplit(['+', '-']).next().unwrap());
            let calculated: Vec<&str> = steps.take(3).collect();
            assert_eq!(asked[1..], calculated, "{text} {working}");
            let adds = VERBS[0]
                .iter()
                .map(|verb| text.matches(verb).count())
                .sum::<usize>();
            assert_eq!(adds, working.matches('+').count(), "{text} {working}");
        }
    }

    #[test]
    fn no_calculation_is_in_two_splits() {
        let problems = tasks(5_000, 2, &Fractions::default());
        assert!(problems.test.len() > 100 && problems.validation.len() > 100);
        for (_, working) in &problems.test {
            assert!(problems.train.iter().all(|(_, w)| w != working));
        }
    }
}
