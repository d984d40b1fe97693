//! The scopes above one connection, while the tree is locked.

use std::net::IpAddr;

use super::{ClassRef, Hashed, LevelRef, Place, Realm, Request, Scopes, Standing, Vacated};
use crate::error::{Refused, Scope};
use crate::limits::ScopeLimits;
use crate::sync::MutexGuard;
use crate::usage::Usage;

/// Every scope above one connection, locked.
pub(crate) struct Line<'a, M> {
    scopes: MutexGuard<'a, Scopes<M>>,
    place: Place,
    standing: Standing,
}

/// A scope that has no room.
#[derive(Clone, Copy)]
pub(crate) struct Shortfall {
    pub(crate) refused: Refused,
    /// `None` where it is the connection's own scope or a stream's class.
    pub(crate) level: Option<LevelRef>,
}

/// The charges of a connection's streams to one class that is not the connection's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamShare {
    pub(crate) class: ClassRef,
    pub(crate) usage: Usage,
    /// How many streams hold the class.
    pub(crate) streams: u32,
}

impl<'a, M: Clone> Line<'a, M> {
    #[inline]
    pub(super) fn new(scopes: MutexGuard<'a, Scopes<M>>, place: Place, standing: Standing) -> Self {
        Self { scopes, place, standing }
    }

    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// Whether every scope has room, beginning with the connection's own, which uses `own`.
    #[inline]
    pub(crate) fn check(&mut self, own: &Usage, request: &Request) -> Result<(), Shortfall> {
        self.scopes.check_connection(own, request)?;
        for level in self.place.levels(self.standing) {
            self.scopes.check(level, request)?;
        }
        Ok(())
    }

    /// Charges every scope, which has been [checked](Self::check).
    #[inline]
    pub(crate) fn charge(&mut self, own: &Usage, request: &Request) {
        if !self.scopes.limits.observe.is_none() {
            self.scopes.observe_connection(own, request);
        }
        for level in self.place.levels(self.standing) {
            self.scopes.charge(level, request);
        }
    }

    /// Takes `less` off every scope.
    #[inline]
    pub(crate) fn credit(&mut self, less: &Usage) {
        for level in self.place.levels(self.standing) {
            self.scopes.credit(level, less);
        }
    }

    /// Ends the connection: `ended` goes off every scope, and what it leaves behind off those that
    /// [do not count it](Standing::Departed). The scopes that nobody needs any more are let go of.
    #[must_use = "a scope may not be dropped under the lock"]
    pub(crate) fn depart(&mut self, ended: &Usage, left_behind: &Usage) -> Vacated<M> {
        let mut all = *ended;
        all.add(left_behind);
        for level in self.place.levels(Standing::Present) {
            let stays = self.place.levels(Standing::Departed).any(|kept| kept == level);
            self.scopes.credit(level, if stays { ended } else { &all });
        }
        let mut vacated = self.scopes.release_class(self.place.class, self.place.peer());
        if left_behind.memory == 0 {
            vacated.merge(self.scopes.release_peer(self.place.peer()));
        }
        vacated
    }

    /// Lets go of the scopes that the place holds: for one who was not admitted.
    #[must_use = "a scope may not be dropped under the lock"]
    pub(crate) fn vacate(&mut self) -> Vacated<M> {
        let mut vacated = self.scopes.release_class(self.place.class, self.place.peer());
        vacated.merge(self.scopes.release_peer(self.place.peer()));
        vacated
    }

    /// Moves a connection that uses `own` to the scope of `peer`, in one step. It stays in its
    /// realm if the allow list has no objection, or else moves to the ordinary one.
    pub(crate) fn bind(
        &mut self,
        peer: Hashed<'_, [u8]>,
        own: &Usage,
        realm: Realm,
        streams: &[StreamShare],
        id: u64,
    ) -> Result<(), (Shortfall, Vacated<M>)> {
        let held = self.scopes.hold_peer(peer);
        let to = Place::new(Some(held), self.place.class, realm);
        if let Some(class) = to.class {
            self.scopes.crossings.hold(class, held);
        }
        for share in streams {
            self.scopes.crossings.hold_many(share.class, held, share.streams);
        }
        let shares = |share: &StreamShare| (LevelRef::ClassPeer(share.class, held), share.usage);
        let moved = self.scopes.check_move(self.place, to, &Request::new(*own)).and_then(|()| {
            let mut shares = streams.iter().map(shares);
            shares.try_for_each(|(level, usage)| self.scopes.check(level, &Request::new(usage)))
        });
        if let Err(shortfall) = moved {
            let mut vacated = Vacated::none();
            for share in streams {
                for _ in 0..share.streams {
                    vacated.merge(self.scopes.release_crossing(share.class, held));
                }
            }
            if let Some(class) = to.class {
                vacated.merge(self.scopes.release_crossing(class, held));
            }
            vacated.merge(self.scopes.release_peer(Some(held)));
            return Err((shortfall, vacated));
        }
        self.scopes.relocate(self.place, to, own, id);
        for (level, usage) in streams.iter().map(shares) {
            self.scopes.charge(level, &Request::new(usage));
        }
        self.place = to;
        Ok(())
    }

    /// Moves the connection, which uses `own`, to the scopes of another realm, if they have room
    /// for that and for `request`.
    pub(crate) fn change_realm(
        &mut self,
        realm: Realm,
        own: &Usage,
        request: &Request,
        id: u64,
    ) -> Result<(), Shortfall> {
        let to = Place { realm, ..self.place };
        let mut all = *own;
        all.add(&request.usage);
        self.scopes.check_move(self.place, to, &Request { usage: all, ..*request })?;
        self.scopes.relocate(self.place, to, own, id);
        self.place = to;
        Ok(())
    }

    /// Whether the allow list covers whoever comes from `address`; for now, while the peer is not
    /// known.
    pub(crate) fn is_allowlisted(&self, address: Option<IpAddr>) -> bool {
        let peer = self.place.peer().and_then(|peer| self.scopes.peers.get(peer));
        self.scopes.limits.allow.covers(address, peer.map(|peer| peer.key()))
    }

    /// As [`is_allowlisted`](Self::is_allowlisted), of a peer that the connection is to be bound to.
    pub(crate) fn is_peer_allowlisted(
        &self,
        address: Option<IpAddr>,
        peer: Hashed<'_, [u8]>,
    ) -> bool {
        self.scopes.limits.allow.covers(address, Some(peer.name))
    }

    /// One who is about to be admitted tries the allow-listed scopes.
    pub(crate) fn enter_allowlisted(&mut self) {
        self.place.realm = Realm::Allowlisted;
    }

    /// Counts an admission, and answers an id that no connection of the governor ever had.
    pub(crate) fn admit(&mut self) -> u64 {
        self.scopes.admitted += 1;
        self.scopes.next_id += 1;
        self.scopes.next_id
    }

    /// Counts what was granted although a scope that only observes would have refused it.
    pub(crate) fn count_observed(&mut self, refused: &Refused) {
        self.scopes.observed.count(refused);
    }

    /// Whether `scope` refuses nothing.
    pub(crate) fn observes(&self, scope: Scope) -> bool {
        self.scopes.limits.observe.contains(scope)
    }

    /// A member whose idle memory might make room in the scope that has none. The scope becomes
    /// tight.
    pub(crate) fn victim(&mut self, shortfall: &Shortfall) -> Option<(LevelRef, M)> {
        let level = shortfall.level?;
        let victim = self.scopes.with(level, |level, _| level.victim(&shortfall.refused))??;
        Some((level, victim))
    }

    /// Whether any scope of the line is tight, so that nothing idle may be kept.
    #[inline]
    pub(crate) fn is_tight(&mut self) -> bool {
        let mut levels = self.place.levels(self.standing);
        levels.any(|level| self.scopes.with(level, |level, _| level.tight) == Some(true))
    }

    /// Lists a member in every scope of the line as one that may hold idle memory.
    pub(crate) fn list(&mut self, id: u64, member: &M) {
        for level in self.place.levels(self.standing) {
            self.scopes.with(level, |level, _| level.list(id, member.clone()));
        }
    }

    /// Takes a member off the lists. What comes back is dropped after the lock.
    #[must_use = "a member may not be dropped under a lock"]
    pub(crate) fn unlist(&mut self, id: u64) -> [Option<M>; 4] {
        let mut unlisted = [const { None }; 4];
        for (level, unlisted) in self.place.levels(self.standing).zip(&mut unlisted) {
            *unlisted = self.scopes.with(level, |level, _| level.unlist(id)).flatten();
        }
        unlisted
    }
}

/// The classes of streams.
impl<M: Clone> Line<'_, M> {
    /// Charges a stream of the connection to a class, which is then held; `None` if it is the
    /// connection's own, which the stream is charged to already.
    pub(crate) fn bind_stream(
        &mut self,
        name: Hashed<'_, str>,
        usage: &Usage,
    ) -> Result<Option<ClassRef>, (Refused, Vacated<M>)> {
        let class = self.scopes.hold_class(name);
        if let Some(peer) = self.place.peer() {
            self.scopes.crossings.hold(class, peer);
        }
        let own = self.place.class == Some(class);
        if !own && let Err(refused) = self.check_stream(class, &Request::new(*usage)) {
            return Err((refused, self.scopes.release_class(Some(class), self.place.peer())));
        }
        if own {
            // Held by the connection as well, so this is not the last.
            let _none = self.scopes.release_class(Some(class), self.place.peer());
            return Ok(None);
        }
        self.charge_stream(class, &Request::new(*usage));
        Ok(Some(class))
    }

    /// Whether a class that a stream is bound to has room.
    pub(crate) fn check_stream(
        &mut self,
        class: ClassRef,
        request: &Request,
    ) -> Result<(), Refused> {
        for level in self.stream_levels(class) {
            self.scopes.check(level, request).map_err(|shortfall| shortfall.refused)?;
        }
        Ok(())
    }

    /// Charges a class that a stream is bound to.
    pub(crate) fn charge_stream(&mut self, class: ClassRef, request: &Request) {
        for level in self.stream_levels(class) {
            self.scopes.charge(level, request);
        }
    }

    /// Takes `less` off a class that a stream is bound to.
    pub(crate) fn credit_stream(&mut self, class: ClassRef, less: &Usage) {
        for level in self.stream_levels(class) {
            self.scopes.credit(level, less);
        }
    }

    /// A stream lets go of its class.
    #[must_use = "a scope may not be dropped under the lock"]
    pub(crate) fn release_stream(&mut self, class: ClassRef) -> Vacated<M> {
        self.scopes.release_class(Some(class), self.place.peer())
    }

    fn stream_levels(&self, class: ClassRef) -> impl Iterator<Item = LevelRef> + use<M> {
        let part = self.place.peer().map(|peer| LevelRef::ClassPeer(class, peer));
        part.into_iter().chain([LevelRef::Class(class)])
    }
}

impl<M: Clone> Scopes<M> {
    #[inline]
    fn check_connection(&self, own: &Usage, request: &Request) -> Result<(), Shortfall> {
        let observes = self.limits.observe.contains(Scope::Connection);
        let limits = if observes { &ScopeLimits::UNLIMITED } else { &self.limits.connection };
        let checked = request.check(Scope::Connection, limits, own);
        checked.map_err(|refused| Shortfall { refused, level: None })
    }

    #[inline]
    fn check(&mut self, at: LevelRef, request: &Request) -> Result<(), Shortfall> {
        let scope = at.scope();
        let observes = self.limits.observe.contains(scope);
        let checked = self.with(at, |level, limits| {
            let limits = if observes { &ScopeLimits::UNLIMITED } else { limits };
            request.check(scope, limits, &level.usage)
        });
        match checked {
            Some(Err(refused)) => Err(Shortfall { refused, level: Some(at) }),
            Some(Ok(())) | None => Ok(()),
        }
    }

    #[inline]
    fn charge(&mut self, at: LevelRef, request: &Request) {
        if self.limits.observe.contains(at.scope()) {
            self.observe(at, request);
        }
        self.with(at, |level, _| level.usage.add(&request.charged()));
    }

    #[inline]
    fn credit(&mut self, at: LevelRef, less: &Usage) {
        self.with(at, |level, limits| level.sub(less, limits));
    }

    /// Counts what a scope would have refused.
    #[cold]
    fn observe(&mut self, at: LevelRef, request: &Request) {
        let checked =
            self.with(at, |level, limits| request.check(at.scope(), limits, &level.usage));
        if let Some(Err(refused)) = checked {
            self.observed.count(&refused);
        }
    }

    #[cold]
    fn observe_connection(&mut self, own: &Usage, request: &Request) {
        if self.limits.observe.contains(Scope::Connection)
            && let Err(refused) = request.check(Scope::Connection, &self.limits.connection, own)
        {
            self.observed.count(&refused);
        }
    }

    /// Whether it fits where it does not hang yet.
    fn check_move(&mut self, from: Place, to: Place, request: &Request) -> Result<(), Shortfall> {
        for level in to.levels(Standing::Present) {
            if !from.has(level) {
                self.check(level, request)?;
            }
        }
        Ok(())
    }

    /// Moves what uses `own`, and if it is listed as a member that may cache, that too.
    fn relocate(&mut self, from: Place, to: Place, own: &Usage, id: u64) {
        let request = Request::new(*own);
        let mut member = None;
        for level in from.levels(Standing::Present) {
            if !to.has(level) {
                self.credit(level, own);
                let unlisted = self.with(level, |level, _| level.unlist(id)).flatten();
                member = member.or(unlisted);
            }
        }
        for level in to.levels(Standing::Present) {
            if !from.has(level) {
                self.charge(level, &request);
                if let Some(member) = &member {
                    self.with(level, |level, _| level.list(id, member.clone()));
                }
            }
        }
    }
}
