use super::super::claim::{Scores, Term};
use super::super::cube::{Cell, CellId, Cube, Metric};
use super::*;
use proptest::prelude::*;

/// Arms with the given accuracy a seed, on one task.
fn scores(arms: &[(&str, &[f64])]) -> Scores {
    scores_of(Metric::accuracy(), arms)
}

fn scores_of(metric: Metric, arms: &[(&str, &[f64])]) -> Scores {
    let mut cube = Cube::default();
    for (arm, values) in arms {
        for (seed, &value) in (1..).zip(*values) {
            let cell = Cell::new().metric(&metric.name, value);
            cube.insert(CellId::new(*arm, "task", seed), cell).unwrap();
        }
    }
    Scores::new(&cube, metric, 500)
}

fn only(claim: Claim) -> Judged {
    Verdict::all([claim]).unwrap().claims.remove(0)
}

const LORA: &[f64] = &[80.0, 81.0, 79.5, 80.5];
const BETTER: &[f64] = &[82.0, 83.1, 81.4, 82.6];

#[test]
fn states_of_a_comparison() {
    let s = scores(&[
        ("lora", LORA),
        ("ada", BETTER),
        ("twin", &[80.1, 80.9, 79.6, 80.4]),
    ]);
    assert_eq!(only(s.claim("ada").superior_to("lora")).state, State::Holds);
    assert_eq!(only(s.claim("lora").superior_to("ada")).state, State::Fails);
    assert_eq!(
        only(s.claim("twin").superior_to("lora")).state,
        State::Inconclusive
    );
    assert_eq!(
        only(s.claim("twin").superior_to("lora").worth(0.5)).state,
        State::Fails
    );
    assert_eq!(
        only(s.claim("ada").superior_to("lora").by(1.0)).state,
        State::Holds
    );
    assert_eq!(
        only(s.claim("ada").superior_to("lora").by(3.0)).state,
        State::Fails
    );
    assert_eq!(
        only(s.claim("twin").within(0.5, "lora")).state,
        State::Holds
    );
    assert_eq!(only(s.claim("lora").within(0.5, "ada")).state, State::Fails);
    assert_eq!(
        only(s.claim("twin").equals(0.5, "lora")).state,
        State::Holds
    );
    assert_eq!(only(s.claim("ada").equals(0.5, "lora")).state, State::Fails);
    assert_eq!(only(s.claim("ada").above(80.0)).state, State::Holds);
    assert_eq!(only(s.claim("ada").below(80.0)).state, State::Fails);
    assert_eq!(
        only(s.claim("ada").superior_to_each(["lora", "twin"])).state,
        State::Holds
    );
    assert_eq!(
        only(s.claim("ada").ordered(["twin", "lora"])).state,
        State::Inconclusive
    );
    let ratio = only(s.claim("lora").at_most(1.0, "ada"));
    assert_eq!((ratio.state, ratio.unit.as_str()), (State::Holds, "×"));
    assert!((ratio.estimate() - 0.975).abs() < 0.01);
    assert_eq!(
        only(s.claim("lora").at_least(0.99, "ada")).state,
        State::Fails
    );
}

// Differences 2, 2.1, 1.9, 2.1: mean 2.025.
#[test]
fn the_numbers_of_a_comparison() {
    let s = scores(&[("lora", LORA), ("ada", BETTER)]);
    let claim = only(s.claim("ada").superior_to("lora"));
    assert!((claim.estimate() - 2.025).abs() < 1e-12);
    assert_eq!(claim.quantity, "ada − lora");
    assert_eq!(claim.text, "ada beats lora in accuracy");
    let (low, high) = claim.interval.unwrap();
    assert!(low > 1.8 && high < 2.25, "{low} {high}");
    assert_eq!(claim.method, "t, 3.0 degrees of freedom");
}

#[test]
fn lower_is_better_turns_the_advantage() {
    let s = scores_of(
        Metric::perplexity(),
        &[("bits", &[10.0, 11.0, 10.5]), ("gptq", &[20.0, 21.5, 20.0])],
    );
    let claim = only(s.claim("bits").superior_to("gptq"));
    assert_eq!(
        (claim.state, claim.quantity.as_str()),
        (State::Holds, "gptq − bits")
    );
}

#[test]
fn signs_are_counted() {
    let s = scores(&[
        ("a", &[1.0, 2.0, 3.0, 4.0, 0.0]),
        ("b", &[0.0, 1.0, 2.0, 3.0, 1.0]),
    ]);
    assert_eq!(only(s.claim("a").sign_in(4, 5, "b")).state, State::Holds);
    assert_eq!(only(s.claim("a").sign_in(5, 5, "b")).state, State::Fails);
    assert_eq!(
        only(s.claim("a").sign_in(5, 6, "b")).state,
        State::Inconclusive
    );
}

#[test]
fn a_difference_of_differences() {
    let mut cube = Cube::default();
    for seed in 1..=4u64 {
        let wobble = seed as f64 * 0.01;
        for (arm, task, value) in [
            ("full", "vl", 5.0),
            ("low", "vl", 2.0),
            ("full", "v", 4.0),
            ("low", "v", 3.0),
        ] {
            let factor = match (arm, task) {
                ("full", "vl") => 3.0,
                ("full", _) => 2.0,
                _ => 1.0,
            };
            let cell = Cell::new().metric("accuracy", value + factor * wobble);
            cube.insert(CellId::new(arm, task, seed), cell).unwrap();
        }
    }
    let s = Scores::new(&cube, Metric::accuracy(), 500);
    let gap = |task| {
        [
            Term::new(1.0, "full").on([task]),
            Term::new(-1.0, "low").on([task]),
        ]
    };
    let [a, b] = gap("vl");
    let [c, d] = gap("v");
    let negated = [c, d].map(|t| Term {
        weight: -t.weight,
        ..t
    });
    let [c, d] = negated;
    let claim = only(
        s.contrast("the gap is larger on vl", [a, b, c, d])
            .above(1.0),
    );
    assert_eq!(claim.state, State::Holds);
    // (5 + 3w − 2 − w) − (4 + 2w − 3 − w) = 2 + w, and w is 0.025 on average.
    assert!((claim.estimate() - 2.025).abs() < 1e-9);
}

#[test]
fn averaging_needs_every_task_of_a_seed() {
    let mut cube = Cube::default();
    for seed in 1..=3u64 {
        for (arm, x) in [("a", 2.0), ("b", 1.0)] {
            for (task, shift) in [("easy", 50.0), ("hard", 0.0)] {
                if (arm, task, seed) == ("a", "hard", 3) {
                    cube.fail(CellId::new(arm, task, seed), "diverged".into());
                } else {
                    cube.insert(
                        CellId::new(arm, task, seed),
                        Cell::new().metric("accuracy", shift + x),
                    )
                    .unwrap();
                }
            }
        }
    }
    let s = Scores::new(&cube, Metric::accuracy(), 500);
    let claim = only(s.claim("a").superior_to("b"));
    assert_eq!((claim.per_seed.len(), claim.estimate()), (2, 1.0));
    assert_eq!(
        only(s.on(["easy"]).claim("a").superior_to("b"))
            .per_seed
            .len(),
        3
    );
}

#[test]
fn an_arm_that_never_came_through_leaves_the_claim_open() {
    let mut cube = Cube::default();
    for seed in 1..=3 {
        cube.insert(
            CellId::new("a", "t", seed),
            Cell::new().metric("accuracy", 1.0),
        )
        .unwrap();
        cube.fail(
            CellId::new("b", "t", seed),
            "diverged at step 3: loss is NaN".into(),
        );
    }
    let s = Scores::new(&cube, Metric::accuracy(), 500);
    let claim = only(s.claim("a").superior_to("b"));
    assert_eq!((claim.state, claim.estimate), (State::Inconclusive, None));
}

#[test]
fn a_name_that_is_not_there_is_an_error_with_the_likely_one() {
    let s = scores(&[("lora r=2", LORA), ("adalora r=2", BETTER)]);
    let error = Verdict::all([s.claim("adalora r=2").superior_to("lora r2")])
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("no arm `lora r2`; there are: lora r=2, adalora r=2"),
        "{error}"
    );
    let error = Verdict::all([s.on(["tsk"]).claim("lora r=2").above(1.0)])
        .unwrap_err()
        .to_string();
    assert!(error.ends_with("no task `tsk`; there are: task"), "{error}");
}

#[test]
fn verdicts() {
    let s = scores(&[("lora", LORA), ("ada", BETTER)]);
    let (yes, no) = (
        || s.claim("ada").superior_to("lora"),
        || s.claim("lora").superior_to("ada"),
    );
    let outcome = |claims: Vec<Claim>| Verdict::all(claims).unwrap().outcome;
    assert_eq!(
        outcome(vec![yes(), Claim::invariant("budget kept", true)]),
        Outcome::Reproduced
    );
    assert_eq!(outcome(vec![yes(), no()]), Outcome::PartlyReproduced);
    assert_eq!(outcome(vec![no()]), Outcome::NotReproduced);
    assert_eq!(outcome(vec![yes(), no().aside()]), Outcome::Reproduced);
    assert_eq!(outcome(vec![]), Outcome::Inconclusive);
    // A sound experiment alone reproduces nothing.
    assert_eq!(
        outcome(vec![no(), Claim::invariant("budget kept", true)]),
        Outcome::NotReproduced
    );
    let few = Verdict::all([yes()]).unwrap().needing_seeds(5);
    assert_eq!(few.outcome, Outcome::Inconclusive);
    assert!(
        few.notes[0].contains("at least 5 seeds; this run has 4"),
        "{:?}",
        few.notes
    );
    let ruled = Verdict::rule("partly if positive", [yes(), no()], |c| {
        if c[0].holds() && c[1].holds() {
            Outcome::Reproduced
        } else if c[0].estimate() > 0.0 {
            Outcome::PartlyReproduced
        } else {
            Outcome::NotReproduced
        }
    });
    assert_eq!(ruled.unwrap().outcome, Outcome::PartlyReproduced);
}

#[test]
fn one_seed_decides_nothing() {
    let s = scores(&[("lora", &[1.0]), ("ada", &[9.0])]);
    let claim = only(s.claim("ada").superior_to("lora"));
    assert_eq!(
        (claim.state, claim.interval, claim.estimate),
        (State::Inconclusive, None, Some(8.0))
    );
}

#[test]
fn test_items_widen_the_interval() {
    let make = |with_items: bool| {
        let mut cube = Cube::default();
        for seed in 1..=5u64 {
            for (arm, right) in [("a", 60 + seed % 2), ("b", 50)] {
                let items = (0..100u64).map(|i| (i * 37 + seed) % 100 < right);
                let mut cell = Cell::new().accuracy(items);
                if !with_items {
                    cell.items.clear();
                }
                cube.insert(CellId::new(arm, "t", seed), cell).unwrap();
            }
        }
        only(
            Scores::new(&cube, Metric::accuracy(), 500)
                .claim("a")
                .superior_to("b"),
        )
    };
    let width = |c: &Judged| c.interval.map(|(low, high)| high - low).unwrap();
    let (with, without) = (make(true), make(false));
    assert_eq!((with.items, without.items), (100, 0));
    assert_eq!(with.estimate, without.estimate);
    assert!(
        width(&with) > width(&without) + 1.0,
        "{} {}",
        width(&with),
        width(&without)
    );
}

proptest! {
    /// The correction can only take claims away, and it does not depend on their order.
    #[test]
    fn correction_never_helps(
        values in prop::collection::vec(prop::collection::vec(0.0..4.0f64, 5), 2..6),
    ) {
        let names = ["a", "b", "c", "d", "e", "f"];
        let mut arms: Vec<(&str, &[f64])> = vec![("base", &[1.0, 1.1, 0.9, 1.0, 1.0])];
        arms.extend(names.iter().zip(&values).map(|(n, v)| (*n, v.as_slice())));
        let s = scores(&arms);
        let claims = || names[..values.len()].iter().map(|n| s.claim(*n).superior_to("base"));
        let together = Verdict::all(claims()).unwrap().claims;
        let mut reversed = Verdict::all(claims().rev()).unwrap().claims;
        reversed.reverse();
        prop_assert_eq!(&together, &reversed);
        for (joint, alone) in together.iter().zip(claims().map(only)) {
            prop_assert!(!joint.holds() || alone.holds());
            prop_assert_eq!(joint.fails(), alone.fails());
        }
    }

    /// With ten seeds or more the bootstrap decides; interval and state never contradict each other.
    #[test]
    fn state_and_interval_agree(values in prop::collection::vec(-2.0..3.0f64, 2..14), threshold in -1.0..1.0f64) {
        let claim = only(scores(&[("a", &values)]).claim("a").above(threshold));
        let (low, high) = claim.interval.unwrap();
        match claim.state {
            State::Holds => prop_assert!(low > threshold),
            State::Fails => prop_assert!(high < threshold),
            State::Inconclusive => prop_assert!(threshold <= high),
        }
        prop_assert_eq!(claim.method.starts_with("bootstrap"), values.len() >= 10);
    }
}

// Models that all predict one class agree on every item: that is no evidence of equality.
#[test]
fn without_variation_nothing_is_decided() {
    let s = scores(&[
        ("lora", &[50.0, 50.0, 50.0]),
        ("ada", &[50.0, 50.0, 50.0]),
        ("up", &[51.1, 51.1, 51.1]),
    ]);
    for claim in [
        s.claim("ada").within(0.5, "lora"),
        s.claim("ada").equals(0.5, "lora"),
        s.claim("up").superior_to("lora"),
    ] {
        let judged = only(claim);
        assert_eq!(judged.state, State::Inconclusive);
        assert_eq!(
            (judged.p, judged.interval, judged.detectable),
            (None, None, None)
        );
        assert!(
            judged.why.starts_with("undecided: no variation"),
            "{}",
            judged.why
        );
    }
}

/// LORA and BETTER, with one run of an arm failed in seed 5.
fn with_a_failure(arm: &str) -> Scores {
    let mut cube = Cube::default();
    for (name, values) in [("lora", LORA), ("ada", BETTER)] {
        for (seed, &value) in (1..).zip(values) {
            let cell = Cell::new().metric("accuracy", value);
            cube.insert(CellId::new(name, "task", seed), cell).unwrap();
        }
    }
    cube.fail(CellId::new(arm, "task", 5), "diverged".into());
    Scores::new(&cube, Metric::accuracy(), 500)
}

#[test]
fn a_claim_that_lost_seeds_to_failed_runs_cannot_hold() {
    let s = with_a_failure("ada");
    let verdict = Verdict::all([s.claim("ada").superior_to("lora")]).unwrap();
    let judged = &verdict.claims[0];
    assert_eq!((judged.state, judged.lost), (State::Inconclusive, 1));
    assert!(
        judged.why.contains("1 seed more lost a run to failure"),
        "{}",
        judged.why
    );
    assert!(verdict.lost_to_failures());
    // That it fails is not the failure's doing, and failures of other arms do not matter.
    assert_eq!(only(s.claim("lora").superior_to("ada")).state, State::Fails);
    let other = with_a_failure("bitfit");
    let verdict = Verdict::all([other.claim("ada").superior_to("lora")]).unwrap();
    assert_eq!(verdict.outcome, Outcome::Reproduced);
    assert!(!verdict.lost_to_failures());
}
