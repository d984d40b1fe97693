//! Every contender in turn, for a few milliseconds each, again and again: the ratios of the medians
//! do not depend on how the machine's speed drifts meanwhile. Prints, and judges nothing.
//!
//! ```text
//! cargo bench -p leasehold-benches --bench ratios [-- [--rounds N] [--json] [--test]]
//! ```

use std::fmt;

use leasehold_benches::library;
use leasehold_benches::turns::{self, Arguments, Plan, Rounds, Turns};
use leasehold_benches::{BLOCK, CONNECTIONS, CONTENDERS, Crew, THREADS, Target, World, prepare_in};

const PLAN: Plan = Plan { rounds: 300, turn: Plan::TURN, warm_up: CONNECTIONS as u64 * 4 };

/// One line of a table.
struct Line {
    /// Where in [`CONTENDERS`] its contender stands.
    index: usize,
    threads: usize,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", CONTENDERS[self.index].name, turns::threads(self.threads))
    }
}

fn main() {
    let arguments = Arguments::read();
    let world = World::new();
    let crew = Crew::new(prepare_in(&world));
    let lines = (1..=THREADS)
        .flat_map(|threads| (0..CONTENDERS.len()).map(move |index| Line { index, threads }));
    let maintain = || world.governor.maintain();
    let rounds = Rounds::run(&arguments, &PLAN, lines, maintain, |line, times| {
        crew.measure(line.index, line.threads, times)
    });
    println!(
        "{BLOCK} bytes, first and last touched; {CONNECTIONS} connections a thread, one peer each; \
         {rounds}"
    );
    for (threads, rows) in (1..).zip(rounds.turns.chunks(CONTENDERS.len())) {
        print(threads, rows);
    }
    let [leased, returned] = library::counted(&world.governor);
    println!("\n{leased} bytes were leased and {returned} returned, by the governor's own count");
}

fn print(threads: usize, rows: &[Turns<Line>]) {
    let title = match threads {
        1 => "1 thread, another one idle".to_owned(),
        _ => turns::threads(threads),
    };
    let contender = |line: &Line| {
        let contender = &CONTENDERS[line.index];
        (contender.name.to_owned(), contender.target)
    };
    Target::print(&title, Target::rows(rows, threads, contender));
}
