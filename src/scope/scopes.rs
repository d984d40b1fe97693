//! What the tree's lock guards, and how connections come, change their scopes and go.

use std::net::IpAddr;

use super::members::{Member, Members};
use super::named::{NameRef, Names};
use super::nodes::Nodes;
use super::{Named, Parents, Partition, Refusals, Shortfall, StreamShare};
use crate::counters::Ended;
use crate::error::{Refused, Scope};
use crate::subnet::{Retired, Subnets, Visit};
use crate::try_box::OutOfMemory;
use crate::usage::Tally;

/// What the tree's lock guards. `M` is a [`Member`].
pub(crate) struct Scopes<M> {
    pub(super) nodes: Nodes,
    pub(super) members: Members<M>,
    /// The addresses that connections come from.
    pub(crate) subnets: Subnets,
    pub(super) refusals: Refusals,
    pub(super) observed: Refusals,
    /// Connections admitted ever, and so the serial number of the last.
    pub(super) admitted: u64,
    /// No connection is to keep idle blocks.
    #[cfg(feature = "testing")]
    pub(crate) bars_idle: bool,
    /// Connections that ended.
    pub(crate) ended: Ended,
    /// Streams opened ever, and so the key of the last.
    streams_opened: u64,
}

impl<M: Member> Scopes<M> {
    pub(super) fn new(nodes: Nodes, subnets: Subnets) -> Self {
        Self {
            nodes,
            members: Members::new(),
            subnets,
            refusals: Refusals::default(),
            observed: Refusals::default(),
            admitted: 0,
            #[cfg(feature = "testing")]
            bars_idle: false,
            ended: Ended::default(),
            streams_opened: 0,
        }
    }

    /// Whether any scope only observes.
    pub(crate) fn is_observing(&self) -> bool {
        !self.nodes.observe.is_none()
    }

    pub(crate) fn count_refusal(&mut self, refused: &Refused) {
        self.refusals.count(refused);
    }
}

/// Coming and going.
impl<M: Member> Scopes<M> {
    /// Holds the scopes of a connection that is about to be admitted.
    pub(crate) fn hold(
        &mut self,
        peer: Option<Named<'_>>,
        class: Option<Named<'_>>,
        partition: Partition,
    ) -> Result<Parents, OutOfMemory> {
        let peer = peer.map(|key| self.nodes.hold_peer(key)).transpose()?;
        let mut parents = Parents::new(peer, None, partition);
        if let Some(name) = class {
            let class = self.nodes.hold_class(name, peer);
            parents.class = Some(class.inspect_err(|_| self.nodes.release(parents))?);
        }
        Ok(parents)
    }

    /// Lets go of the scopes that a connection holds.
    pub(crate) fn release(&mut self, parents: Parents) {
        self.nodes.release(parents);
    }

    /// Counts an admission, and returns a serial number that no connection of the governor had.
    pub(crate) fn admit(&mut self) -> u64 {
        self.admitted += 1;
        self.admitted
    }

    /// A key that no stream of the governor had.
    pub(crate) fn next_stream(&mut self) -> u64 {
        self.streams_opened += 1;
        self.streams_opened
    }

    /// Ends a connection: `ended` goes off every scope, and what it leaves behind off those that do
    /// not count it any more. Lets go of these, and returns those that do.
    pub(crate) fn depart(
        &mut self,
        parents: Parents,
        ended: &Tally,
        left_behind: &Tally,
    ) -> Parents {
        let mut all = *ended;
        all.add(left_behind);
        self.nodes.each(parents, |above| {
            above.node.used.sub(if above.at.counts_departed() { ended } else { &all });
        });
        let departed = parents.departed(left_behind.memory > 0);
        if departed.peer().is_none() {
            self.nodes.release(parents);
        } else if let Some(class) = parents.class {
            self.nodes.release_class(class, parents.peer());
        }
        departed
    }

    /// Whether the limits by address have no objection, or none that stands; and makes room to count
    /// the connection.
    #[inline]
    pub(crate) fn allow_visit(&mut self, visit: &Visit) -> Result<(), Shortfall> {
        match visit.refused() {
            Some(refused) if !self.nodes.observe.contains(Scope::Subnet) => Err((*refused).into()),
            _ => Ok(self.subnets.reserve(visit)?),
        }
    }

    /// Counts a connection at its address, where it was [allowed](Self::allow_visit). If that was
    /// because it is only observed, this is counted too.
    #[must_use = "what the limits by address no longer need is dropped after the lock"]
    pub(crate) fn admit_visit(&mut self, visit: &Visit) -> Retired {
        if let Some(refused) = visit.refused() {
            self.observed.count(refused);
        }
        self.subnets.admit(visit)
    }

    /// As [`is_allowlisted`](Self::is_allowlisted), of a peer that the connection is to be bound to.
    pub(crate) fn is_peer_allowlisted(&self, address: Option<IpAddr>, peer: Named<'_>) -> bool {
        self.nodes.limits().allow.covers(address, Some(peer.name))
    }

    /// Whether the allow list covers a connection from `address`, with its peer if that is known.
    pub(crate) fn is_allowlisted(&self, parents: Parents, address: Option<IpAddr>) -> bool {
        let peer = parents.peer().and_then(|peer| self.nodes.named.get(Names::peer(peer)));
        self.nodes.limits().allow.covers(address, peer.map(|peer| peer.name()))
    }
}

/// Binding.
impl<M: Member> Scopes<M> {
    /// Holds a peer for a connection that is about to be bound to it, with the peer's parts of the
    /// classes of the connection and of its streams.
    pub(crate) fn hold_bound(
        &mut self,
        from: Parents,
        key: Named<'_>,
        partition: Partition,
        streams: &[StreamShare],
    ) -> Result<Parents, OutOfMemory> {
        let peer = self.nodes.hold_peer(key)?;
        let to = Parents::new(Some(peer), from.class, partition);
        let mut parts = class_parts(to, streams);
        let failed =
            parts.position(|(class, holders)| self.nodes.hold_part(class, peer, holders).is_err());
        let Some(failed) = failed else { return Ok(to) };
        self.release_parts(to, class_parts(to, streams).take(failed));
        Err(OutOfMemory)
    }

    /// Lets go of what [`hold_bound`](Self::hold_bound) holds.
    pub(crate) fn release_bound(&mut self, to: Parents, streams: &[StreamShare]) {
        self.release_parts(to, class_parts(to, streams));
    }

    fn release_parts(&mut self, to: Parents, parts: impl Iterator<Item = (NameRef, u32)>) {
        let Some(peer) = to.peer() else { return };
        for (class, holders) in parts {
            self.nodes.named.release(Names::part(class, peer), holders);
        }
        self.nodes.named.release(Names::peer(peer), 1);
    }

    /// Finds or makes the class that a stream is to be bound to, and holds it.
    pub(crate) fn hold_class(
        &mut self,
        parents: Parents,
        name: Named<'_>,
    ) -> Result<NameRef, OutOfMemory> {
        self.nodes.hold_class(name, parents.peer())
    }

    /// A stream lets go of its class.
    pub(crate) fn release_class(&mut self, class: NameRef, parents: Parents) {
        self.nodes.release_class(class, parents.peer());
    }
}

/// Idle blocks.
impl<M: Member> Scopes<M> {
    /// Lists a connection as one that may keep idle blocks. `false`: a scope above it does not want
    /// that now, or there is no memory for it.
    pub(crate) fn list(&mut self, id: u64, member: &M, parents: Parents) -> bool {
        let barred = self.nodes.ceilings.connection.bars_memory()
            && !self.nodes.observe.contains(Scope::Connection);
        #[cfg(feature = "testing")]
        let barred = barred || self.bars_idle;
        let Self { nodes, members, .. } = self;
        let welcome =
            nodes.climb(parents, |above| if above.may_cache() { Ok(()) } else { Err(()) });
        !barred && welcome.is_ok() && members.list(id, member, nodes, parents)
    }

    /// Takes it off the lists, in the step in which its idle blocks go off the scopes.
    pub(crate) fn unlist(&mut self, id: u64, parents: Parents) {
        self.members.unlist(id, &mut self.nodes, parents);
    }
}

/// The classes of which a connection bound to `to` holds the peer's part, and how often.
fn class_parts(to: Parents, streams: &[StreamShare]) -> impl Iterator<Item = (NameRef, u32)> {
    let own = to.class.map(|class| (class, 1));
    own.into_iter().chain(streams.iter().map(|share| (share.class, share.streams)))
}
