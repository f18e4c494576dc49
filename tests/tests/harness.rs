//! The harness as its users meet it: the synthetic paper's binary, started, killed, started again.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

fn paper(out: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_synthetic-paper"));
    command.arg("--out").arg(out).args(args);
    command
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn results(out: &Path) -> Value {
    serde_json::from_slice(&fs::read(out.join("results.json")).unwrap()).unwrap()
}

/// What the seeds determine, from an undisturbed run.
fn undisturbed(args: &[&str]) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&mut paper(dir.path(), args));
    assert!(output.status.success(), "{}", stderr(&output));
    results(dir.path())
}

fn same(a: &Value, b: &Value) {
    for part in ["results", "claims", "verdict", "config", "device"] {
        assert_eq!(a[part], b[part], "{part}");
    }
}

#[test]
fn a_run_leaves_its_files_and_says_its_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&mut paper(dir.path(), &[]));
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "accuracy, points: mean ± standard deviation over 5 seeds",
        "adaptive r=2",
        "verdict: ",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let page = fs::read_to_string(dir.path().join("report.html")).unwrap();
    for part in [
        "<svg",
        "not verified",
        "adaptive r=2 beats lora r=2",
        "Equal tuning",
        "layer 4",
    ] {
        assert!(page.contains(part), "{part}");
    }
    for outside in ["http:", "https:", "<script", "<link", "@import"] {
        // The name of SVG's own language is no link.
        let page = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        assert!(!page.contains(outside), "{outside}");
    }
    let csv = fs::read_to_string(dir.path().join("curves.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 6 * 2 * 5 * 60);
    let sweep = &results(dir.path())["results"]["sweeps"][0];
    let trials = |arm: &Value| arm["scores"].as_array().unwrap().len();
    assert!(
        sweep["arms"]
            .as_array()
            .unwrap()
            .iter()
            .all(|arm| trials(arm) == 3)
    );
}

#[test]
fn killed_in_any_stage_and_repeated_it_ends_the_same() {
    let whole = undisturbed(&["--quick"]);
    for stage in ["0", "1", "9", "20"] {
        let dir = tempfile::tempdir().unwrap();
        let killed = run(paper(dir.path(), &["--quick"]).env("SYNTHETIC_ABORT", stage));
        assert!(!killed.status.success());
        assert!(!dir.path().join("results.json").exists());
        let again = run(&mut paper(dir.path(), &["--quick"]));
        assert!(again.status.success(), "{}", stderr(&again));
        assert!(
            stderr(&again).contains("goes on where it stopped"),
            "{}",
            stderr(&again)
        );
        same(&results(dir.path()), &whole);
    }
}

#[test]
fn killed_for_real_it_ends_the_same() {
    let whole = undisturbed(&["--quick"]);
    let dir = tempfile::tempdir().unwrap();
    for milliseconds in [60, 150, 300] {
        let mut child = paper(dir.path(), &["--quick"])
            .env("SYNTHETIC_STEP_MS", "1")
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let again = run(&mut paper(dir.path(), &["--quick"]));
    assert!(again.status.success(), "{}", stderr(&again));
    same(&results(dir.path()), &whole);
}

#[test]
fn ctrl_c_keeps_what_there_is_and_says_how_to_go_on() {
    let whole = undisturbed(&["--quick"]);
    let dir = tempfile::tempdir().unwrap();
    let child = paper(dir.path(), &["--quick"])
        .env("SYNTHETIC_STEP_MS", "20")
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // The first stage's folder appears with its first file, after the handler is in place.
    let lock = dir.path().join("cache/lock");
    let began = Instant::now();
    while !lock.exists() && began.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let interrupt = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(interrupt.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("give the same command to go on"),
        "{}",
        stderr(&output)
    );
    let again = run(&mut paper(dir.path(), &["--quick"]));
    assert!(again.status.success(), "{}", stderr(&again));
    same(&results(dir.path()), &whole);
}

#[test]
fn finished_stages_are_not_run_again_and_fresh_runs_them() {
    let dir = tempfile::tempdir().unwrap();
    let cached = |args: &[&str]| {
        assert!(run(&mut paper(dir.path(), args)).status.success());
        let all = results(dir.path());
        let stages = all["measured"]["stages"].as_array().unwrap().clone();
        (
            stages.len(),
            stages.iter().filter(|s| s["cached"] == true).count(),
            all,
        )
    };
    let (stages, none, first) = cached(&["--quick"]);
    assert_eq!(none, 0);
    let (_, all, second) = cached(&["--quick", "--threads", "1"]);
    assert_eq!(all, stages);
    let (_, fresh, third) = cached(&["--quick", "--fresh"]);
    assert_eq!(fresh, 0);
    same(&first, &second);
    same(&first, &third);
}

#[test]
fn a_damaged_entry_is_noticed_and_computed_again() {
    let whole = undisturbed(&["--quick"]);
    let dir = tempfile::tempdir().unwrap();
    assert!(run(&mut paper(dir.path(), &["--quick"])).status.success());
    let mut damaged = 0;
    for environment in fs::read_dir(dir.path().join("cache"))
        .unwrap()
        .map(|e| e.unwrap().path())
    {
        if !environment.is_dir() {
            continue;
        }
        for (i, stage) in fs::read_dir(environment)
            .unwrap()
            .map(|e| e.unwrap().path())
            .enumerate()
        {
            let entry = stage.join("entry");
            let mut bytes = fs::read(&entry).unwrap();
            match i % 3 {
                0 => bytes.truncate(bytes.len() / 2),
                1 => *bytes.last_mut().unwrap() ^= 4,
                _ => continue,
            }
            fs::write(entry, bytes).unwrap();
            damaged += 1;
        }
    }
    let again = run(&mut paper(dir.path(), &["--quick"]));
    assert!(again.status.success(), "{}", stderr(&again));
    assert_eq!(stderr(&again).matches("is computed again").count(), damaged);
    same(&results(dir.path()), &whole);
}

#[test]
fn a_diverging_run_is_reported_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let output = run(paper(dir.path(), &["--quick"]).env("SYNTHETIC_NAN", "bitfit"));
        assert!(output.status.success(), "{}", stderr(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.contains("failed: bitfit · sentiment · seed 2: diverged at step 17: loss is NaN"),
            "{text}"
        );
        assert!(text.contains("(1 failed)"), "{text}");
        assert_eq!(
            results(dir.path())["results"]["failures"]
                .as_array()
                .unwrap()
                .len(),
            2
        );
        assert_eq!(
            results(dir.path())["results"]["cells"]
                .as_array()
                .unwrap()
                .len(),
            6 * 2 * 2 - 2
        );
    }
}

#[test]
fn a_verdict_lost_to_failed_runs_says_so_in_its_status() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(paper(dir.path(), &["--quick"]).env("SYNTHETIC_NAN", "adaptive r=2"));
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("nothing could be concluded, because runs failed"),
        "{}",
        stderr(&output)
    );
    let all = results(dir.path());
    assert_eq!(all["claims"][0]["lost"], 1);
    assert_eq!(all["verdict"]["outcome"], "inconclusive");
    assert!(dir.path().join("report.html").exists());
}

#[test]
fn a_reader_that_goes_away_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = paper(dir.path(), &["--quick"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert!(child.wait().unwrap().success());
    assert!(dir.path().join("results.json").exists());
}

#[test]
fn bad_input_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let cases: [(&Path, &[&str], i32, &str); 4] = [
        (dir.path(), &["--sedes", "3"], 2, "--seeds"),
        (dir.path(), &["--seeds", "0"], 2, "0 is not in 1..=1000"),
        (
            &file.join("under"),
            &["--quick"],
            1,
            "--out DIR names another folder",
        ),
        (
            dir.path(),
            &["--quick", "--profile", "/no/such/folder/trace.json"],
            1,
            "cannot write /no/such",
        ),
    ];
    for (out, args, code, part) in cases {
        let output = run(&mut paper(out, args));
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        assert!(
            stderr(&output).contains(part),
            "{args:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn a_full_device_is_an_error_and_costs_no_finished_stage() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&mut paper(
        dir.path(),
        &["--quick", "--profile", "/dev/full"],
    ));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("free some space"),
        "{}",
        stderr(&output)
    );
    let again = run(&mut paper(dir.path(), &["--quick"]));
    assert!(again.status.success());
    let stages = results(dir.path())["measured"]["stages"].clone();
    assert!(
        stages
            .as_array()
            .unwrap()
            .iter()
            .all(|s| s["cached"] == true)
    );
}

#[test]
fn a_profile_has_a_span_for_every_stage() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace.json");
    let output = run(paper(dir.path(), &["--quick", "--profile"]).arg(&trace));
    assert!(output.status.success(), "{}", stderr(&output));
    let trace: Value = serde_json::from_slice(&fs::read(trace).unwrap()).unwrap();
    let spans = trace["traceEvents"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|e| e["name"] == "stage")
        .count();
    let stages = results(dir.path())["measured"]["stages"]
        .as_array()
        .unwrap()
        .len();
    assert_eq!(spans, stages);
}

#[test]
fn list_says_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&mut paper(dir.path(), &["--list"]));
    assert!(output.status.success());
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("  adaptive r=2  rank moved")
    );
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing is written"
    );
}
