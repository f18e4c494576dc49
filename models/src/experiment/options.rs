//! The command line that every paper's binary shares.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::StyledStr;
use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum};
use serde::{Deserialize, Serialize};

use super::paper::Paper;

/// How much of the experiment to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// A bounded number of operations: proves the plumbing, decides nothing.
    Quick,
    /// Minutes: shows the experiment.
    Default,
    /// About an hour: the seeds and the search that the record needs.
    Full,
}

/// One value for each scale, such as seeds or steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scales<T> {
    /// With `--quick`.
    pub quick: T,
    /// With neither.
    pub default: T,
    /// With `--full`.
    pub full: T,
}

impl<T> Scales<T> {
    /// The value at a scale.
    pub fn at(self, scale: Scale) -> T {
        match scale {
            Scale::Quick => self.quick,
            Scale::Default => self.default,
            Scale::Full => self.full,
        }
    }
}

/// Where the arithmetic runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// This processor.
    Cpu,
    /// The first CUDA device.
    Cuda,
    /// The CUDA kernels on the software driver.
    Emulated,
    /// Everything in f64, slow and plain.
    Oracle,
}

/// The processor's instruction set to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isa {
    /// The widest that this machine has.
    Auto,
    /// None of the following.
    Scalar,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 (F, BW, DQ, VL).
    Avx512,
}

/// The options of a paper's binary.
#[derive(Clone, Debug, Parser)]
#[command(disable_version_flag = true)]
pub struct Options {
    /// A bounded number of operations, for tests: proves the plumbing, decides nothing
    #[arg(long, conflicts_with = "full")]
    pub quick: bool,

    /// About an hour: all seeds and the equal search of every arm; what the record is made with
    #[arg(long)]
    pub full: bool,

    /// Run so many seeds instead of the scale's own number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub seeds: Option<u64>,

    /// Threads to compute with; the results do not depend on it [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,

    /// Where the arithmetic runs
    #[arg(long, value_enum, default_value = "cpu")]
    pub device: Device,

    /// Let a GPU's tensor cores round the factors of f32 products to 11 bits: faster, and not the CPU's results
    #[arg(long)]
    pub tf32: bool,

    /// Instruction set of the CPU path; results are bit-identical on the same one
    #[arg(long, value_enum, default_value = "auto")]
    pub isa: Isa,

    /// Folder for results.json, curves.csv, report.html and the cache
    /// [default: results/ and the name of the paper]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Print the paper's claim, the tasks and the arms, and exit
    #[arg(long)]
    pub list: bool,

    /// Write a Chrome trace of where the time went
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,

    /// Start from this checkpoint (config.json, model.safetensors, tokenizer.json) instead of pre-training a small model
    #[arg(long, value_name = "DIR")]
    pub checkpoint: Option<PathBuf>,

    /// A tokenizer in place of the checkpoint's own
    #[arg(long, value_name = "FILE.json", requires = "checkpoint")]
    pub tokenizer: Option<PathBuf>,

    /// Use this data instead of the embedded sets: TSV or JSONL with the columns text, label (and text_pair), or prompt and
    /// completion for decoders; for pictures, a folder with a folder of PNGs per class
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,

    /// Fine-tune for so many steps instead of the scale's own number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: Option<u64>,

    /// Compute every stage again instead of taking finished ones from the cache
    #[arg(long)]
    pub fresh: bool,
}

impl Options {
    /// Reads a command line, the program's name first. The error knows how to print itself and its exit status;
    /// asking for help is one too.
    ///
    /// # Errors
    /// On an unknown option (with the likeliest one meant), a value out of range, or `--help`.
    pub fn parse_for(
        paper: &Paper,
        args: impl IntoIterator<Item = OsString>,
    ) -> Result<Self, clap::Error> {
        let command = Self::command()
            .name(paper.slug)
            .bin_name(paper.slug)
            .about(about(paper))
            .after_help(examples(paper));
        Self::from_arg_matches(&command.try_get_matches_from(args)?)
    }

    /// Whether the weights or the data are the user's own.
    pub fn own(&self) -> bool {
        self.checkpoint.is_some() || self.data.is_some()
    }

    /// Whether weights, data or length make a run another experiment than the paper's record.
    pub fn departs(&self) -> bool {
        self.own() || self.steps.is_some()
    }

    /// The scale that was asked for.
    pub fn scale(&self) -> Scale {
        match (self.quick, self.full) {
            (true, _) => Scale::Quick,
            (_, true) => Scale::Full,
            _ => Scale::Default,
        }
    }

    /// The output folder.
    pub fn out(&self, slug: &str) -> PathBuf {
        self.out
            .clone()
            .unwrap_or_else(|| ["results", slug].iter().collect())
    }
}

fn about(paper: &Paper) -> StyledStr {
    format!("{} ({})\n\n{}", paper.title, paper.year, paper.claim).into()
}

fn examples(paper: &Paper) -> StyledStr {
    let slug = paper.slug;
    let rows = [
        ("", "minutes on the CPU, embedded data"),
        (" --quick", "seconds, to see that it works"),
        (
            " --full --threads 2",
            "the record's run, about an hour; Ctrl-C and repeat to go on",
        ),
        (
            " --seeds 10 --out /tmp/ten",
            "more seeds, kept apart from other runs",
        ),
        (
            " --isa avx2 --profile trace.json",
            "one instruction set, with a trace",
        ),
        (
            " --checkpoint DIR --data train.tsv",
            "another model and data: the paper's own scale",
        ),
    ];
    let mut text = String::from("Examples:\n");
    for (arguments, what) in rows {
        text += &format!("  {slug}{arguments}\n      {what}\n");
    }
    if !paper.own_scale.is_empty() {
        text += &format!("\nWith weights of one's own:\n  {}\n", paper.own_scale);
    }
    text.trim_end().to_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &str) -> Result<Options, String> {
        let paper = Paper {
            slug: "adalora",
            title: "AdaLoRA",
            year: 2023,
            ..Paper::BLANK
        };
        let words = std::iter::once("adalora")
            .chain(args.split_whitespace())
            .map(OsString::from);
        Options::parse_for(&paper, words).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults() {
        let options = parse("").unwrap();
        assert_eq!(options.scale(), Scale::Default);
        assert_eq!((options.device, options.isa), (Device::Cpu, Isa::Auto));
        assert_eq!(options.out("adalora"), PathBuf::from("results/adalora"));
        assert_eq!(
            parse("--quick --out x").unwrap().out("adalora"),
            PathBuf::from("x")
        );
    }

    #[test]
    fn mistakes_are_named_and_mended() {
        let cases = [
            ("--sedes 3", "'--seeds'"),
            ("--quik", "'--quick'"),
            ("--quick --full", "cannot be used with"),
            ("--seeds 0", "0 is not in 1..=1000"),
            ("--seeds many", "invalid digit"),
            ("--threads 5000", "5000 is not in 1..=1024"),
            (
                "--device gpu",
                "[possible values: cpu, cuda, emulated, oracle]",
            ),
            ("--isa avx3", "'avx2'"),
            ("stray", "unexpected argument 'stray'"),
            ("--tokenizer x.json", "--checkpoint <DIR>"),
            ("--steps 0", "0 is not in 1.."),
            ("--out", "a value is required"),
        ];
        for (args, part) in cases {
            let message = parse(args).unwrap_err();
            assert!(message.contains(part), "{args}: {message}");
        }
    }

    #[test]
    fn help_names_every_option_and_shows_examples() {
        let help = parse("--help").unwrap_err();
        for option in [
            "--quick",
            "--full",
            "--seeds",
            "--threads",
            "--device",
            "--isa",
            "--out",
            "--list",
            "--profile",
            "--checkpoint",
            "--tokenizer",
            "--data",
            "--steps",
            "--fresh",
            "adalora --full --threads 2",
            "AdaLoRA (2023)",
        ] {
            assert!(help.contains(option), "{option} in {help}");
        }
    }
}
