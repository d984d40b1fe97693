//! Runs a bench of two versions of the library in turn, again and again, and prints what became
//! slower or faster. Judges nothing.
//!
//! ```text
//! cargo run --release -p leasehold-benches --bin compare -- \
//!     [--times N] BENCH BEFORE AFTER [-- ARGUMENT …]
//! ```
//!
//! `BENCH` is `ratios`, say, and `BEFORE` and `AFTER` are directories with a checkout of each version.
//! A version older than the bench gets a copy of `benches/`, with `src/library.rs` changed to its
//! interface. Both are built, and run `N` times, ten unless said otherwise, with the arguments
//! (`--rounds 20`, say). Each pair of runs gives one ratio for each contender.

use std::process::{Command, Output, Stdio, exit};

use leasehold_benches::turns::{self, Figures};
use serde_json::Value;

const USAGE: &str = "usage: compare [--times N] BENCH BEFORE AFTER [-- ARGUMENT …]";
const TIMES: usize = 10;

/// What the command line asks for.
struct Arguments {
    times: usize,
    bench: String,
    before: String,
    after: String,
    /// For the bench.
    passed_on: Vec<String>,
}

/// Nanoseconds of each contender, in the bench's order.
type Medians = Vec<(String, f64)>;

fn main() {
    let Arguments { times, bench, before, after, passed_on } = Arguments::read();
    let executables = [before, after].map(|checkout| build(&checkout, &bench));
    let pairs: Vec<[Medians; 2]> = (0..times)
        .map(|number| {
            eprintln!("pair {} of {times}", number + 1);
            run_pair(number, &executables, &passed_on)
        })
        .collect();
    let rows = pairs[0][1].iter().filter_map(|(contender, _)| row(contender, &pairs));
    turns::print(["", "before, ns", "after, ns", "after ÷ before", "p10 .. p90"], rows);
    let [before, after] = &pairs[0];
    print_missing(before, after, "before");
    print_missing(after, before, "after");
}

impl Arguments {
    fn read() -> Self {
        let mut arguments: Vec<String> = std::env::args().skip(1).collect();
        let mut passed_on = match arguments.iter().position(|argument| argument == "--") {
            Some(at) => arguments.split_off(at),
            None => Vec::new(),
        };
        passed_on.drain(..1.min(passed_on.len()));
        let mut times = TIMES;
        if let Some(at) = arguments.iter().position(|argument| argument == "--times") {
            let number = arguments.get(at + 1).and_then(|number| number.parse().ok());
            times = number.filter(|&times| times > 0).expect("--times takes a number above zero");
            arguments.drain(at..at + 2);
        }
        let Ok([bench, before, after]) = <[String; 3]>::try_from(arguments) else {
            eprintln!("{USAGE}");
            exit(2);
        };
        Self { times, bench, before, after, passed_on }
    }
}

/// Builds a version's bench, and returns the path of the executable.
fn build(checkout: &str, bench: &str) -> String {
    let output = Command::new("cargo")
        .args(["bench", "-p", "leasehold-benches", "--no-run", "--message-format", "json"])
        .args(["--bench", bench])
        .current_dir(checkout)
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic!("cargo does not run in {checkout}: {error}"));
    assert!(output.status.success(), "{bench} does not build in {checkout}");
    let executable = |line: &str| -> Option<String> {
        let message: Value = serde_json::from_str(line).ok()?;
        // Cargo builds this program beside the bench, and names it too.
        if message.get("target")?.get("name")? != bench {
            return None;
        }
        Some(message.get("executable")?.as_str()?.to_owned())
    };
    text(output).lines().find_map(executable).expect("cargo names the executable it built")
}

/// Runs both executables. Every other pair begins with the second one, so that neither gains from its
/// place.
fn run_pair(number: usize, executables: &[String; 2], passed_on: &[String]) -> [Medians; 2] {
    let [before, after] = executables.each_ref();
    if number.is_multiple_of(2) {
        [before, after].map(|executable| run(executable, passed_on))
    } else {
        let [after, before] = [after, before].map(|executable| run(executable, passed_on));
        [before, after]
    }
}

fn run(executable: &str, passed_on: &[String]) -> Medians {
    let output = Command::new(executable)
        .args(["--bench", "--json"])
        .args(passed_on)
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic!("{executable} does not run: {error}"));
    assert!(output.status.success(), "{executable} failed: {}", output.status);
    let medians: Medians = text(output).lines().filter_map(median).collect();
    assert!(!medians.is_empty(), "{executable} prints no figures for `--json`");
    medians
}

fn text(output: Output) -> String {
    String::from_utf8(output.stdout).expect("both cargo and the benches print text")
}

/// A contender's name and median, if the line has them. The others are tables.
fn median(line: &str) -> Option<(String, f64)> {
    let figures: Value = serde_json::from_str(line).ok()?;
    Some((figures.get("contender")?.as_str()?.to_owned(), figures.get("ns")?.as_f64()?))
}

/// One line of the table, for a contender that both versions have.
fn row(contender: &str, pairs: &[[Medians; 2]]) -> Option<[String; 5]> {
    let figures = |version: usize| -> Option<Vec<f64>> {
        pairs.iter().map(|pair| find(&pair[version], contender)).collect()
    };
    let (before, after) = (figures(0)?, figures(1)?);
    let ratios = Figures::of(before.iter().zip(&after).map(|(b, a)| a / b).collect());
    Some([
        contender.to_owned(),
        format!("{:.1}", Figures::of(before).median()),
        format!("{:.1}", Figures::of(after).median()),
        format!("{:.2}", ratios.median()),
        ratios.spread(2),
    ])
}

fn find(medians: &[(String, f64)], contender: &str) -> Option<f64> {
    medians.iter().find(|(name, _)| name == contender).map(|&(_, ns)| ns)
}

fn print_missing(these: &[(String, f64)], those: &[(String, f64)], version: &str) {
    for (contender, _) in these.iter().filter(|(name, _)| find(those, name).is_none()) {
        println!("only {version}: {contender}");
    }
}
