//! Memory with leasehold: every connection has a budget, and what it leased is back when it ends.
//!
//! This is all it takes to put a governor under a server: admit the socket, bind the peer, lease
//! the buffers, and let the guard drop.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use leasehold::{
    BindError, ConnectionGuard, ConnectionHandle, Governor, Lease, LeaseError, Limits, Orphan,
    OwnedLease, Pinned, Reason, RefusalRow, Reservation, Resource, Revoked, Scope, ScopeRow,
    Snapshot, Usage,
};
use tokio::net::TcpStream;

use crate::backing::{Audit, Backing, Connection, Door, Handle, Kept, Orphans, Stop, Totals};
use crate::plan::Refusal;
use crate::server::Hoard;

/// Memory that a governor gives out.
pub struct GovernedMemory {
    governor: Governor,
}

impl GovernedMemory {
    /// Memory within `limits`.
    pub fn new(limits: Limits) -> Self {
        Self { governor: Governor::new(limits).expect("the only class has a short name") }
    }

    /// The governor, for those who want to do worse than a server does.
    pub fn governor(&self) -> &Governor {
        &self.governor
    }
}

impl Backing for GovernedMemory {
    type Connection = GovernedConnection;

    fn admit(
        &self,
        door: Door,
        remote: SocketAddr,
        socket: TcpStream,
    ) -> Option<(GovernedConnection, TcpStream)> {
        // Dropping a `TcpStream` closes it, so there is nothing left to do for a refused one.
        let admission = self.governor.inbound().remote(remote).class(door.class());
        let (guard, socket) = admission.try_govern(socket).ok()?.into_parts();
        Some((GovernedConnection { guard }, socket))
    }

    /// The governor knows its connections: a server needs no list to drain them.
    fn drain(&self, _hoard: &Hoard<GovernedConnection>) {
        self.governor.drain(|_| true);
    }

    fn totals(&self) -> Totals {
        let totals = self.governor.snapshot().totals;
        Totals {
            leased_bytes: totals.leased_bytes,
            returned_bytes: totals.returned_bytes,
            outstanding_bytes: totals.outstanding_bytes,
        }
    }

    fn audit(&self) -> Audit {
        audit(&self.governor.snapshot())
    }
}

/// One connection: its guard, which lives exactly as long as the connection is served.
pub struct GovernedConnection {
    guard: ConnectionGuard,
}

impl GovernedConnection {
    /// Puts a connection under `guard`.
    pub fn new(guard: ConnectionGuard) -> Self {
        Self { guard }
    }
}

impl Connection for GovernedConnection {
    type Handle = ConnectionHandle;
    type Frame<'c> = Lease<'c>;
    type Kept = OwnedLease;
    type Window = Reservation;

    fn handle(&self) -> ConnectionHandle {
        self.guard.handle().clone()
    }

    fn bind_peer(&self, name: &[u8]) -> Result<(), Stop> {
        Ok(self.guard.handle().bind_peer(name)?)
    }

    #[track_caller]
    fn reserve(&self, bytes: u64) -> Result<Reservation, Stop> {
        Ok(self.guard.handle().try_reserve(bytes)?)
    }

    #[track_caller]
    fn lease(&self, len: usize) -> Result<Lease<'_>, Stop> {
        Ok(self.guard.try_lease(len)?)
    }

    #[track_caller]
    fn lease_owned(&self, len: usize) -> Result<OwnedLease, Stop> {
        Ok(self.guard.handle().try_lease_owned(len)?)
    }

    fn keep<'c>(&'c self, frame: Lease<'c>) -> OwnedLease {
        frame.into_owned()
    }

    fn freeze<'c>(&'c self, frame: Lease<'c>) -> Bytes {
        frame.freeze()
    }

    async fn until_revoked<F>(&self, work: F) -> Option<F::Output>
    where
        F: Future + Send,
        F::Output: Send,
    {
        self.guard.handle().until_revoked(work).await.ok()
    }
}

impl Handle for ConnectionHandle {
    fn is_closed(&self) -> bool {
        self.usage().is_err()
    }
}

impl Kept for OwnedLease {
    type Pinned<'k> = Pinned<'k>;

    fn pin(&mut self) -> Result<Pinned<'_>, Stop> {
        Ok(OwnedLease::pin(self)?)
    }
}

impl From<LeaseError> for Stop {
    fn from(error: LeaseError) -> Self {
        match error.refused() {
            Some(_) => Stop::Refused,
            None => Stop::Over,
        }
    }
}

impl From<BindError> for Stop {
    fn from(error: BindError) -> Self {
        match error.refused() {
            Some(_) => Stop::Refused,
            None => Stop::Over,
        }
    }
}

impl From<Revoked> for Stop {
    fn from(_: Revoked) -> Self {
        Stop::Over
    }
}

/// Reads the governor's report the way a suspicious operator would.
fn audit(snapshot: &Snapshot) -> Audit {
    let mut audit = Audit {
        orphans: Some(orphans_by_site(&snapshot.orphans)),
        leftovers: leftovers(snapshot),
        ..Audit::default()
    };
    for row in &snapshot.refusals {
        match planned(row) {
            Some(kind) => audit.refusals.add(kind, row.count),
            None => audit.unplanned_refusals.push(format!(
                "{} requests for {} refused by the {} scope",
                row.count, row.resource, row.scope
            )),
        }
    }
    audit
}

/// The kind of refusal in the plan that a row counts.
fn planned(row: &RefusalRow) -> Option<Refusal> {
    match (row.scope, row.resource, row.reason) {
        (Scope::Class, Resource::ConnectionsInbound, Reason::Blocked) => {
            Some(Refusal::RetiredClass)
        }
        (Scope::Peer, Resource::ConnectionsInbound, Reason::Limit) => Some(Refusal::CrowdedPeer),
        (Scope::Connection, Resource::Memory, Reason::Limit) => Some(Refusal::HugeRequest),
        _ => None,
    }
}

fn orphans_by_site(orphans: &[Orphan]) -> Vec<Orphans> {
    let mut by_site = BTreeMap::<_, (u64, u64)>::new();
    for orphan in orphans {
        let (count, bytes) = by_site.entry(orphan.site).or_default();
        *count += 1;
        *bytes += orphan.bytes;
    }
    by_site
        .into_iter()
        .map(|(site, (count, bytes))| Orphans {
            site: format!("{}:{}", site.file(), site.line()),
            count,
            bytes,
        })
        .collect()
}

/// Whatever isn't zero although every connection is gone.
fn leftovers(snapshot: &Snapshot) -> Vec<String> {
    let used = snapshot.scopes.iter().filter(|row| row.usage != Usage::default());
    let mut leftovers: Vec<String> = used
        .filter(|row| row.peer.is_none())
        .map(|ScopeRow { scope, class, usage, .. }| {
            let class = class.iter().map(|name| format!(" {name}")).collect::<String>();
            let connections = usage.connections();
            format!("scope {scope}{class}: {connections} connections, {} bytes", usage.memory)
        })
        .collect();
    let peers = snapshot.rows(Scope::Peer).count();
    if peers > 0 {
        leftovers.push(format!("{peers} peers that have a scope"));
    }
    for class in &snapshot.arena.size_classes {
        if class.blocks_in_use > 0 {
            let (blocks, size) = (class.blocks_in_use, class.block_bytes);
            leftovers.push(format!("the arena: {blocks} blocks of {size} bytes"));
        }
    }
    if snapshot.arena.large_bytes > 0 {
        leftovers.push(format!("the arena: {} bytes of large leases", snapshot.arena.large_bytes));
    }
    leftovers
}
