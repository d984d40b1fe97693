//! Every contender in turn, for a few milliseconds each, again and again: the ratios of the medians
//! do not depend on how the machine's speed drifts meanwhile. Prints, and judges nothing.
//!
//! ```text
//! cargo bench -p leasehold-benches --bench ratios [-- [--rounds N] [--test]]
//! ```

use leasehold_benches::turns::{self, Arguments, Rounds, Turns};
use leasehold_benches::{
    ALTERNATIVE, BLOCK, CONNECTIONS, CONTENDERS, Crew, FLOOR, THREADS, Target,
};

const ROUNDS: usize = 300;
/// Operations before each turn that nobody times.
const WARM_UP: u64 = CONNECTIONS as u64 * 4;

/// One line of a table.
struct Line {
    /// Where in [`CONTENDERS`] its contender stands.
    index: usize,
    threads: usize,
}

fn main() {
    let arguments = Arguments::read(ROUNDS);
    let crew = Crew::new();
    let lines = (1..=THREADS)
        .flat_map(|threads| (0..CONTENDERS.len()).map(move |index| Line { index, threads }));
    let rounds = Rounds::run(&arguments, lines, WARM_UP, |line, times| {
        crew.measure(line.index, line.threads, times)
    });
    println!(
        "{BLOCK} bytes, first and last touched; {CONNECTIONS} connections a thread, one peer each; \
         {rounds}"
    );
    for (threads, rows) in (1..).zip(rounds.turns.chunks(CONTENDERS.len())) {
        print(threads, rows);
    }
    let (leased, returned) = crew.world().counted();
    println!("\n{leased} bytes were leased and {returned} returned, by the governor's own count");
}

fn print(threads: usize, rows: &[Turns<Line>]) {
    let (floor, alternative) = (rows[FLOOR].median(), rows[ALTERNATIVE].median());
    let title = match threads {
        1 => "1 thread, another one idle".to_owned(),
        _ => format!("{threads} threads"),
    };
    let row = |row: &Turns<Line>| {
        let (contender, median) = (&CONTENDERS[row.contender.index], row.median());
        let (over_floor, speedup) = (median / floor, alternative / median);
        [
            contender.name.to_owned(),
            format!("{median:.1}"),
            row.spread(),
            format!("{over_floor:.2}"),
            format!("{speedup:.2}"),
            verdict(contender.target, threads, over_floor, speedup),
        ]
    };
    let header = [&*title, "ns", "p10 .. p90", "floor ×", "alternative ÷", "target"];
    turns::print(header, rows.iter().map(row));
}

/// Says what was aimed at, and marks what was missed.
fn verdict(target: Target, threads: usize, over_floor: f64, speedup: f64) -> String {
    let floor = target.floor.map(|most| turns::verdict(format!("× ≤ {most}"), over_floor <= most));
    let speedup = target.speedup.map(|least| {
        let least = least[threads - 1];
        turns::verdict(format!("÷ ≥ {least}"), speedup >= least)
    });
    floor.into_iter().chain(speedup).collect::<Vec<_>>().join(", ")
}
