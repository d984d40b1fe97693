//! What can be seen of a connection.

use std::panic::Location;

use super::state::Phase;
use super::{Connection, Home, State};
use crate::error::Closed;
use crate::magazine::SlotRef;
use crate::name::Source;
use crate::report::ConnectionUsage;

/// What a report says of one connection.
pub(crate) struct Audit {
    pub(crate) usage: ConnectionUsage,
    pub(crate) source: Option<Source>,
    pub(crate) closed: bool,
    pub(crate) gone: bool,
    /// Leased and returned since the counts were last folded.
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
        let locked = self.lock_open().map_err(|_| Closed)?;
        Ok(self.usage_of(&locked.state))
    }

    /// What a report says of the connection: its use, its orphans, and what it has leased and
    /// returned since its counts were last folded.
    pub(crate) fn audit(&self) -> Audit {
        let state = &self.lock().state;
        let ledger = &state.ledger;
        let gone = ledger.phase == Phase::Gone;
        let (mut leased_bytes, mut returned_bytes) = (0, 0);
        let mut orphans = Vec::new();
        for home in self.magazines(ledger) {
            let (word, bytes) = (self.magazine(home).word(), self.block_bytes(home));
            leased_bytes += word.leases() * bytes;
            returned_bytes += word.returns() * bytes;
            // Its slab stays mapped while the state is locked.
            let notes = word.outstanding().filter_map(|slot| self.note(state, home, slot));
            let notes = notes.map(|(site, tick)| OrphanNote { site, tick, bytes });
            orphans.extend(notes.filter(|_| gone));
        }
        Audit {
            usage: self.usage_of(state),
            source: self.source(ledger),
            closed: ledger.phase != Phase::Open,
            gone,
            leased_bytes,
            returned_bytes,
            orphans,
        }
    }

    /// The line that leased a block, which the caller holds.
    pub(crate) fn site_of(
        &self,
        home: Home<'_>,
        slot: SlotRef,
    ) -> Option<&'static Location<'static>> {
        self.note(&self.lock().state, home, slot.slot()).map(|(site, _)| site)
    }

    fn usage_of(&self, State { shared, ledger }: &State) -> ConnectionUsage {
        let peer = ledger.parents.peer().zip(shared.as_deref());
        let [streams_inbound, streams_outbound] = ledger.stream_counts();
        let mut usage = ConnectionUsage {
            peer: peer.and_then(|(peer, shared)| shared.tree.peer_name(peer)),
            memory: ledger.memory,
            reserved_bytes: ledger.reserved,
            streams_inbound,
            streams_outbound,
            ..ConnectionUsage::default()
        };
        let mut large_out = 0;
        for home in self.magazines(ledger) {
            let (word, block_bytes) = (self.magazine(home).word(), self.block_bytes(home));
            let bytes = |blocks: u32| u64::from(blocks) * block_bytes;
            let (outstanding, detached) = (word.outstanding().len(), word.detached().len());
            usage.cached_bytes += bytes(word.idle().len());
            usage.leased_bytes += bytes(outstanding - detached);
            usage.detached_bytes += bytes(detached);
            large_out += bytes(if home.is_large() { outstanding } else { 0 });
        }
        // A large lease that was returned is charged until it is unmapped.
        usage.leased_bytes += ledger.large_bytes() - large_out;
        usage
    }

    fn note(
        &self,
        state: &State,
        home: Home<'_>,
        slot: usize,
    ) -> Option<(&'static Location<'static>, u32)> {
        match home {
            Home::Extra(extra) if extra.is_large() => {
                extra.with_large(|large| large.note.read())?
            }
            _ => {
                let number = self.magazine(home).number(slot);
                state.shared.as_deref()?.arena.note(home.kind(), number)
            }
        }
    }
}
