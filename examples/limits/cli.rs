//! Arguments.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use leasehold::NodeType;

/// Prints the limits of a node on this host, or another, and where each number comes from.
#[derive(Debug, Parser)]
#[command(name = "limits")]
pub struct Args {
    /// What the node is for: light, full, relay, bootstrap, validator or gateway
    #[arg(long, value_name = "TYPE", default_value_t = NodeType::Full)]
    pub node_type: NodeType,

    /// Memory of the host, such as 16GiB [default: what this process may use]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub host_memory: Option<u64>,

    /// Memory meant for connections, such as 4GiB [default: an eighth of the host's]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub budget: Option<u64>,

    /// File descriptors [default: as many as this process may open]
    #[arg(long, value_name = "N")]
    pub fds: Option<u64>,

    /// Limits from a file, .toml or .json, which also names the type of node, and may have a budget
    /// and file descriptors of its own
    #[arg(long, value_name = "FILE", conflicts_with = "node_type")]
    pub config: Option<PathBuf>,

    /// Print only what differs from this type of node
    #[arg(long, value_name = "TYPE")]
    pub diff: Option<NodeType>,

    /// Print one JSON document, with sizes in bytes
    #[arg(long)]
    pub json: bool,
}

impl Args {
    /// The arguments, or how to end: with the help that was asked for, or a complaint.
    pub fn from_command_line() -> Result<Self, ExitCode> {
        Self::try_parse().map_err(|error| {
            if !error.use_stderr() {
                error.exit();
            }
            // The first line says it all, and the rest is usage.
            let text = error.render().to_string();
            let line = text.lines().next().unwrap_or_default();
            complain(line.trim_start_matches("error: "))
        })
    }
}

/// Says what is wrong: in one line, but for the problems of a file, which have one each.
pub fn complain(problem: &str) -> ExitCode {
    eprintln!("limits: {problem}");
    ExitCode::from(2)
}

fn size(text: &str) -> Result<u64, parse_size::Error> {
    parse_size::parse_size(text)
}
