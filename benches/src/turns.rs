//! Contenders that take turns, for a few milliseconds each, again and again: the ratios of their
//! medians do not depend on how the machine's speed drifts meanwhile. Prints, and judges nothing.

use std::fmt;
use std::time::{Duration, Instant};

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

/// How long one contender's turn takes, about.
const TURN: Duration = Duration::from_millis(5);

/// What the command line asks for. What it says to criterion, as one line says it to all benches, is
/// left alone.
pub struct Arguments {
    /// Only shows that everything runs.
    pub test: bool,
    rounds: usize,
}

impl Arguments {
    /// Reads `[--rounds N] [--test]`, and announces a test.
    pub fn read(default_rounds: usize) -> Self {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
        // As criterion does: without cargo's `--bench` this is a test.
        let test = has("--test") || !has("--bench");
        let rounds = arguments.iter().position(|argument| argument == "--rounds").map(|at| {
            let number = arguments.get(at + 1).and_then(|number| number.parse().ok());
            number.filter(|&rounds| rounds > 0).expect("--rounds takes a number above zero")
        });
        if test {
            println!("a test: everything runs once or so, and the figures mean nothing");
        }
        Self { test, rounds: if test { 1 } else { rounds.unwrap_or(default_rounds) } }
    }
}

/// What came of all contenders' turns.
pub struct Rounds<C> {
    /// One for each contender, in their order.
    pub turns: Vec<Turns<C>>,
    number: usize,
    took: Duration,
}

/// The turns of one contender.
pub struct Turns<C> {
    /// Whose turns they are.
    pub contender: C,
    /// How many operations fill one.
    times: u64,
    /// Nanoseconds per operation; sorted, once all turns are over.
    paces: Vec<f64>,
}

impl<C> Rounds<C> {
    /// Lets each contender have its turn in each round. `pace` has one do its work so many times,
    /// and answers nanoseconds per operation. Before each turn come `warm_up` operations that nobody
    /// times: they bring its memory into the caches.
    pub fn run(
        arguments: &Arguments,
        contenders: impl IntoIterator<Item = C>,
        warm_up: u64,
        mut pace: impl FnMut(&mut C, u64) -> f64,
    ) -> Self {
        let start = Instant::now();
        let prepare = |mut contender| {
            let times = match arguments.test {
                true => 1,
                false => times_in_turn(warm_up, |times| pace(&mut contender, times)),
            };
            Turns { contender, times, paces: Vec::new() }
        };
        let mut turns: Vec<_> = contenders.into_iter().map(prepare).collect();
        for _ in 0..arguments.rounds {
            for Turns { contender, times, paces } in &mut turns {
                pace(contender, warm_up);
                paces.push(pace(contender, *times));
            }
        }
        for turns in &mut turns {
            turns.paces.sort_by(f64::total_cmp);
        }
        Self { turns, number: arguments.rounds, took: start.elapsed() }
    }
}

/// How many operations fill a turn, tried with `times` and more.
fn times_in_turn(mut times: u64, mut pace: impl FnMut(u64) -> f64) -> u64 {
    loop {
        let elapsed = Duration::from_nanos((pace(times) * times as f64) as u64);
        if elapsed >= TURN / 2 {
            return (times as f64 * TURN.as_secs_f64() / elapsed.as_secs_f64()) as u64;
        }
        times *= 2;
    }
}

impl<C> fmt::Display for Rounds<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, took, .. } = self;
        write!(f, "medians of {number} interleaved rounds in {:.0} s", took.as_secs_f64())
    }
}

impl<C> Turns<C> {
    /// The pace of a usual turn.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Between which paces most turns are.
    pub fn spread(&self) -> String {
        format!("{:.1} .. {:.1}", self.quantile(0.1), self.quantile(0.9))
    }

    fn quantile(&self, share: f64) -> f64 {
        self.paces[((self.paces.len() - 1) as f64 * share).round() as usize]
    }
}

/// What was aimed at, marked if it was missed.
pub fn verdict(target: String, met: bool) -> String {
    target + if met { "" } else { " MISSED" }
}

/// Prints a table: names, then figures, then verdicts.
pub fn print<const COLUMNS: usize>(
    header: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(header).add_rows(rows);
    for column in table.column_iter_mut().skip(1).take(COLUMNS - 2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("\n{}", table.trim_fmt());
}
