//! The limits that a node has on this machine, or on another, and where each comes from.
//!
//! ```text
//! cargo run --features serde --example limits
//! cargo run --features serde --example limits -- --node-type relay --host-memory 16GiB --fds 65536
//! cargo run --features serde --example limits -- --node-type validator --diff full
//! cargo run --features serde --example limits -- --config examples/limits/node.toml --diff relay
//! ```
//!
//! A number is from the *preset* of the type of node as it is, *scaled* to the budget or the
//! descriptors of the host, or from a *file*. What none of them sets is *unset*, and unlimited.
//! After the table come the limits that are never reached, because one above is lower.
//!
//! | file | idea |
//! |---|---|
//! | `main` | from arguments to an exit code: 0, or 2 with all that is wrong |
//! | `cli` | arguments |
//! | `answer` | from arguments to what is printed |
//! | `file` | limits from a file, and how it spells names |
//! | `effective` | **every limit in force, and where it comes from: start here** |
//! | `difference` | what differs from another type of node |
//! | `table`, `json` | for people, for programs |
//! | `node.toml` | a file to try |

mod answer;
mod cli;
mod difference;
mod effective;
mod file;
mod json;
mod table;

use std::io::{self, Write};
use std::process::ExitCode;

use crate::cli::Args;

fn main() -> ExitCode {
    let args = match Args::from_command_line() {
        Ok(args) => args,
        Err(help) => return help,
    };
    match answer::to(&args).and_then(|text| print(&text).map_err(|error| error.to_string())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::complain(&error),
    }
}

/// Prints, unless the reader of the pipe has closed it.
fn print(text: &str) -> io::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}
