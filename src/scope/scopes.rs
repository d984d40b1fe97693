//! Charging, moving and letting go, while the tree is locked.

use std::net::IpAddr;

use super::classes::ClassRef;
use super::demand::{Ceilings, Demand};
use super::members::{Member, Members, OwnIdle};
use super::node::Ancestor;
use super::nodes::Nodes;
use super::{Named, Parents, Partition, Refusals, ScopeRef, Standing};
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

/// What is charged, and to what.
pub(crate) struct Charge<'a> {
    /// The connection's id, zero before it has one, and what it keeps idle, if any scope observes.
    pub(crate) idle: OwnIdle,
    pub(crate) parents: Parents,
    /// What the connection uses already.
    pub(crate) own: Tally,
    pub(crate) request: &'a Demand,
    /// The stream that it is for, if it is for one.
    pub(crate) stream: Option<StreamCharge>,
}

/// The part of a charge that concerns a stream.
#[derive(Clone, Copy)]
pub(crate) struct StreamCharge {
    /// The memory that the stream uses already.
    pub(crate) in_use: u64,
    /// The class that the stream is charged to besides its connection's.
    pub(crate) class: Option<ClassRef>,
}

/// The charges of a connection's streams to one class that is not the connection's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamShare {
    pub(crate) class: ClassRef,
    pub(crate) usage: Tally,
    /// How many streams hold the class.
    pub(crate) streams: u32,
}

/// A scope that has no room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shortfall {
    pub(crate) refused: Refused,
    /// `None` where it is the connection's own scope, a stream's, a subnet or the allocator.
    pub(crate) at: Option<ScopeRef>,
    /// Whether it is a scope that a move would enter, with all that the connection uses.
    pub(crate) enters: bool,
}

impl From<OutOfMemory> for Shortfall {
    fn from(error: OutOfMemory) -> Self {
        Self { refused: error.into(), at: None, enters: false }
    }
}

/// Charging.
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

    /// Charges all scopes, or none. `take` obtains what is charged for: after every check, and
    /// before any charge; if it returns `None`, nothing is charged.
    #[inline]
    pub(crate) fn charge<T>(
        &mut self,
        charge: &Charge<'_>,
        take: impl FnOnce() -> Option<T>,
    ) -> Result<Option<T>, Shortfall> {
        self.check_own(charge)?;
        let class = charge.stream.and_then(|stream| stream.class);
        if let Some(class) = class {
            self.check_class(class, charge)?;
        }
        let Self { nodes, members, observed, .. } = self;
        nodes.climb(charge.parents, Standing::Present, |above| check(&above, charge.request))?;
        let Some(taken) = take() else { return Ok(None) };
        let charged = charge.request.charged();
        nodes.each(charge.parents, Standing::Present, |above| {
            if above.observes {
                count_observed(&above, charge.request, members, charge.idle, observed);
            }
            above.node.used.add(&charged);
        });
        if let Some(class) = class {
            self.charge_class(class, charge);
        }
        if !self.nodes.observe.is_none() {
            self.observe_own(charge);
        }
        Ok(Some(taken))
    }

    /// Checks the limits of a stream and of the connection.
    #[inline]
    fn check_own(&self, charge: &Charge<'_>) -> Result<(), Shortfall> {
        let fixed = &self.nodes.fixed;
        let observe = self.nodes.observe;
        let ceilings = |scope, ceilings| {
            if observe.contains(scope) { &Ceilings::NONE } else { ceilings }
        };
        let own = |refused| Shortfall { refused, at: None, enters: false };
        if let Some(StreamCharge { in_use, .. }) = charge.stream {
            let request = Demand { idle_bytes: 0, ..*charge.request };
            let used = Tally::of_memory(in_use);
            ceilings(Scope::Stream, &fixed.stream)
                .check(Scope::Stream, &used, &request)
                .map_err(own)?;
        }
        ceilings(Scope::Connection, &fixed.connection)
            .check(Scope::Connection, &charge.own, charge.request)
            .map_err(own)
    }

    /// Counts what the limits of a stream and of the connection would have refused if they did not
    /// observe.
    #[cold]
    fn observe_own(&mut self, charge: &Charge<'_>) {
        let observe = self.nodes.observe;
        if observe.contains(Scope::Stream)
            && let Some(StreamCharge { in_use, .. }) = charge.stream
        {
            let request = Demand { idle_bytes: 0, ..*charge.request };
            let used = Tally::of_memory(in_use);
            if let Err(refused) = self.nodes.fixed.stream.check(Scope::Stream, &used, &request) {
                self.observed.count(&refused);
            }
        }
        if observe.contains(Scope::Connection)
            && let Err(refused) =
                self.nodes.fixed.connection.check(Scope::Connection, &charge.own, charge.request)
            && refused.missing_bytes().is_none_or(|missing| charge.idle.bytes < missing)
        {
            self.observed.count(&refused);
        }
    }

    fn check_class(&mut self, class: ClassRef, charge: &Charge<'_>) -> Result<(), Shortfall> {
        let request = Demand { idle_bytes: 0, ..*charge.request };
        self.nodes.climb_class(class, charge.parents.peer(), |above| check(&above, &request))
    }

    fn charge_class(&mut self, class: ClassRef, charge: &Charge<'_>) {
        // No block that is idle is charged to a stream's class.
        let memory = charge.request.usage.memory;
        let request = Demand {
            usage: charge.request.usage.with_memory(memory),
            idle_bytes: 0,
            ..*charge.request
        };
        let Self { nodes, members, observed, .. } = self;
        nodes.each_of_class(class, charge.parents.peer(), |above| {
            if above.observes {
                count_observed(&above, &request, members, charge.idle, observed);
            }
            above.node.used.add(&request.usage);
        });
    }

    /// Charges what a stream uses to a class that it is newly bound to. `take` returns how much
    /// memory that is at this moment, when all is checked.
    pub(crate) fn bind_class(
        &mut self,
        class: ClassRef,
        charge: &Charge<'_>,
        take: impl FnOnce() -> u64,
    ) -> Result<u64, Shortfall> {
        self.check_class(class, charge)?;
        let memory = take();
        let usage = charge.request.usage.with_memory(memory);
        let request = &Demand::new(usage);
        self.charge_class(class, &Charge { request, ..*charge });
        Ok(memory)
    }

    /// Takes `less` off every scope.
    #[inline]
    pub(crate) fn credit(&mut self, parents: Parents, standing: Standing, less: &Tally) {
        self.nodes.each(parents, standing, |above| above.node.used.sub(less));
    }

    /// Takes `less` off a class that a stream is bound to.
    pub(crate) fn credit_class(&mut self, class: ClassRef, parents: Parents, less: &Tally) {
        self.nodes.each_of_class(class, parents.peer(), |above| above.node.used.sub(less));
    }

    /// Whether reclaiming idle blocks may cure a shortfall: memory is short, and the blocks that
    /// connections keep below, but for `out` bytes, would cover what is missing if all were idle.
    pub(crate) fn is_curable(&mut self, at: ScopeRef, refused: &Refused, out: u64) -> bool {
        refused.missing_bytes().is_some_and(|missing| {
            let most = self.nodes.get_mut(at).map_or(0, |node| node.most_reclaimable());
            missing <= most.saturating_sub(out)
        })
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
        peer: Option<Named<'_, [u8]>>,
        class: Option<Named<'_, str>>,
        partition: Partition,
    ) -> Result<Parents, OutOfMemory> {
        let (peer, class) = self.nodes.hold(peer, class)?;
        Ok(Parents::new(peer, class, partition))
    }

    /// Lets go of the scopes that a connection holds.
    pub(crate) fn release(&mut self, parents: Parents) {
        self.nodes.release(parents.peer(), parents.class);
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
    /// not count it any more. Lets go of the scopes that no longer count anything of it.
    pub(crate) fn depart(&mut self, parents: Parents, ended: &Tally, left_behind: &Tally) {
        let mut all = *ended;
        all.add(left_behind);
        self.nodes.each(parents, Standing::Present, |above| {
            let stays = matches!(above.at, ScopeRef::Peer(_) | ScopeRef::System(_));
            above.node.used.sub(if stays { ended } else { &all });
        });
        self.nodes.release_class(parents.class, parents.peer());
        if let Some(peer) = parents.peer()
            && left_behind.memory == 0
        {
            self.nodes.peers.release(peer);
        }
    }

    /// Whether the limits by address have no objection, or none that stands; and makes room to count
    /// the connection.
    #[inline]
    pub(crate) fn allow_visit(&mut self, visit: &Visit) -> Result<(), Shortfall> {
        match visit.refused() {
            Some(refused) if !self.nodes.observe.contains(Scope::Subnet) => {
                Err(Shortfall { refused: *refused, at: None, enters: false })
            }
            _ => {
                let reserved = self.subnets.reserve(visit);
                reserved.map_err(|refused| Shortfall { refused, at: None, enters: false })
            }
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
    pub(crate) fn is_peer_allowlisted(
        &self,
        address: Option<IpAddr>,
        peer: Named<'_, [u8]>,
    ) -> bool {
        self.nodes.limits().allow.covers(address, Some(peer.name))
    }

    /// Whether the allow list covers a connection from `address`, with its peer if that is known.
    pub(crate) fn is_allowlisted(&self, parents: Parents, address: Option<IpAddr>) -> bool {
        let peer = parents.peer().and_then(|peer| self.nodes.peers.get(peer));
        self.nodes.limits().allow.covers(address, peer.map(|peer| peer.key()))
    }
}

/// Moving a connection from its scopes to others: what it uses goes off the scopes that it leaves and
/// onto those that it enters, in one step, and those that it stays in see nothing.
impl<M: Member> Scopes<M> {
    /// Holds a peer for a connection that is about to be bound to it, with the peer's parts of the
    /// classes of the connection and of its streams.
    pub(crate) fn hold_bound(
        &mut self,
        from: Parents,
        peer: Named<'_, [u8]>,
        partition: Partition,
        streams: &[StreamShare],
    ) -> Result<Parents, OutOfMemory> {
        let (Some(held), _) = self.nodes.hold(Some(peer), None)? else {
            unreachable!("a peer was named")
        };
        let to = Parents::new(Some(held), from.class, partition);
        let mut done = 0;
        let mut parts = class_parts(to, streams);
        let all = parts.try_for_each(|(class, holders)| {
            self.nodes.class_peers.hold(class, held, holders)?;
            done += 1;
            Ok(())
        });
        if let Err(error) = all {
            for (class, holders) in class_parts(to, streams).take(done) {
                self.nodes.class_peers.release(class, held, holders);
            }
            self.nodes.peers.release(held);
            return Err(error);
        }
        Ok(to)
    }

    /// Lets go of what [`hold_bound`](Self::hold_bound) holds.
    pub(crate) fn release_bound(&mut self, to: Parents, streams: &[StreamShare]) {
        let Some(held) = to.peer() else { return };
        for (class, holders) in class_parts(to, streams) {
            self.nodes.class_peers.release(class, held, holders);
        }
        self.nodes.peers.release(held);
    }

    /// Moves a connection and its streams' shares to other scopes, which are held, and charges what
    /// it asks for; or changes nothing. `take` is as in [`charge`](Self::charge).
    pub(crate) fn relocate<T>(
        &mut self,
        to: Parents,
        charge: &Charge<'_>,
        streams: &[StreamShare],
        take: impl FnOnce() -> Option<T>,
    ) -> Result<Option<T>, Shortfall> {
        let Charge { idle, parents: from, own, request, .. } = charge;
        let id = idle.id;
        let Some(entering) = request.along_with(own) else {
            let refused = Refused::uncountable(to.partition.system(), request.usage.memory);
            return Err(Shortfall { refused, at: None, enters: false });
        };
        let class = charge.stream.and_then(|stream| stream.class);
        if let Some(class) = class {
            self.check_class(class, charge)?;
        }
        let Self { nodes, members, observed, .. } = self;
        let listed = members.get(id).is_some();
        let enters = |at: ScopeRef| at.differs(*from, to);
        nodes.climb(to, Standing::Present, |above| {
            if !enters(above.at) {
                return check(&above, request);
            }
            check(&above, &entering).map_err(|short| Shortfall { enters: true, ..short })?;
            if listed { above.node.reserve().map_err(Shortfall::from) } else { Ok(()) }
        })?;
        for share in streams {
            let shared = Demand::new(share.usage);
            nodes.climb_class(share.class, to.peer(), |above| match above.at {
                ScopeRef::ClassPeer(..) => check(&above, &shared),
                _ => Ok(()),
            })?;
        }
        let Some(taken) = take() else { return Ok(None) };

        nodes.each(*from, Standing::Present, |above| {
            if enters(above.at) {
                above.node.used.sub(own);
                if listed {
                    members.leave(id, above.at.rank(), above.node);
                }
            }
        });
        nodes.each(to, Standing::Present, |above| {
            let asked = if enters(above.at) { &entering } else { request };
            if above.observes {
                // If it refused, idle blocks of the connection's own would have given way first.
                let entered = enters(above.at);
                let own_idle = if entered { idle.bytes } else { 0 };
                let memory = asked.usage.memory - own_idle.min(own.memory);
                let asked = Demand { usage: Tally { memory, ..asked.usage }, ..*asked };
                count_observed(&above, &asked, members, *idle, observed);
            }
            above.node.used.add(&asked.charged());
            if listed && enters(above.at) {
                members.enter(id, above.at.rank(), above.node);
            }
        });
        for share in streams {
            nodes.each_of_class(share.class, to.peer(), |above| {
                if let ScopeRef::ClassPeer(..) = above.at {
                    if above.observes {
                        count_observed(&above, &Demand::new(share.usage), members, *idle, observed);
                    }
                    above.node.used.add(&share.usage);
                }
            });
        }
        if let Some(class) = class {
            self.charge_class(class, charge);
        }
        self.observe_own(charge);
        Ok(Some(taken))
    }
}

/// The classes of streams.
impl<M: Member> Scopes<M> {
    /// Finds or makes the class that a stream is to be bound to, and holds it.
    pub(crate) fn hold_class(
        &mut self,
        parents: Parents,
        name: Named<'_, str>,
    ) -> Result<ClassRef, OutOfMemory> {
        let (_, class) = self.nodes.hold(None, Some(name))?;
        let class = class.expect("a class was named");
        if let Some(peer) = parents.peer() {
            let part = self.nodes.class_peers.hold(class, peer, 1);
            part.inspect_err(|_| self.nodes.classes.release(class))?;
        }
        Ok(class)
    }

    /// A stream lets go of its class.
    pub(crate) fn release_class(&mut self, class: ClassRef, parents: Parents) {
        self.nodes.release_class(Some(class), parents.peer());
    }
}

/// Idle blocks.
impl<M: Member> Scopes<M> {
    /// Lists a connection as one that may keep idle blocks. `false`: a scope above it does not want
    /// that now, or there is no memory for it.
    pub(crate) fn list(&mut self, id: u64, member: &M, parents: Parents) -> bool {
        let barred = self.nodes.fixed.connection.bars_memory()
            && !self.nodes.observe.contains(Scope::Connection);
        #[cfg(feature = "testing")]
        let barred = barred || self.bars_idle;
        let Self { nodes, members, .. } = self;
        let welcome = nodes.climb(parents, Standing::Present, |above| {
            if above.may_cache() { Ok(()) } else { Err(()) }
        });
        !barred && welcome.is_ok() && members.list(id, member, nodes, parents)
    }

    /// Takes it off the lists, in the step in which its idle blocks go off the scopes.
    pub(crate) fn unlist(&mut self, id: u64, parents: Parents) {
        self.members.unlist(id, &mut self.nodes, parents);
    }
}

/// The classes of which a connection bound to `to` holds the peer's part, and how often.
fn class_parts(to: Parents, streams: &[StreamShare]) -> impl Iterator<Item = (ClassRef, u32)> {
    let own = to.class.map(|class| (class, 1));
    own.into_iter().chain(streams.iter().map(|share| (share.class, share.streams)))
}

#[inline(always)]
fn check(above: &Ancestor<'_>, request: &Demand) -> Result<(), Shortfall> {
    let checked = above.check(request);
    checked.map_err(|refused| Shortfall { refused, at: Some(above.at), enters: false })
}

#[cold]
fn count_observed<M: Member>(
    above: &Ancestor<'_>,
    request: &Demand,
    members: &Members<M>,
    own: OwnIdle,
    observed: &mut Refusals,
) {
    if let Some(refused) = above.observe(request, members, own) {
        observed.count(&refused);
    }
}
