//! Real traffic against a server that makes grpc-go's mistake, without and with a governor.
//!
//! ```text
//! cargo run --release --example churn
//! ```
//!
//! The server is an ordinary TCP echo server, except that it keeps the object of every connection
//! it ever accepted in a `Vec`, for ever, as the listener of grpc-go did "for drain"
//! (grpc/grpc-go#7657). It serves thousands of clients from many loopback addresses. Most behave;
//! some never read, reset, half-close, go silent, or ask for more than their budget.
//!
//! The same server runs twice. In the *control* its buffers are plain `BytesMut`, so the `Vec` pins
//! all of them. In the *governed* run they are leases, so that each comes back when its
//! connection's guard drops, although the `Vec` still holds every object. A table shows both, and
//! the program fails with one sentence for each promise it saw broken.
//!
//! | file | idea |
//! |---|---|
//! | `main` | the two runs, one process each |
//! | `cli` | arguments, and which of them make sense here |
//! | `budget` | the limits, and why no well-behaved client can meet them |
//! | `plan` | what each client will do: a function of the seed |
//! | `wire` | the protocol, and the bytes in the frames |
//! | `client` | doing what the plan says, and checking every byte |
//! | `server` | the server, generic over where its memory comes from |
//! | `backing` | the seam between server and memory |
//! | `control` | memory without a governor |
//! | `governed` | **memory with leasehold: start here** |
//! | `sabotage` | breaking one promise on purpose |
//! | `run` | the plan against the server, wave by wave |
//! | `monitor` | the progress bar and resident memory |
//! | `figures`, `table`, `check` | what was measured, shown and judged |

#![allow(clippy::disallowed_types, reason = "the models never run this: it may use std directly")]

mod backing;
mod budget;
mod check;
mod cli;
mod client;
mod control;
mod figures;
mod governed;
mod monitor;
mod plan;
mod run;
mod sabotage;
mod server;
mod table;
mod wire;

use std::error::Error;
use std::io;
use std::process::{Command, ExitCode, Stdio};

use clap::Parser;
use tokio::runtime::Runtime;

use crate::cli::Args;
use crate::control::Control;
use crate::figures::Figures;
use crate::governed::GovernedMemory;
use crate::monitor::Monitor;
use crate::plan::Plan;
use crate::sabotage::Sabotaged;

fn main() -> ExitCode {
    let args = Args::parse();
    args.exit_unless_sensible();
    let plan = Plan::new(args.seed, args.connections, args.concurrency());

    let outcome = if args.control_only {
        run_control(&plan).map(|figures| report_to_parent(&figures))
    } else {
        run_both(&args, &plan)
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("churn: {error}");
        ExitCode::FAILURE
    })
}

/// Runs the control, then the governed server, and judges.
///
/// Each run has a process of its own, because an allocator keeps what it was given: whichever came
/// second in a shared process would start with the resident memory of the first. The control runs
/// in a child that has ended, and given everything back, before the governed run starts here.
fn run_both(args: &Args, plan: &Plan) -> Result<ExitCode, Box<dyn Error>> {
    let control = run_control_in_child(args)?;
    let governed = run_governed(args, plan)?;
    let broken = check::broken_promises(&control, &governed);

    if args.json {
        println!("{}", figures::summary(args, &control, &governed, &broken));
    } else {
        println!("{}", table::side_by_side(&control, &governed));
    }
    Ok(verdict(&broken, args.json))
}

/// One sentence for each broken promise, or one for none.
fn verdict(broken: &[String], json: bool) -> ExitCode {
    for sentence in broken {
        eprintln!("broken: {sentence}");
    }
    if !broken.is_empty() {
        return ExitCode::FAILURE;
    }
    if !json {
        println!(
            "Every promise held: all that was leased is back, although handles are still kept."
        );
    }
    ExitCode::SUCCESS
}

fn run_governed(args: &Args, plan: &Plan) -> io::Result<Figures> {
    let runtime = Runtime::new()?;
    let monitor = Monitor::new("governed", plan);
    match args.sabotage {
        None => {
            let governed = GovernedMemory::new(budget::limits(plan.concurrency));
            runtime.block_on(run::run(governed, plan, monitor))
        }
        Some(kind) => {
            let sabotaged = Sabotaged::new(kind, plan.concurrency);
            runtime.block_on(run::run(sabotaged, plan, monitor))
        }
    }
}

fn run_control(plan: &Plan) -> Result<Figures, Box<dyn Error>> {
    let runtime = Runtime::new()?;
    let monitor = Monitor::new("control", plan);
    Ok(runtime.block_on(run::run(Control::default(), plan, monitor))?)
}

/// Runs this program once more, for the control alone.
fn run_control_in_child(args: &Args) -> Result<Figures, Box<dyn Error>> {
    let child = Command::new(std::env::current_exe()?)
        .args(args.for_control())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        return Err(format!("the control run failed: {}", output.status).into());
    }
    let json = serde_json::from_slice(&output.stdout)?;
    Figures::from_json(&json).ok_or_else(|| "the control run reported no figures".into())
}

/// The child's side of [`run_control_in_child`]: the figures, on one line of standard output.
fn report_to_parent(figures: &Figures) -> ExitCode {
    println!("{}", figures.to_json());
    ExitCode::SUCCESS
}
