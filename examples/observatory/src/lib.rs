//! A governed server to look at: an echo server under the churn of clients of its own, and what its
//! governor tells of it, as metrics, as a report and as a page.
//!
//! `README.md` beside this package says how to start it and what everything means.

mod clients;
mod echo;
mod exporter;
mod leaks;
mod web;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use leasehold::{Governor, Host, NodeType, Observe, Scope, ScopeLimits, SubnetLimits};
use tokio::net::TcpListener;
use tokio::time::{interval, sleep, timeout};

pub use exporter::Exporter;
pub use leaks::{Leak, Planter};

/// How an [`Observatory`] is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the page, the reports and the scrape are served. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whose limits the governor has.
    pub node_type: NodeType,
    /// The budget that the limits are made for, in bytes.
    pub budget_bytes: u64,
    /// How many clients come and go at a time.
    pub clients: usize,
    /// When they stop, and the leak too; never, unless set.
    pub load: Option<Duration>,
    /// What is leaked, once a second.
    pub leak: Option<Leak>,
}

impl Options {
    /// Runs a part of the load until its time is over. Then it is dropped in the middle of whatever it
    /// does, and its connection ends.
    fn spawn(&self, part: impl Future<Output = ()> + Send + 'static) {
        let load = self.load;
        tokio::spawn(async move {
            match load {
                Some(load) => drop(timeout(load, part).await),
                None => part.await,
            }
        });
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 9187).into(),
            node_type: NodeType::Full,
            budget_bytes: 128 << 20,
            clients: 48,
            load: None,
            leak: None,
        }
    }
}

/// A running server with its clients and its page. Its tasks end with the runtime.
pub struct Observatory {
    governor: Governor,
    address: SocketAddr,
}

impl Observatory {
    /// Starts everything on the current runtime.
    ///
    /// # Errors
    ///
    /// If a port is not free.
    pub async fn start(options: &Options) -> io::Result<Self> {
        let governor = govern(options)?;
        tokio::spawn(maintain(governor.clone()));

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let echo = listener.local_addr()?;
        tokio::spawn(echo::serve(listener, governor.clone()));
        for seed in 0..options.clients as u64 {
            options.spawn(clients::come_and_go(echo, seed));
        }
        if let Some(leak) = options.leak {
            options.spawn(keep_leaking(leak, governor.clone()));
        }

        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let exporter = Exporter::new();
        tokio::spawn(web::serve(
            listener,
            Arc::new(web::Site { governor: governor.clone(), exporter }),
        ));
        Ok(Self { governor, address })
    }

    /// What it is that is observed.
    pub fn governor(&self) -> &Governor {
        &self.governor
    }

    /// Where the page, the reports and the scrape are served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// The governor of the echo server.
fn govern(options: &Options) -> io::Result<Governor> {
    let host = Host::new(8 * options.budget_bytes, 65_536).with_budget(options.budget_bytes);
    let limits = options
        .node_type
        .limits(&host)
        // All clients come from one address, which a real server would not let in that often.
        .subnets(SubnetLimits::unlimited())
        // A limit that is being tried out: it is counted how often it would have refused.
        .class_peer("bulk", ScopeLimits::unlimited().memory(512 << 10))
        .observe(Observe::none().scope(Scope::ClassPeer));
    Governor::builder().name("echo").limits(limits).build().map_err(io::Error::other)
}

async fn maintain(governor: Governor) {
    let mut seconds = interval(Duration::from_secs(1));
    loop {
        seconds.tick().await;
        governor.maintain();
    }
}

async fn keep_leaking(leak: Leak, governor: Governor) {
    let planter = loop {
        match Planter::new(&governor) {
            Ok(planter) => break planter,
            // The server is full.
            Err(_) => sleep(Duration::from_secs(1)).await,
        }
    };
    loop {
        // A limit ends the growth, not the server.
        let _refused = planter.plant(leak).await;
        sleep(Duration::from_secs(1)).await;
    }
}
