//! Arguments, and which of them make sense on this machine.

use std::fs;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use crate::budget::MAX_FRAME_BYTES;
use crate::plan::{SHOWCASE_CONCURRENCY, SHOWCASE_CONNECTIONS};
use crate::sabotage::Sabotage;

/// How many connections are open at a time, unless told otherwise or there are fewer in all.
const DEFAULT_CONCURRENCY: u32 = 200;

/// Descriptors for the listeners, the runtime and standard streams, with room to spare.
const OTHER_DESCRIPTORS: u64 = 64;

/// Churns thousands of TCP connections through an echo server that hoards every one of them, first
/// without and then with a governor, and checks that the governor's promises hold.
///
/// Prints a table of both runs. Exits with 1, and says why, if a promise is broken.
#[derive(Debug, Parser)]
#[command(name = "churn")]
pub struct Args {
    /// How many connections clients open in each run
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections: u32,

    /// How many of them are open at a time [default: 200, or all if there are fewer]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: Option<u32>,

    /// Decides what each client does, and every byte it sends
    #[arg(long, value_name = "SEED", default_value_t = 7657)]
    pub seed: u64,

    /// Print one line of JSON instead of the table
    #[arg(long)]
    pub json: bool,

    /// Break a promise on purpose in the governed run, to see the checks bite
    #[arg(long, value_name = "KIND", value_enum)]
    pub sabotage: Option<Sabotage>,

    /// Run the control alone, and report its figures to the process that asked
    #[arg(long, hide = true)]
    pub control_only: bool,
}

impl Args {
    /// How many connections are open at a time.
    pub fn concurrency(&self) -> u32 {
        self.concurrency.unwrap_or(DEFAULT_CONCURRENCY.min(self.connections))
    }

    /// Ends the process with a usage error if these arguments cannot work here.
    pub fn exit_unless_sensible(&self) {
        if let Err(complaint) = self.sensible() {
            Self::command().error(ErrorKind::ValueValidation, complaint).exit()
        }
    }

    /// The arguments for the child process that runs the control.
    pub fn for_control(&self) -> Vec<String> {
        vec![
            "--control-only".to_owned(),
            format!("--connections={}", self.connections),
            format!("--concurrency={}", self.concurrency()),
            format!("--seed={}", self.seed),
        ]
    }

    fn sensible(&self) -> Result<(), String> {
        self.concurrency_within_connections()?;
        self.enough_for_sabotage()?;
        self.within_open_files()?;
        self.within_memory()
    }

    fn concurrency_within_connections(&self) -> Result<(), String> {
        let (connections, concurrency) = (self.connections, self.concurrency());
        if concurrency > connections {
            return Err(format!(
                "{concurrency} connections cannot be open at a time when there are {connections} \
                 in all: lower --concurrency or raise --connections"
            ));
        }
        Ok(())
    }

    fn enough_for_sabotage(&self) -> Result<(), String> {
        let (connections, concurrency) = (self.connections, self.concurrency());
        let enough = connections >= SHOWCASE_CONNECTIONS && concurrency >= SHOWCASE_CONCURRENCY;
        if self.sabotage.is_some() && !enough {
            return Err(format!(
                "with {connections} connections, {concurrency} at a time, some kinds of client do \
                 not take part, so a sabotage could go unnoticed: use --sabotage with at least \
                 {SHOWCASE_CONNECTIONS} connections, {SHOWCASE_CONCURRENCY} at a time"
            ));
        }
        Ok(())
    }

    fn within_open_files(&self) -> Result<(), String> {
        let concurrency = self.concurrency();
        let needed = 2 * u64::from(concurrency) + OTHER_DESCRIPTORS;
        match open_files_limit() {
            Some(limit) if needed > limit => Err(format!(
                "--concurrency {concurrency} needs {needed} file descriptors (both ends of each \
                 connection and {OTHER_DESCRIPTORS} more), and this process may open {limit}: \
                 lower --concurrency to {} or raise `ulimit -n`",
                limit.saturating_sub(OTHER_DESCRIPTORS) / 2
            )),
            _ => Ok(()),
        }
    }

    /// The control keeps the buffers of every connection, which is the point of it.
    fn within_memory(&self) -> Result<(), String> {
        const MIB: u64 = 1 << 20;
        let kept = u64::from(self.connections) * 2 * MAX_FRAME_BYTES as u64;
        match available_memory() {
            Some(available) if kept > available => Err(format!(
                "the ungoverned run keeps up to {} MiB of buffers of {} connections, and {} MiB \
                 of memory are available: lower --connections to {}",
                kept / MIB,
                self.connections,
                available / MIB,
                available / (2 * MAX_FRAME_BYTES as u64)
            )),
            _ => Ok(()),
        }
    }
}

/// How many files this process may have open, where the system tells in a file.
fn open_files_limit() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// How much memory a new program can have, in bytes, where the system tells in a file.
fn available_memory() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}
