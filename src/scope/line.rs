//! The scopes above one connection, while the tree is locked.

use std::net::IpAddr;

use super::levels::{Levels, Rung, Vacated};
use super::refusals::Refusals;
use super::{ClassRef, Hashed, LevelRef, Place, Realm, Request, Scopes, Standing};
use crate::error::{Refused, Scope};
use crate::limits::Observe;
use crate::priority::Priority;
use crate::subnet::{Retired, Subnets, Visit};
use crate::sync::MutexGuard;
use crate::usage::{Lane, Tally};

/// Every scope above one connection, locked.
pub(crate) struct Line<'a, M> {
    pub(super) scopes: MutexGuard<'a, Scopes<M>>,
    pub(super) place: Place,
    standing: Standing,
}

/// A scope that has no room.
#[derive(Clone, Copy)]
pub(crate) struct Shortfall {
    pub(crate) refused: Refused,
    /// `None` where it is the connection's own scope, a stream's or a subnet.
    pub(crate) level: Option<LevelRef>,
}

/// What an attempt came to that found no room.
pub(crate) enum Unmet<M> {
    /// There may be some once this member, the one who asks, gives its own idle memory back.
    Flush(M),
    /// There may be some once the scope is pressed on, and this member of it is swept.
    Sweep(LevelRef, M),
    /// There is none.
    Refused(Refused),
}

/// The scopes that have no say any more in an attempt: they only observe, and no idle memory stands
/// in their way. By scope and not by kind: another of the same kind may still have some.
#[derive(Default)]
pub(crate) struct Excused(Vec<(Scope, Option<LevelRef>)>);

impl Excused {
    /// Whether it is one of those that belong to the connection or a stream alone.
    #[inline]
    fn own(&self, scope: Scope) -> bool {
        self.contains(scope, None)
    }

    #[inline]
    pub(super) fn level(&self, at: LevelRef) -> bool {
        self.contains(at.scope(), Some(at))
    }

    #[inline]
    fn contains(&self, scope: Scope, level: Option<LevelRef>) -> bool {
        self.0.contains(&(scope, level))
    }
}

impl<M> Unmet<M> {
    /// The same, but refused for another reason if it is refused.
    pub(crate) fn instead(self, refused: Refused) -> Self {
        match self {
            Unmet::Refused(_) => Unmet::Refused(refused),
            unmet => unmet,
        }
    }
}

/// The charges of a connection's streams to one class that is not the connection's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamShare {
    pub(crate) class: ClassRef,
    pub(crate) usage: Tally,
    /// How many streams hold the class.
    pub(crate) streams: u32,
}

impl From<Refused> for Shortfall {
    fn from(refused: Refused) -> Self {
        Self { refused, level: None }
    }
}

/// Charging.
impl<'a, M: Clone> Line<'a, M> {
    #[inline]
    pub(super) fn new(scopes: MutexGuard<'a, Scopes<M>>, place: Place, standing: Standing) -> Self {
        Self { scopes, place, standing }
    }

    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// The addresses that connections come from.
    #[inline]
    pub(crate) fn subnets(&mut self) -> &mut Subnets {
        &mut self.scopes.subnets
    }

    /// Whether every scope has room, beginning with a stream's own, if one is to be opened, and the
    /// connection's own, which uses `own`. Scopes that are `excused` have no say: those that only
    /// observe are, but not before it is sure that no idle memory stands in the way.
    #[inline]
    pub(crate) fn check(
        &mut self,
        own: &Tally,
        request: &Request,
        excused: &Excused,
    ) -> Result<(), Shortfall> {
        let levels = &mut self.scopes.levels;
        if request.usage.count(Lane::Streams) > 0 && !excused.own(Scope::Stream) {
            let limits = &levels.limits.stream;
            limits.check_counts(Scope::Stream, &Tally::default(), &request.usage)?;
        }
        let in_force = (!excused.own(Scope::Connection)).then_some(&levels.bounds.connection);
        request.check(Scope::Connection, in_force, own)?;
        levels
            .climb(self.place, self.standing, |rung| check(&rung, request, excused.level(rung.at)))
    }

    /// Charges every scope, which has been [checked](Self::check).
    #[inline]
    pub(crate) fn charge(&mut self, own: &Tally, request: &Request) {
        let Scopes { levels, observed, .. } = &mut *self.scopes;
        if !levels.limits.observe.is_none() {
            observe(levels, observed, own, request, self.place, self.standing);
        }
        let charge = request.charged();
        levels.each(self.place, self.standing, |rung| rung.level.usage.add(&charge));
    }

    /// Takes `less` off every scope.
    #[inline]
    pub(crate) fn credit(&mut self, less: &Tally) {
        let levels = &mut self.scopes.levels;
        levels.each(self.place, self.standing, |rung| rung.level.sub(less, rung.bounds));
    }

    /// Ends the connection: `ended` goes off every scope, and what it leaves behind off those that
    /// [do not count it](Standing::Departed). The scopes that nobody needs any more are let go of.
    pub(crate) fn depart(&mut self, ended: &Tally, left_behind: &Tally) -> Vacated<M> {
        if left_behind.memory == 0
            && let Some(vacated) = self.try_depart_plainly(ended)
        {
            return vacated;
        }
        let levels = &mut self.scopes.levels;
        let mut all = *ended;
        all.add(left_behind);
        levels.each(self.place, Standing::Present, |rung| {
            let stays = matches!(rung.at, LevelRef::Peer(_) | LevelRef::System(_));
            rung.level.sub(if stays { ended } else { &all }, rung.bounds);
        });
        let peer = self.place.peer();
        let mut vacated = levels.release_class(self.place.class, peer);
        if left_behind.memory == 0 {
            vacated.merge(levels.release_peer(peer));
        }
        vacated
    }

    /// Attempts until there is room, or it is sure that there is none. Scopes that only observe are
    /// excused one by one, and none before it is sure that no idle memory stands in its way: neither
    /// that of the one who asks, for which `own_idle` answers, nor that of the scope's members.
    pub(crate) fn insist(
        &mut self,
        own_idle: impl Fn(&Shortfall) -> Option<M>,
        mut attempt: impl FnMut(&mut Self, &Excused) -> Result<(), Shortfall>,
    ) -> Result<(), Unmet<M>> {
        let mut excused = Excused::default();
        loop {
            let Err(shortfall) = attempt(self, &excused) else { return Ok(()) };
            if let Some(me) = own_idle(&shortfall) {
                return Err(Unmet::Flush(me));
            }
            if let Some((level, member)) = self.victim(&shortfall) {
                return Err(Unmet::Sweep(level, member));
            }
            let scope = shortfall.refused.scope();
            if excused.contains(scope, shortfall.level) || !self.observes(scope) {
                return Err(Unmet::Refused(shortfall.refused));
            }
            excused.0.push((scope, shortfall.level));
        }
    }

    /// A member whose idle memory might make room in the scope that has none. The scope becomes
    /// tight.
    fn victim(&mut self, shortfall: &Shortfall) -> Option<(LevelRef, M)> {
        let at = shortfall.level?;
        let victim = self.scopes.levels.with(at, |level, _| level.victim(&shortfall.refused))??;
        Some((at, victim))
    }

    /// Whether any scope of the line is tight, so that nothing idle may be kept.
    #[inline]
    pub(crate) fn is_tight(&mut self) -> bool {
        let tight = self.scopes.levels.climb(self.place, self.standing, |rung| {
            if rung.level.tight { Err(()) } else { Ok(()) }
        });
        tight.is_err()
    }

    /// Lists a member in every scope of the line as one that may hold idle memory.
    pub(crate) fn list(&mut self, id: u64, member: &M) {
        let levels = &mut self.scopes.levels;
        levels.each(self.place, self.standing, |rung| rung.level.list(id, member.clone()));
    }

    /// Takes a member off the lists. What comes back is dropped after the lock.
    #[must_use = "a member may not be dropped under a lock"]
    pub(crate) fn unlist(&mut self, id: u64) -> [Option<M>; 4] {
        let mut unlisted = [const { None }; 4];
        let mut places = unlisted.iter_mut();
        self.scopes.levels.each(self.place, self.standing, |rung| {
            if let (Some(member), Some(place)) = (rung.level.unlist(id), places.next()) {
                *place = Some(member);
            }
        });
        unlisted
    }
}

/// Coming in.
impl<M: Clone> Line<'_, M> {
    /// One who is about to be admitted tries the allow-listed scopes.
    pub(crate) fn enter_allowlisted(&mut self) {
        self.place.realm = Realm::Allowlisted;
    }

    /// Counts an admission, and answers an id that no connection of the governor ever had.
    pub(crate) fn admit(&mut self) -> u64 {
        self.scopes.admitted += 1;
        self.scopes.admitted
    }

    /// Whether the limits by address have no objection, or none that stands.
    pub(crate) fn allow_visit(&self, visit: Option<&Visit>) -> Result<(), Unmet<M>> {
        match visit.and_then(Visit::refused) {
            Some(refused) if !self.observes(Scope::Subnet) => Err(Unmet::Refused(*refused)),
            _ => Ok(()),
        }
    }

    /// Counts a connection at its address. If that was [allowed](Self::allow_visit) because it is
    /// only observed, this is counted too. What comes back is dropped after the lock.
    #[must_use = "what the limits by address no longer need may not be dropped under the lock"]
    pub(crate) fn admit_visit(&mut self, visit: &Visit) -> Retired {
        if let Some(refused) = visit.refused() {
            self.count_observed(refused);
        }
        self.scopes.subnets.admit(visit)
    }

    /// Lets go of the scopes that the place holds: for one who is not admitted.
    pub(crate) fn vacate(&mut self) -> Vacated<M> {
        let peer = self.place.peer();
        let mut vacated = self.scopes.levels.release_class(self.place.class, peer);
        vacated.merge(self.scopes.levels.release_peer(peer));
        vacated
    }

    /// Lets go of the peer: for one of whom nothing is left.
    pub(crate) fn release_peer(&mut self) -> Vacated<M> {
        self.scopes.levels.release_peer(self.place.peer())
    }

    /// Whether the allow list covers whoever comes from `address`; for now, while the peer is not
    /// known.
    pub(crate) fn is_allowlisted(&self, address: Option<IpAddr>) -> bool {
        let levels = &self.scopes.levels;
        let peer = self.place.peer().and_then(|peer| levels.peers.get(peer));
        levels.limits.allow.covers(address, peer.map(|peer| peer.key()))
    }

    /// As [`is_allowlisted`](Self::is_allowlisted), of a peer that the connection is to be bound to.
    pub(crate) fn is_peer_allowlisted(
        &self,
        address: Option<IpAddr>,
        peer: Hashed<'_, [u8]>,
    ) -> bool {
        self.scopes.levels.limits.allow.covers(address, Some(peer.name))
    }

    /// Counts what was granted although a scope that only observes would have refused it.
    pub(crate) fn count_observed(&mut self, refused: &Refused) {
        self.scopes.observed.count(refused);
    }

    /// Whether the limit of a stream's memory has no objection to `requested` more.
    pub(crate) fn check_stream_memory(
        &self,
        in_use: u64,
        requested: u64,
        priority: Priority,
        excused: &Excused,
    ) -> Result<(), Shortfall> {
        let levels = &self.scopes.levels;
        if excused.own(Scope::Stream) {
            return Ok(());
        }
        let limits = &levels.limits.stream;
        Ok(limits.check_memory(Scope::Stream, in_use, requested, priority)?)
    }

    /// Whether `scope` refuses nothing.
    fn observes(&self, scope: Scope) -> bool {
        self.scopes.levels.limits.observe.contains(scope)
    }
}

/// The classes of streams.
impl<M: Clone> Line<'_, M> {
    /// Finds or makes the class that a stream is to be bound to, and holds it.
    pub(crate) fn hold_stream(&mut self, name: Hashed<'_, str>) -> ClassRef {
        let class = self.scopes.levels.hold_class(name);
        if let Some(peer) = self.place.peer() {
            self.scopes.levels.crossings.hold(class, peer, 1);
        }
        class
    }

    /// Whether a class that a stream is bound to has room.
    pub(crate) fn check_stream(
        &mut self,
        class: ClassRef,
        request: &Request,
        excused: &Excused,
    ) -> Result<(), Shortfall> {
        for at in self.stream_levels(class).into_iter().flatten() {
            check_one(&mut self.scopes.levels, at, request, excused)?;
        }
        Ok(())
    }

    /// Charges a class that a stream is bound to.
    pub(crate) fn charge_stream(&mut self, class: ClassRef, request: &Request) {
        for at in self.stream_levels(class).into_iter().flatten() {
            let Scopes { levels, observed, .. } = &mut *self.scopes;
            charge_one(levels, observed, at, request);
        }
    }

    /// Takes `less` off a class that a stream is bound to.
    pub(crate) fn credit_stream(&mut self, class: ClassRef, less: &Tally) {
        for at in self.stream_levels(class).into_iter().flatten() {
            self.scopes.levels.with(at, |level, bounds| level.sub(less, bounds));
        }
    }

    /// A stream lets go of its class.
    pub(crate) fn release_stream(&mut self, class: ClassRef) -> Vacated<M> {
        self.scopes.levels.release_class(Some(class), self.place.peer())
    }

    fn stream_levels(&self, class: ClassRef) -> [Option<LevelRef>; 2] {
        let part = self.place.peer().map(|peer| LevelRef::ClassPeer(class, peer));
        [part, Some(LevelRef::Class(class))]
    }
}

#[inline(always)]
pub(super) fn check<M>(
    rung: &Rung<'_, M>,
    request: &Request,
    observes: bool,
) -> Result<(), Shortfall> {
    let bounds = if observes { None } else { Some(rung.bounds) };
    let checked = request.check(rung.scope(), bounds, &rung.level.usage);
    checked.map_err(|refused| Shortfall { refused, level: Some(rung.at) })
}

/// Counts what the scopes that only observe would have refused.
#[cold]
fn observe<M>(
    levels: &mut Levels<M>,
    observed: &mut Refusals,
    own: &Tally,
    request: &Request,
    place: Place,
    standing: Standing,
) {
    observe_own(levels, observed, own, request);
    let observe = levels.limits.observe;
    levels.each(place, standing, |rung| observe_one(&rung, observe, request, observed));
}

/// Counts what a stream's own scope and the connection's would have refused if they did not observe.
pub(super) fn observe_own<M>(
    levels: &Levels<M>,
    observed: &mut Refusals,
    own: &Tally,
    request: &Request,
) {
    let observe = levels.limits.observe;
    if observe.contains(Scope::Stream)
        && request.usage.count(Lane::Streams) > 0
        && let Err(refused) =
            levels.limits.stream.check_counts(Scope::Stream, &Tally::default(), &request.usage)
    {
        observed.count(&refused);
    }
    if observe.contains(Scope::Connection)
        && let Err(refused) = request.check(Scope::Connection, Some(&levels.bounds.connection), own)
    {
        observed.count(&refused);
    }
}

/// Counts what one scope would have refused if it did not observe.
pub(super) fn observe_one<M>(
    rung: &Rung<'_, M>,
    observe: Observe,
    request: &Request,
    observed: &mut Refusals,
) {
    if observe.contains(rung.scope())
        && let Err(shortfall) = check(rung, request, false)
    {
        observed.count(&shortfall.refused);
    }
}

pub(super) fn check_one<M>(
    levels: &mut Levels<M>,
    at: LevelRef,
    request: &Request,
    excused: &Excused,
) -> Result<(), Shortfall> {
    let observes = excused.level(at);
    levels
        .with(at, |level, bounds| check(&Rung { at, level, bounds }, request, observes))
        .unwrap_or(Ok(()))
}

pub(super) fn charge_one<M>(
    levels: &mut Levels<M>,
    observed: &mut Refusals,
    at: LevelRef,
    request: &Request,
) {
    let observe = levels.limits.observe;
    levels.with(at, |level, bounds| {
        let rung = Rung { at, level, bounds };
        observe_one(&rung, observe, request, observed);
        rung.level.usage.add(&request.charged());
    });
}
