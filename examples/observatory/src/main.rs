//! The command line.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use leasehold::NodeType;
use observatory::{Leak, Observatory, Options};
use tokio::time::sleep;

/// A governed echo server under the churn of its own clients, with its metrics, reports and a page.
#[derive(Parser)]
struct Cli {
    /// Where the page is served: anyone who can connect sees names and addresses of all peers.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9187")]
    listen: SocketAddr,
    /// Whose limits: light, full, relay, bootstrap, validator or gateway.
    #[arg(long, value_name = "TYPE", default_value = "full")]
    node_type: NodeType,
    /// The budget that the limits are made for, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..1 << 30))]
    budget: u64,
    /// How many clients come and go at a time.
    #[arg(long, default_value_t = 48)]
    clients: usize,
    /// Stop the clients and the leak after so many seconds, and go on serving.
    #[arg(long, value_name = "SECONDS")]
    load_seconds: Option<u64>,
    /// End after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Leak something, once a second.
    #[arg(long, value_enum)]
    leak: Option<Leak>,
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let cli = Cli::parse();
    let options = Options {
        listen: cli.listen,
        node_type: cli.node_type,
        budget_bytes: cli.budget << 20,
        clients: cli.clients,
        load: cli.load_seconds.map(Duration::from_secs),
        leak: cli.leak,
    };
    let observatory = Observatory::start(&options).await?;
    let address = observatory.address();
    println!("page      http://{address}/");
    println!("report    http://{address}/report and http://{address}/report.json");
    println!("metrics   http://{address}/metrics");
    if address.ip().is_loopback() {
        println!("Only this machine can connect. --listen ADDRESS opens it to others.");
    } else {
        println!("OPEN TO OTHER MACHINES: all that can connect see names and addresses of peers.");
    }
    match cli.seconds {
        Some(seconds) => sleep(Duration::from_secs(seconds)).await,
        None => std::future::pending().await,
    }
    Ok(())
}
