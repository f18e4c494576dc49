//! adalora as its users meet it: real training, interrupted in every way, on one thread and on two.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

fn quick(out: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adalora"));
    command
        .args(["--quick", "--seeds", "1", "--out"])
        .arg(out)
        .args(args);
    command
}

fn finished(output: Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    text
}

fn results(out: &Path) -> Value {
    serde_json::from_slice(&fs::read(out.join("results.json")).unwrap()).unwrap()
}

/// Starts a run and returns once a stage of this name has begun.
fn in_stage(name: &str, out: &Path) -> Child {
    let mut child = quick(out, &["--threads", "1"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stages = || {
        let folders = fs::read_dir(out.join("cache"))
            .into_iter()
            .flatten()
            .flatten();
        let stages = folders.flat_map(|f| fs::read_dir(f.path()).into_iter().flatten().flatten());
        stages
            .map(|s| s.file_name().to_string_lossy().into_owned())
            .collect::<Vec<_>>()
    };
    if name == "pre-train" {
        // The first line says that it has begun.
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(line.starts_with("pre-train 1/1"), "{line}");
    } else {
        while !stages().iter().any(|s| s.starts_with(name)) {
            assert!(child.try_wait().unwrap().is_none(), "ended before {name}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
    child
}

#[test]
fn interrupted_or_killed_on_one_thread_or_two_the_results_are_the_same_bits() {
    let (whole, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    finished(quick(whole.path(), &["--threads", "2"]).output().unwrap());

    let mut child = in_stage("pre-train", broken.path());
    let asked = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(asked.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));

    let mut child = in_stage("fine-tune", broken.path());
    child.kill().unwrap();
    child.wait().unwrap();

    finished(quick(broken.path(), &["--threads", "1"]).output().unwrap());
    let (whole, broken) = (results(whole.path()), results(broken.path()));
    for part in ["results", "claims", "verdict", "config", "device"] {
        assert_eq!(whole[part], broken[part], "{part}");
    }
    let stages = broken["measured"]["stages"].as_array().unwrap();
    assert!(stages[0]["stage"] == "pre-train" && stages[0]["cached"] == true);
}
