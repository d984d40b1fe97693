//! Charging: every scope that a charge touches is asked, then all are charged, or none.
//!
//! A charge may move the connection besides, from its scopes to others: what it uses goes off the
//! scopes that it leaves and onto those that it enters, in the same step, and those that it stays in
//! see nothing of it.

use std::convert::Infallible;

use super::demand::Demand;
use super::members::{Member, OwnIdle};
use super::named::{NameRef, Names};
use super::node::Ancestor;
use super::nodes::Nodes;
use super::{Parents, ScopeRef, Scopes};
use crate::error::{Refused, Scope};
use crate::try_box::OutOfMemory;
use crate::usage::Tally;

/// What is charged, and to what.
#[derive(Clone, Copy)]
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
    pub(crate) class: Option<NameRef>,
}

/// The charges of a connection's streams to one class that is not the connection's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamShare {
    pub(crate) class: NameRef,
    pub(crate) usage: Tally,
    /// How many streams hold the class.
    pub(crate) streams: u32,
    /// The key of the first of them.
    pub(crate) first: u64,
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

impl From<Refused> for Shortfall {
    fn from(refused: Refused) -> Self {
        Self { refused, at: None, enters: false }
    }
}

impl From<OutOfMemory> for Shortfall {
    fn from(error: OutOfMemory) -> Self {
        Refused::from(error).into()
    }
}

/// Where a charge takes the connection.
struct Move<'a> {
    to: Parents,
    /// What the scopes that it enters are asked for. `None`: it stays where it is.
    entering: Option<Demand>,
    /// What its streams have in classes of their own: the peer's parts of these are entered too.
    streams: &'a [StreamShare],
}

/// A scope that a charge touches.
struct Asked<'a> {
    above: Ancestor<'a>,
    demand: &'a Demand,
    /// Whether the connection moves there.
    enters: bool,
}

impl Charge<'_> {
    /// Visits every scope that is asked for something, until one objects.
    #[inline(always)]
    fn each_asked<E>(
        &self,
        moves: &Move<'_>,
        nodes: &mut Nodes,
        mut visit: impl FnMut(Asked<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let peer = moves.to.peer();
        if let Some(class) = self.stream.and_then(|stream| stream.class) {
            let demand = &self.request.of_stream_class();
            let mut visit = |above: Ancestor<'_>| visit(Asked { above, demand, enters: false });
            nodes.climb_class(class, peer, &mut visit)?;
        }
        nodes.climb(moves.to, |above| {
            let entering = moves.entering.as_ref();
            let entering = entering.filter(|_| above.at.differs(self.parents, moves.to));
            let demand = entering.unwrap_or(self.request);
            visit(Asked { above, demand, enters: entering.is_some() })
        })?;
        for share in moves.streams {
            let demand = &Demand::new(share.usage);
            let part = peer.map(|peer| ScopeRef::Named(Names::part(share.class, peer)));
            if let Some(above) = part.and_then(|part| nodes.ancestor(part)) {
                visit(Asked { above, demand, enters: false })?;
            }
        }
        Ok(())
    }
}

impl<M: Member> Scopes<M> {
    /// Charges all scopes, and moves the connection to the scopes `to` if it is not there yet, which are
    /// held, with its streams' shares; or changes nothing. `take` obtains what is charged for: after
    /// every check, and before any charge; if it returns `None`, nothing is charged.
    #[inline]
    pub(crate) fn charge<T>(
        &mut self,
        charge: &Charge<'_>,
        to: Parents,
        streams: &[StreamShare],
        mut take: impl FnMut() -> Option<T>,
    ) -> Result<Option<T>, Shortfall> {
        // Most charges, and most binds, touch two scopes. Where these have no room, the general way
        // tells why.
        let plainly = if to == charge.parents {
            self.try_plainly(charge, charge.parents, None, &mut take)
        } else if streams.is_empty()
            && to.partition() == charge.parents.partition()
            && self.members.get(charge.idle.id).is_none()
            && let Some(entering) = charge.request.along_with(&charge.own)
        {
            self.try_plainly(charge, to, Some(&entering), &mut take)
        } else {
            None
        };
        match plainly {
            Some(taken) => Ok(taken),
            None => self.charge_and_move(charge, to, streams, take),
        }
    }

    /// Charges a peer's scope, or the transient one, and the system's, or nothing. If the connection
    /// is `entering` the first of them, it leaves another. `None`: there is no room, or other scopes
    /// are concerned as well.
    #[inline(always)]
    fn try_plainly<T>(
        &mut self,
        charge: &Charge<'_>,
        to: Parents,
        entering: Option<&Demand>,
        take: &mut impl FnMut() -> Option<T>,
    ) -> Option<Option<T>> {
        let class = charge.stream.and_then(|stream| stream.class).or(charge.parents.class);
        if class.or(to.class).is_some() || self.is_observing() || !self.own_limits_fit(charge) {
            return None;
        }
        let [first, system] = self.nodes.two(to)?;
        let asked = entering.unwrap_or(charge.request);
        if !first.1.fit(&first.0.used, asked) || !system.1.fit(&system.0.used, charge.request) {
            return None;
        }
        let Some(taken) = take() else { return Some(None) };
        first.0.used.add(&asked.charged());
        system.0.used.add(&charge.request.charged());
        if entering.is_some()
            && let Some([(left, _), _]) = self.nodes.two(charge.parents)
        {
            left.used.sub(&charge.own);
        }
        Some(Some(taken))
    }

    /// The general way.
    #[inline(never)]
    fn charge_and_move<T>(
        &mut self,
        charge: &Charge<'_>,
        to: Parents,
        streams: &[StreamShare],
        mut take: impl FnMut() -> Option<T>,
    ) -> Result<Option<T>, Shortfall> {
        let mut entering = None;
        if to != charge.parents {
            let Some(demand) = charge.request.along_with(&charge.own) else {
                let system = to.partition().system();
                return Err(Refused::uncountable(system, charge.request.usage.memory).into());
            };
            entering = Some(demand);
        }
        let moves = &Move { to, entering, streams };
        if !self.has_room(charge, moves) {
            self.check(charge, moves)?;
        }
        let id = charge.idle.id;
        let is_listed = moves.entering.is_some() && self.members.get(id).is_some();
        if is_listed {
            self.nodes.climb(moves.to, |above| above.node.reserve())?;
        }
        let Some(taken) = take() else { return Ok(None) };
        if self.is_observing() {
            self.observe(charge, moves);
        }
        let Self { nodes, members, .. } = self;
        if moves.entering.is_some() {
            nodes.each(charge.parents, |above| {
                if above.at.differs(charge.parents, moves.to) {
                    above.node.used.sub(&charge.own);
                    if is_listed {
                        members.leave(id, above.at.rank(), above.node);
                    }
                }
            });
        }
        let Ok(()) = charge.each_asked(moves, nodes, |Asked { above, demand, enters }| {
            above.node.used.add(&demand.charged());
            if is_listed && enters {
                members.enter(id, above.at.rank(), above.node);
            }
            Ok::<_, Infallible>(())
        });
        Ok(Some(taken))
    }

    #[inline(always)]
    fn has_room(&mut self, charge: &Charge<'_>, moves: &Move<'_>) -> bool {
        let ask = |Asked { above, demand, .. }: Asked<'_>| {
            if above.has_room(demand) { Ok(()) } else { Err(()) }
        };
        self.own_limits_fit(charge) && charge.each_asked(moves, &mut self.nodes, ask).is_ok()
    }

    /// Whether a stream and the connection have room.
    #[inline(always)]
    fn own_limits_fit(&self, charge: &Charge<'_>) -> bool {
        let own = self.nodes.own_ceilings(Scope::Connection);
        own.fit(&charge.own, charge.request)
            && charge.stream.is_none_or(|stream| {
                let (used, demand) = (Tally::of_memory(stream.in_use), charge.request.of_stream());
                self.nodes.own_ceilings(Scope::Stream).fit(&used, &demand)
            })
    }

    /// As [`has_room`](Self::has_room), with an error that tells where there is none.
    #[cold]
    fn check(&mut self, charge: &Charge<'_>, moves: &Move<'_>) -> Result<(), Shortfall> {
        if let Some(StreamCharge { in_use, .. }) = charge.stream {
            let (used, demand) = (Tally::of_memory(in_use), charge.request.of_stream());
            self.nodes.own_ceilings(Scope::Stream).check(Scope::Stream, &used, &demand)?;
        }
        let own = self.nodes.own_ceilings(Scope::Connection);
        own.check(Scope::Connection, &charge.own, charge.request)?;
        charge.each_asked(moves, &mut self.nodes, |Asked { above, demand, enters }| {
            let checked = above.check(demand);
            checked.map_err(|refused| Shortfall { refused, at: Some(above.at), enters })
        })
    }

    /// Counts what every scope that only observes would have refused. Idle blocks in its way do not
    /// count.
    #[cold]
    fn observe(&mut self, charge: &Charge<'_>, moves: &Move<'_>) {
        let Self { nodes, members, observed, .. } = self;
        let Ok(()) = charge.each_asked(moves, nodes, |Asked { above, demand, enters }| {
            if above.observes {
                // Idle blocks of the connection's own would have given way before it entered.
                let own = if enters { charge.idle.bytes.min(charge.own.memory) } else { 0 };
                let usage = Tally { memory: demand.usage.memory - own, ..demand.usage };
                let demand = Demand { usage, ..*demand };
                if let Some(refused) = above.observe(&demand, members, charge.idle) {
                    observed.count(&refused);
                }
            }
            Ok::<_, Infallible>(())
        });
        let Nodes { ceilings, observe, .. } = &self.nodes;
        if observe.contains(Scope::Stream)
            && let Some(StreamCharge { in_use, .. }) = charge.stream
            && let Err(refused) = ceilings.stream.check(
                Scope::Stream,
                &Tally::of_memory(in_use),
                &charge.request.of_stream(),
            )
        {
            self.observed.count(&refused);
        }
        if observe.contains(Scope::Connection)
            && let Err(refused) =
                ceilings.connection.check(Scope::Connection, &charge.own, charge.request)
            && refused.missing_bytes().is_none_or(|missing| charge.idle.bytes < missing)
        {
            self.observed.count(&refused);
        }
    }

    /// Charges what a stream uses to a class that it is newly bound to. `take` returns how much
    /// memory that is at this moment, when all is checked.
    pub(crate) fn bind_class(
        &mut self,
        class: NameRef,
        charge: &Charge<'_>,
        take: impl FnOnce() -> u64,
    ) -> Result<u64, Shortfall> {
        let peer = charge.parents.peer();
        self.nodes.climb_class(class, peer, |above| {
            let checked = above.check(charge.request);
            checked.map_err(|refused| Shortfall { at: Some(above.at), ..refused.into() })
        })?;
        let memory = take();
        let usage = charge.request.usage.with_memory(memory);
        let Self { nodes, members, observed, .. } = self;
        nodes.each_of_class(class, peer, |above| {
            if above.observes
                && let Some(refused) = above.observe(&Demand::new(usage), members, charge.idle)
            {
                observed.count(&refused);
            }
            above.node.used.add(&usage);
        });
        Ok(memory)
    }

    /// Takes `less` off every scope.
    #[inline]
    pub(crate) fn credit(&mut self, parents: Parents, less: &Tally) {
        self.nodes.each(parents, |above| above.node.used.sub(less));
    }

    /// Takes `less` off a class that a stream is bound to.
    pub(crate) fn credit_class(&mut self, class: NameRef, parents: Parents, less: &Tally) {
        self.nodes.each_of_class(class, parents.peer(), |above| above.node.used.sub(less));
    }
}
