//! What a connection is charged for. Guarded by the connection's mutex.

use super::Connection;
use super::loose::{Loose, LooseLease};
use crate::name::Direction;
use crate::scope::{Listing, Place};
use crate::sync::Arc;
use crate::usage::Usage;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// Memory is back, but for pins and `Bytes`; the guard may still be alive.
    Closed,
    /// The guard is gone, and its counts with it.
    Gone,
}

pub(super) struct Ledger {
    pub(super) phase: Phase,
    /// Whether the connection was ever charged to the tree.
    pub(super) admitted: bool,
    direction: Direction,
    fd: bool,
    pub(super) streams_inbound: u32,
    pub(super) streams_outbound: u32,
    /// Leases that were out when the connection closed and have not dropped since.
    pub(super) stragglers: u32,
    pub(super) listing: Listing,
    /// All bytes charged to the scopes above: blocks and reservations.
    pub(super) memory: u64,
    pub(super) reserved: u64,
    pub(super) place: Place<Arc<Connection>>,
    /// Leases that the magazines have no place for.
    pub(super) loose: Option<Box<Loose>>,
    /// The record's share in itself; see the module's docs.
    pub(super) keep: Option<Arc<Connection>>,
}

impl Ledger {
    pub(super) fn new(place: Place<Arc<Connection>>, direction: Direction, fd: bool) -> Self {
        Self {
            phase: Phase::Open,
            admitted: false,
            direction,
            fd,
            streams_inbound: 0,
            streams_outbound: 0,
            stragglers: 0,
            listing: Listing::NONE,
            memory: 0,
            reserved: 0,
            place,
            loose: None,
            keep: None,
        }
    }

    /// What the connection counts for by merely existing.
    pub(super) fn counts(&self) -> Usage {
        let mut counts = Usage { fds: u32::from(self.fd), ..Usage::default() };
        match self.direction {
            Direction::Inbound => counts.connections_inbound = 1,
            Direction::Outbound => counts.connections_outbound = 1,
        }
        counts
    }

    /// Everything the connection is charged for.
    pub(super) fn usage(&self) -> Usage {
        if !self.admitted {
            return Usage::default();
        }
        Usage {
            memory: self.memory,
            streams_inbound: self.streams_inbound,
            streams_outbound: self.streams_outbound,
            ..self.counts()
        }
    }

    pub(super) fn streams_mut(&mut self, direction: Direction) -> &mut u32 {
        match direction {
            Direction::Inbound => &mut self.streams_inbound,
            Direction::Outbound => &mut self.streams_outbound,
        }
    }

    pub(super) fn loose_mut(&mut self, key: u32) -> Option<&mut LooseLease> {
        self.loose.as_mut()?.get_mut(key)
    }

    pub(super) fn loose_leases(&self) -> impl Iterator<Item = &LooseLease> {
        self.loose.iter().flat_map(|loose| loose.iter())
    }
}
