//! What can be seen of a connection.

use std::panic::Location;

use super::marks::Walk;
use super::state::{Ledger, Phase, Streams};
use super::{Connection, Home, State};
use crate::counters::{Holdings, LARGE};
use crate::error::Closed;
use crate::magazine::{SlotRef, Slots};
use crate::name::Source;
use crate::report::ConnectionUsage;

/// What a report says of one connection.
pub(crate) struct Audit {
    pub(crate) usage: ConnectionUsage,
    pub(crate) source: Option<Source>,
    pub(crate) closed: bool,
    pub(crate) orphans: Vec<Holder>,
}

/// What keeps something of a connection.
pub(crate) struct Holder {
    /// An open connection, a stream, or how a lease holds its block.
    pub(crate) kind: &'static str,
    /// Whether it outlives the connection's guard.
    pub(crate) orphaned: bool,
    pub(crate) site: &'static Location<'static>,
    /// The line that noted the block last, where it need not be that of this lease. `site` is then the
    /// line that admitted the connection.
    pub(crate) perhaps: Option<&'static Location<'static>>,
    pub(crate) tick: u32,
    pub(crate) bytes: u64,
}

impl Connection {
    /// What the connection uses while it is open.
    pub(crate) fn usage(&self) -> Result<ConnectionUsage, Closed> {
        let locked = self.lock_open().map_err(|_| Closed)?;
        Ok(self.usage_of(&locked.state))
    }

    /// Adds what the connection holds to the sums of a walk, unless it came by already.
    pub(super) fn add_to(&self, holdings: &mut Holdings, walk: Walk) {
        let mut locked = self.lock();
        if locked.ledger().marks.see(walk) {
            self.add_holdings(locked.ledger(), holdings);
        }
    }

    /// What a report says of the connection: its use and its orphans. Adds what it holds to the sums.
    pub(crate) fn audit(&self, holdings: &mut Holdings) -> Audit {
        let state = &self.lock().state;
        let ledger = &state.ledger;
        self.add_holdings(ledger, holdings);
        Audit {
            usage: self.usage_of(state),
            source: self.source(ledger),
            closed: ledger.phase != Phase::Open,
            orphans: if ledger.phase == Phase::Gone { self.blocks(state) } else { Vec::new() },
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
        let mut own = Holdings::default();
        self.add_holdings(ledger, &mut own);
        // A large lease that was returned is charged until it is unmapped.
        let unmapping = ledger.large_bytes() - own.outstanding_bytes[LARGE];
        ConnectionUsage {
            peer: peer.and_then(|(peer, shared)| shared.tree.peer_name(peer)),
            memory: ledger.memory,
            cached_bytes: own.idle_bytes.iter().sum(),
            leased_bytes: own.outstanding_bytes.iter().sum::<u64>() - own.detached_bytes
                + unmapping,
            detached_bytes: own.detached_bytes,
            reserved_bytes: ledger.reserved,
            streams_inbound,
            streams_outbound,
        }
    }

    fn add_holdings(&self, ledger: &Ledger, holdings: &mut Holdings) {
        holdings.reserved_bytes = holdings.reserved_bytes.saturating_add(ledger.reserved);
        holdings.connections += u64::from(ledger.phase != Phase::Gone);
        for home in self.magazines(ledger) {
            let (word, size) = (self.magazine(home).word(), home.kind());
            let block_bytes = self.block_bytes(home);
            let bytes = |slots: Slots| u64::from(slots.len()) * block_bytes;
            holdings.leased_bytes[size] += word.leases() * block_bytes;
            holdings.returned_bytes[size] += word.returns() * block_bytes;
            holdings.idle_bytes[size] += bytes(word.idle());
            holdings.detached_bytes += bytes(word.detached());
            holdings.pinned_leases += u64::from(word.pinned().len());
            holdings.outstanding_bytes[size] += bytes(word.outstanding());
            if ledger.phase == Phase::Gone {
                holdings.orphaned_bytes += bytes(word.outstanding());
                holdings.orphans += u64::from(word.outstanding().len());
            }
        }
    }

    /// Visits all that keeps something of the connection, unless the walk came by already: its guard,
    /// to which its reservations count, its streams, and what has its blocks.
    pub(crate) fn for_each_holder(&self, walk: Walk, mut visit: impl FnMut(Holder)) {
        let mut locked = self.lock();
        if !locked.ledger().marks.see(walk) {
            return;
        }
        let ledger = &locked.state.ledger;
        if ledger.phase != Phase::Gone {
            visit(Holder {
                kind: "connection",
                orphaned: false,
                site: self.site,
                perhaps: None,
                tick: self.admitted_tick,
                bytes: ledger.reserved,
            });
            for stream in ledger.streams().into_iter().flat_map(Streams::iter_open) {
                let (site, tick) = stream.opened;
                let (kind, orphaned, perhaps, bytes) = ("stream", false, None, 0);
                visit(Holder { kind, orphaned, site, perhaps, tick, bytes });
            }
        }
        self.for_each_block(&locked.state, visit);
    }

    /// What still has blocks, if anything does.
    #[cfg(feature = "tracing")]
    pub(super) fn orphans(
        &self,
        state: &State,
    ) -> Option<(crate::sync::Arc<super::Shared>, Vec<Holder>)> {
        let shared = state.shared.clone().filter(|_| state.ledger.stragglers > 0)?;
        Some((shared, self.blocks(state)))
    }

    fn blocks(&self, state: &State) -> Vec<Holder> {
        let mut holders = Vec::new();
        self.for_each_block(state, |holder| holders.push(holder));
        holders
    }

    /// Visits what has a block. Its slab stays mapped while the state is locked.
    fn for_each_block(&self, state: &State, mut visit: impl FnMut(Holder)) {
        let orphaned = state.ledger.phase == Phase::Gone;
        let kept = state.ledger.marks.has_kept();
        for home in self.magazines(&state.ledger) {
            let (word, bytes) = (self.magazine(home).word(), self.block_bytes(home));
            for (kind, slots) in [
                ("borrowed", word.borrowed()),
                ("owned", word.revocable()),
                ("pinned", word.pinned()),
                ("detached", word.detached()),
            ] {
                // An owned lease of an idle block notes nothing before its first pin, and nothing
                // tells whether it was pinned.
                let is_unsure = kind == "owned" && kept && !home.is_large();
                for (noted, tick) in slots.filter_map(|slot| self.note(state, home, slot)) {
                    let (site, perhaps, tick) = if is_unsure {
                        (self.site, Some(noted), self.admitted_tick)
                    } else {
                        (noted, None, tick)
                    };
                    visit(Holder { kind, orphaned, site, perhaps, tick, bytes });
                }
            }
        }
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
