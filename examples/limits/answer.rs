//! What is printed.

use leasehold::Host;

use crate::cli::Args;
use crate::effective::Effective;
use crate::{difference, file, json, table};

/// The text that answers the arguments, or what is wrong with them.
pub fn to(args: &Args) -> Result<String, String> {
    let host = host(args)?;
    let effective = match &args.config {
        Some(path) => {
            let file = file::load(path)?;
            for (key, given) in [("budget", args.budget), ("fds", args.fds)] {
                if file.sets(key) && given.is_some() {
                    return Err(format!("--{key}: {} sets {key} itself", path.display()));
                }
            }
            Effective::of_file(file, host)
        }
        None => Effective::of_preset(args.node_type, host),
    };
    let Some(other) = args.diff else {
        return Ok(if args.json {
            json::of(&effective).to_string()
        } else {
            table::of(&effective)
        });
    };
    let differences = difference::between(&effective, &Effective::of_preset(other, effective.host));
    Ok(if args.json {
        json::of_differences(&effective, other, &differences).to_string()
    } else {
        table::of_differences(&effective, other, &differences)
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
