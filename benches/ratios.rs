//! Every contender in turn, for a few milliseconds each, again and again: the ratios of the medians
//! do not depend on how the machine's speed drifts meanwhile. Prints, and judges nothing.
//!
//! ```text
//! cargo bench -p leasehold-benches --bench ratios [-- [--rounds N] [--test]]
//! ```

use std::time::{Duration, Instant};

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use leasehold_benches::{
    ALTERNATIVE, BLOCK, CONNECTIONS, CONTENDERS, Crew, FLOOR, THREADS, Target,
};

const ROUNDS: usize = 300;
/// How long one contender's turn takes, about.
const TURN: Duration = Duration::from_millis(5);
/// Operations before each turn that nobody times: they bring its memory into the caches.
const WARM_UP: u64 = CONNECTIONS as u64 * 4;

/// The turns of one contender, in nanoseconds per operation.
struct Turns {
    contender: usize,
    threads: usize,
    times: u64,
    paces: Vec<f64>,
}

impl Turns {
    fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Of the sorted paces.
    fn quantile(&self, share: f64) -> f64 {
        self.paces[((self.paces.len() - 1) as f64 * share).round() as usize]
    }
}

fn main() {
    let arguments = Arguments::read();
    if arguments.test {
        println!("a test: everything runs once or so, and the figures mean nothing");
    }
    let crew = Crew::new();
    let start = Instant::now();
    let mut table = Vec::new();
    for threads in 1..=THREADS {
        for contender in 0..CONTENDERS.len() {
            let times = if arguments.test { 1 } else { times_in_turn(&crew, contender, threads) };
            table.push(Turns { contender, threads, times, paces: Vec::new() });
        }
    }
    for _ in 0..arguments.rounds {
        for turns in &mut table {
            crew.measure(turns.contender, turns.threads, WARM_UP);
            turns.paces.push(crew.measure(turns.contender, turns.threads, turns.times));
        }
    }
    for turns in &mut table {
        turns.paces.sort_by(f64::total_cmp);
    }
    println!(
        "{BLOCK} bytes, first and last touched; {CONNECTIONS} connections a thread, one peer each; \
         medians of {} interleaved rounds in {:.0} s",
        arguments.rounds,
        start.elapsed().as_secs_f64()
    );
    for (threads, turns) in (1..).zip(table.chunks(CONTENDERS.len())) {
        print(threads, turns);
    }
    let (leased, returned) = crew.world().counted();
    println!("\n{leased} bytes were leased and {returned} returned, by the governor's own count");
}

/// How many operations fill a turn.
fn times_in_turn(crew: &Crew, contender: usize, threads: usize) -> u64 {
    let mut times = WARM_UP;
    loop {
        let elapsed =
            Duration::from_nanos((crew.measure(contender, threads, times) * times as f64) as u64);
        if elapsed >= TURN / 2 {
            return (times as f64 * TURN.as_secs_f64() / elapsed.as_secs_f64()) as u64;
        }
        times *= 2;
    }
}

fn print(threads: usize, rows: &[Turns]) {
    let (floor, alternative) = (rows[FLOOR].median(), rows[ALTERNATIVE].median());
    let mut table = Table::new();
    table.load_preset(NOTHING);
    let title = match threads {
        1 => "1 thread, another one idle".to_owned(),
        _ => format!("{threads} threads"),
    };
    table.set_header([&*title, "ns", "p10 .. p90", "floor ×", "alternative ÷", "target"]);
    for row in rows {
        let (contender, median) = (&CONTENDERS[row.contender], row.median());
        let (over_floor, speedup) = (median / floor, alternative / median);
        table.add_row([
            contender.name.to_owned(),
            format!("{median:.1}"),
            format!("{:.1} .. {:.1}", row.quantile(0.1), row.quantile(0.9)),
            format!("{over_floor:.2}"),
            format!("{speedup:.2}"),
            verdict(contender.target, threads, over_floor, speedup),
        ]);
    }
    for column in table.column_iter_mut().skip(1).take(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("\n{}", table.trim_fmt());
}

/// Says what was aimed at, and marks what was missed.
fn verdict(target: Target, threads: usize, over_floor: f64, speedup: f64) -> String {
    let mark = |met| if met { "" } else { " MISSED" };
    let floor = target.floor.map(|most| format!("× ≤ {most}{}", mark(over_floor <= most)));
    let speedup = target.speedup.map(|least| {
        let least = least[threads - 1];
        format!("÷ ≥ {least}{}", mark(speedup >= least))
    });
    floor.into_iter().chain(speedup).collect::<Vec<_>>().join(", ")
}

struct Arguments {
    rounds: usize,
    /// Only shows that everything runs.
    test: bool,
}

impl Arguments {
    fn read() -> Self {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
        // As criterion does: without cargo's `--bench` this is a test.
        let test = has("--test") || !has("--bench");
        let rounds = arguments.iter().position(|argument| argument == "--rounds").map(|at| {
            let number = arguments.get(at + 1).and_then(|number| number.parse().ok());
            number.filter(|&rounds| rounds > 0).expect("--rounds takes a number above zero")
        });
        Self { rounds: if test { 1 } else { rounds.unwrap_or(ROUNDS) }, test }
    }
}
