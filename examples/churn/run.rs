//! The plan against a server, wave by wave.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::backing::{Backing, Door};
use crate::budget::PATIENCE;
use crate::client::{self, Busy, Network, Seen};
use crate::figures::Figures;
use crate::monitor::Monitor;
use crate::plan::{Expected, Plan, Visit};
use crate::server::Server;

/// How many failures are worth reading.
const FAILURES_TOLD: usize = 5;

/// What came of the waves so far, and what had to.
#[derive(Default)]
pub struct Progress {
    /// What the visits so far must come to.
    pub expected: Expected,
    /// What their peers saw.
    pub seen: Seen,
    /// What went wrong, a sentence each.
    pub failures: Vec<String>,
    more_failures: u64,
}

impl Progress {
    fn succeeded(&mut self, seen: Seen) {
        self.seen.served += seen.served;
        self.seen.verified_bytes += seen.verified_bytes;
        self.seen.refusals += seen.refusals;
    }

    fn failed(&mut self, failure: String) {
        if self.failures.len() < FAILURES_TOLD {
            self.failures.push(failure);
        } else {
            self.more_failures += 1;
        }
    }

    fn stopped(&mut self, after: usize, waves: usize) {
        if self.more_failures > 0 {
            self.failures.push(format!("{} more failures like these", self.more_failures));
        }
        self.failures.push(format!("stopped after wave {after} of {waves}"));
    }
}

/// Carries out the plan with a server on `backing`.
pub async fn run<B: Backing>(backing: B, plan: &Plan, monitor: Monitor) -> io::Result<Figures> {
    let started = Instant::now();
    let server = Server::start(backing, plan.concurrency)?;
    let progress = tokio::select! {
        progress = all_waves(&server, plan, &monitor) => progress,
        never = monitor.watch(&server) => match never {},
    };
    let elapsed = started.elapsed();
    let tally = server.tally();

    let stopped = server.stop().await;
    // Only now: every client has gone, and every object is still in the hoard.
    let resident = monitor.finish();
    Ok(Figures::new(progress, tally, elapsed, resident, &stopped))
}

/// Stops after the first wave in which anything fails: the next ones would only repeat it.
async fn all_waves<B: Backing>(server: &Server<B>, plan: &Plan, monitor: &Monitor) -> Progress {
    let addresses = (server.address(Door::Public), server.address(Door::Retired));
    let network = Arc::new(Network::new(addresses.0, addresses.1));
    let mut progress = Progress::default();
    for (number, visits) in (1..).zip(&plan.waves) {
        wave(server, &network, visits, &mut progress).await;
        monitor.observe(server);
        if !progress.failures.is_empty() {
            progress.stopped(number, plan.waves.len());
            break;
        }
    }
    progress
}

/// All visits at once. When only those are left that linger, the server ends them.
async fn wave<B: Backing>(
    server: &Server<B>,
    network: &Arc<Network>,
    visits: &[Visit],
    progress: &mut Progress,
) {
    let (busy, mut all_done) = Busy::new();
    let mut clients = JoinSet::new();
    for &visit in visits {
        progress.expected.add(&visit);
        let (network, busy) = (network.clone(), busy.clone());
        clients.spawn(async move { client::visit(&network, visit, busy).await });
    }
    drop(busy);
    let _ended = all_done.recv().await;

    let opened = network.opened();
    if timeout(PATIENCE, server.accepted(opened)).await.is_err() {
        let accepted = server.tally().accepted;
        progress.failed(format!("the server accepted {accepted} of {opened} connections"));
    }
    server.drain();
    while let Some(joined) = clients.join_next().await {
        match joined {
            Ok(Ok(seen)) => progress.succeeded(seen),
            Ok(Err(failure)) => progress.failed(failure),
            Err(panic) => progress.failed(format!("a client failed: {panic}")),
        }
    }
    if timeout(PATIENCE, server.idle()).await.is_err() {
        let left = server.tally().in_service;
        progress.failed(format!("{left} connections are served although every client has gone"));
    }
}
