//! What can be seen of a connection.

use std::panic::Location;

use super::Connection;
use super::ledger::{Ledger, Phase};
use super::loose::Loose;
use crate::error::Closed;
use crate::magazine::Hold;
use crate::name::Source;
use crate::report::ConnectionUsage;

/// What a report says of one connection.
pub(crate) struct Audit {
    pub(crate) usage: ConnectionUsage,
    pub(crate) source: Option<Source>,
    pub(crate) closed: bool,
    pub(crate) gone: bool,
    /// Leased and returned since the counts were last folded into the tallies.
    pub(crate) leased_bytes: u64,
    pub(crate) returned_bytes: u64,
    pub(crate) orphans: Vec<OrphanNote>,
}

/// A block that outlives its connection's guard.
pub(crate) struct OrphanNote {
    pub(crate) site: &'static Location<'static>,
    pub(crate) tick: u32,
    pub(crate) bytes: u64,
}

impl Connection {
    /// What the connection uses while it is open.
    pub(crate) fn usage(&self) -> Result<ConnectionUsage, Closed> {
        let ledger = self.ledger.lock();
        if ledger.phase == Phase::Open { Ok(self.usage_with_peer(&ledger)) } else { Err(Closed) }
    }

    /// What the connection uses, closed or not.
    pub(crate) fn usage_now(&self) -> ConnectionUsage {
        self.usage_with_peer(&self.ledger.lock())
    }

    /// What a report says of the connection: its use, its orphans, and what it has leased and
    /// returned since its counts were last folded.
    pub(crate) fn audit(&self) -> Audit {
        let ledger = self.ledger.lock();
        let (leased_bytes, returned_bytes) = self.unfolded(&ledger);
        let orphans = match ledger.phase {
            Phase::Gone => self.outstanding_notes(&ledger),
            Phase::Open | Phase::Closed => Vec::new(),
        };
        Audit {
            usage: self.usage_with_peer(&ledger),
            source: self.source(&ledger),
            closed: ledger.phase != Phase::Open,
            gone: ledger.phase == Phase::Gone,
            leased_bytes,
            returned_bytes,
            orphans,
        }
    }

    fn usage_with_peer(&self, ledger: &Ledger) -> ConnectionUsage {
        let peer = ledger.place.peer().and_then(|peer| self.shared.tree.peer_name(peer));
        ConnectionUsage { peer, ..self.usage_of(ledger) }
    }

    /// What the connection uses, but for who its peer is.
    pub(super) fn usage_of(&self, ledger: &Ledger) -> ConnectionUsage {
        let mut usage = ConnectionUsage {
            memory: ledger.memory,
            reserved_bytes: ledger.reserved,
            streams_inbound: ledger.streams_inbound,
            streams_outbound: ledger.streams_outbound,
            cached_bytes: ledger.loose().map_or(0, |l| l.spare_bytes(&self.shared.arena)),
            ..ConnectionUsage::default()
        };
        for (class, magazine) in self.magazines() {
            let word = magazine.word();
            let bytes = |blocks: u32| u64::from(blocks) * self.block_bytes(class);
            let (outstanding, detached) = (word.outstanding().len(), word.detached().len());
            usage.cached_bytes += bytes(word.cached().len());
            usage.leased_bytes += bytes(outstanding - detached);
            usage.detached_bytes += bytes(detached);
        }
        for lease in ledger.loose().into_iter().flat_map(Loose::iter) {
            let bytes = lease.bytes(&self.shared.arena);
            match lease.hold {
                Hold::Detached => usage.detached_bytes += bytes,
                Hold::Borrowed | Hold::Owned | Hold::Pinned => usage.leased_bytes += bytes,
            }
        }
        usage
    }

    /// Site and age of every block that is out. Its slab stays mapped while the ledger is locked.
    fn outstanding_notes(&self, ledger: &Ledger) -> Vec<OrphanNote> {
        let mut notes = Vec::new();
        for (class, magazine) in self.magazines() {
            for slot in magazine.word().outstanding() {
                if let Some((site, tick)) = self.shared.arena.note(class, magazine.block(slot)) {
                    notes.push(OrphanNote { site, tick, bytes: self.block_bytes(class) });
                }
            }
        }
        for lease in ledger.loose().into_iter().flat_map(Loose::iter) {
            if let Some((site, tick)) = lease.note(&self.shared.arena) {
                notes.push(OrphanNote { site, tick, bytes: lease.bytes(&self.shared.arena) });
            }
        }
        notes
    }
}
