//! Contenders that take turns, for some milliseconds each, again and again: the ratios of their
//! medians do not depend on how the machine's speed drifts meanwhile. Prints, and judges nothing.

use std::fmt;
use std::time::{Duration, Instant};

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde_json::json;

/// What the command line asks for. Flags that are meant for criterion are ignored, because one
/// command line is given to all benches.
pub struct Arguments {
    /// Only shows that everything runs.
    pub test: bool,
    /// Prints each contender's figures as a line of JSON too, for `compare`.
    json: bool,
    rounds: Option<usize>,
}

impl Arguments {
    /// Reads `[--rounds N] [--json] [--test]`, and announces a test.
    pub fn read() -> Self {
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
        Self { test, json: has("--json"), rounds }
    }
}

/// How contenders take turns.
pub struct Plan {
    /// How often each has its turn, unless the command line says something else.
    pub rounds: usize,
    /// How long a turn takes, about.
    pub turn: Duration,
    /// Operations before each turn that are not timed: they bring the contender's memory into the
    /// caches.
    pub warm_up: u64,
}

impl Plan {
    /// A usual turn: long enough for the clock, short enough to be free of drift.
    pub const TURN: Duration = Duration::from_millis(5);
}

/// The turns of all contenders.
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
    /// Nanoseconds per operation.
    pub paces: Figures,
}

impl<C: fmt::Display> Rounds<C> {
    /// Lets each contender have its turn in each round.
    ///
    /// A contender's `Display` is the name by which `compare` finds it. `before_round` does what a
    /// server does now and then, untimed. `pace` has a contender do its work about so many times,
    /// and returns nanoseconds per operation.
    pub fn run(
        arguments: &Arguments,
        plan: &Plan,
        contenders: impl IntoIterator<Item = C>,
        mut before_round: impl FnMut(),
        mut pace: impl FnMut(&mut C, u64) -> f64,
    ) -> Self {
        let start = Instant::now();
        let rounds = if arguments.test { 1 } else { arguments.rounds.unwrap_or(plan.rounds) };
        before_round();
        let prepare = |mut contender| {
            let times = match arguments.test {
                true => 1,
                false => times_in(plan.turn, plan.warm_up, |times| pace(&mut contender, times)),
            };
            (contender, times, Vec::with_capacity(rounds))
        };
        let mut turns: Vec<_> = contenders.into_iter().map(prepare).collect();
        for _ in 0..rounds {
            before_round();
            for (contender, times, paces) in &mut turns {
                pace(contender, plan.warm_up);
                paces.push(pace(contender, *times));
            }
        }
        let turns: Vec<_> = turns
            .into_iter()
            .map(|(contender, _, paces)| Turns { contender, paces: Figures::of(paces) })
            .collect();
        if arguments.json {
            for Turns { contender, paces } in &turns {
                let figures = json!({ "contender": contender.to_string(), "ns": paces.median() });
                println!("{figures}");
            }
        }
        Self { turns, number: rounds, took: start.elapsed() }
    }
}

/// How many operations take `turn`, tried with `times` and more.
fn times_in(turn: Duration, mut times: u64, mut pace: impl FnMut(u64) -> f64) -> u64 {
    loop {
        let elapsed = Duration::from_nanos((pace(times) * times as f64) as u64);
        if elapsed >= turn / 2 {
            return (times as f64 * turn.as_secs_f64() / elapsed.as_secs_f64()) as u64;
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

/// Measurements of one thing.
pub struct Figures {
    sorted: Vec<f64>,
}

impl Figures {
    /// These measurements, at least one.
    pub fn of(mut figures: Vec<f64>) -> Self {
        assert!(!figures.is_empty(), "nothing was measured");
        figures.sort_by(f64::total_cmp);
        Self { sorted: figures }
    }

    /// The usual figure.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Between which figures most are, from the tenth percentile to the ninetieth.
    pub fn spread(&self, decimals: usize) -> String {
        format!("{:.decimals$} .. {:.decimals$}", self.quantile(0.1), self.quantile(0.9))
    }

    fn quantile(&self, share: f64) -> f64 {
        let at = (self.sorted.len() - 1) as f64 * share;
        let [low, high] = [at.floor(), at.ceil()].map(|index| self.sorted[index as usize]);
        low + (high - low) * at.fract()
    }
}

/// What is aimed at: at most so many times as slow as something else.
pub fn at_most(most: f64, ratio: f64) -> String {
    mark(format!("× ≤ {most}"), ratio <= most)
}

/// What is aimed at: at least so many times as fast as something else.
pub fn at_least(least: f64, ratio: f64) -> String {
    mark(format!("÷ ≥ {least}"), ratio >= least)
}

fn mark(target: String, met: bool) -> String {
    target + if met { "" } else { " MISSED" }
}

/// `2 threads`, or what one thread is called.
pub fn threads(number: usize) -> String {
    if number == 1 { "1 thread".to_owned() } else { format!("{number} threads") }
}

/// Prints a table: names, then figures, then targets.
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
