//! The limits that a node has on this machine, or on another, and where each comes from.
//!
//! ```text
//! cargo run --example limits
//! cargo run --example limits -- --node-type relay --host-memory 16GiB --fds 65536
//! cargo run --example limits -- --node-type validator --diff full
//! ```
//!
//! A number is from the *preset* of the type of node as it is, *scaled* to the budget or the
//! descriptors of the host, or from a *file*. After the table come the limits that are never
//! reached, because one above is lower.
//!
//! | file | idea |
//! |---|---|
//! | `main` | from arguments to what is printed |
//! | `cli` | arguments |
//! | `file` | limits from a file |
//! | `effective` | **every limit in force, and where it comes from: start here** |
//! | `difference` | what differs from another type of node |
//! | `table`, `json` | for people, for programs |

mod cli;
mod difference;
mod effective;
mod file;
mod json;
mod table;

use std::io::{self, Write};
use std::process::ExitCode;

use leasehold::Host;

use crate::cli::Args;
use crate::effective::Effective;

fn main() -> ExitCode {
    let args = match Args::from_command_line() {
        Ok(args) => args,
        Err(help) => return help,
    };
    match answer(&args).and_then(|text| print(&text).map_err(|error| error.to_string())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::complain(&error),
    }
}

/// What is printed.
fn answer(args: &Args) -> Result<String, String> {
    let host = host(args)?;
    let effective = match &args.config {
        Some(path) => Effective::of_file(file::load(path)?, host),
        None => Effective::of_preset(args.node_type, host),
    };
    Ok(match (args.diff, args.json) {
        (None, false) => table::of(&effective),
        (None, true) => json::of(&effective).to_string(),
        (Some(other), as_json) => {
            let differences = difference::between(&effective, &Effective::of_preset(other, host));
            if as_json {
                json::of_differences(&effective, other, &differences).to_string()
            } else {
                table::of_differences(&effective, other, &differences)
            }
        }
    })
}

/// This machine, but for what the arguments say.
fn host(args: &Args) -> Result<Host, String> {
    let mut host = match (args.host_memory, args.fds) {
        (Some(memory), Some(fds)) => Host::new(memory, fds),
        (memory, fds) => {
            let here = Host::detect().map_err(|error| {
                format!("{error}: give --host-memory and --fds for any host you like")
            })?;
            Host::new(memory.unwrap_or(here.memory()), fds.unwrap_or(here.fds()))
        }
    };
    if let Some(budget) = args.budget {
        host = host.with_budget(budget);
    }
    Ok(host)
}

/// Prints, unless whoever reads has read enough.
fn print(text: &str) -> io::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}
