//! Moving a connection from one place in the tree to another: what it uses goes off the scopes that
//! it leaves and onto those that it enters, in one step, and those that it stays in see nothing.

use super::levels::{Levels, Vacated};
use super::line::{
    Excused, Line, Shortfall, StreamShare, charge_one, check, check_one, observe_one, observe_own,
};
use super::{Hashed, LevelRef, Place, Realm, Request, Scopes, Standing};
use crate::usage::Tally;

/// To a peer.
impl<M: Clone> Line<'_, M> {
    /// The place of the connection, and of its streams with it, once it is bound to `peer`, which is
    /// held from now on.
    pub(crate) fn hold_bound(
        &mut self,
        peer: Hashed<'_, [u8]>,
        realm: Realm,
        streams: &[StreamShare],
    ) -> Place {
        let levels = &mut self.scopes.levels;
        let held = levels.hold_peer(peer);
        if let Some(class) = self.place.class {
            levels.crossings.hold(class, held, 1);
        }
        for share in streams {
            levels.crossings.hold(share.class, held, share.streams);
        }
        Place::new(Some(held), self.place.class, realm)
    }

    /// Lets go of what [`hold_bound`](Self::hold_bound) holds.
    pub(crate) fn release_bound(&mut self, to: Place, streams: &[StreamShare]) -> Vacated<M> {
        let levels = &mut self.scopes.levels;
        let Some(held) = to.peer() else { return Vacated::default() };
        let mut vacated = levels.release_peer(Some(held));
        for share in streams {
            vacated.merge(levels.release_crossing(share.class, held, share.streams));
        }
        if let Some(class) = to.class {
            vacated.merge(levels.release_crossing(class, held, 1));
        }
        vacated
    }

    /// Whether a place that is [held](Self::hold_bound) has room for a connection that uses `own`,
    /// and for its streams.
    pub(crate) fn check_bind(
        &mut self,
        to: Place,
        own: &Tally,
        streams: &[StreamShare],
        excused: &Excused,
    ) -> Result<(), Shortfall> {
        let levels = &mut self.scopes.levels;
        let (moved, nothing) = (Request::new(*own), Request::new(Tally::default()));
        check_move(levels, self.place, to, &moved, &nothing, excused)?;
        parts(to, streams).try_for_each(|(at, part)| check_one(levels, at, &part, excused))
    }

    /// Moves the connection there, as has been [checked](Self::check_bind).
    pub(crate) fn bind(&mut self, to: Place, own: &Tally, streams: &[StreamShare], id: u64) {
        self.relocate(to, own, &Request::new(Tally::default()), id);
        let Scopes { levels, observed, .. } = &mut *self.scopes;
        for (at, part) in parts(to, streams) {
            charge_one(levels, observed, at, &part);
        }
    }
}

/// To another realm.
impl<M: Clone> Line<'_, M> {
    /// Whether the scopes of another realm have room for a connection that uses `own`, and all of
    /// them for `request`.
    pub(crate) fn check_realm(
        &mut self,
        realm: Realm,
        own: &Tally,
        request: &Request,
        excused: &Excused,
    ) -> Result<(), Shortfall> {
        let to = Place { realm, ..self.place };
        let moved =
            along(own, request).ok_or_else(|| Shortfall::from(request.refusal_of_all(to.realm)))?;
        check_move(&mut self.scopes.levels, self.place, to, &moved, request, excused)
    }

    /// Moves the connection there, as has been [checked](Self::check_realm), and charges `request`.
    pub(crate) fn change_realm(&mut self, realm: Realm, own: &Tally, request: &Request, id: u64) {
        self.relocate(Place { realm, ..self.place }, own, request, id);
    }
}

impl<M: Clone> Line<'_, M> {
    /// Moves what uses `own`, and if it is listed as a member that may cache, that too; and charges
    /// `request`. A scope that only observes counts both as one.
    fn relocate(&mut self, to: Place, own: &Tally, request: &Request, id: u64) {
        let from = std::mem::replace(&mut self.place, to);
        let Scopes { levels, observed, .. } = &mut *self.scopes;
        let observe = levels.limits.observe;
        let moved = along(own, request).expect("what is moved has been checked");
        let mut member = None;
        levels.each(from, Standing::Present, |rung| {
            if differs(rung.at, from, to) {
                rung.level.sub(own, rung.bounds);
                if let Some(listed) = rung.level.unlist(id) {
                    member = Some(listed);
                }
            }
        });
        observe_own(levels, observed, own, request);
        levels.each(to, Standing::Present, |rung| {
            let asked = if differs(rung.at, from, to) { &moved } else { request };
            observe_one(&rung, observe, asked, observed);
            rung.level.usage.add(&asked.charged());
            if differs(rung.at, from, to)
                && let Some(member) = &member
            {
                rung.level.list(id, member.clone());
            }
        });
    }
}

/// What a scope is asked for that a connection enters which uses `own`, and asks for more. `None`: it
/// cannot be counted.
fn along(own: &Tally, request: &Request) -> Option<Request> {
    let usage = own.checked_add(&request.charged())?;
    Some(Request { usage, idle_bytes: 0, ..*request })
}

/// Whether `moved` fits where it does not hang yet, and `request` where it does.
fn check_move<M>(
    levels: &mut Levels<M>,
    from: Place,
    to: Place,
    moved: &Request,
    request: &Request,
    excused: &Excused,
) -> Result<(), Shortfall> {
    levels.climb(to, Standing::Present, |rung| {
        let asked = if differs(rung.at, from, to) { moved } else { request };
        check(&rung, asked, excused.level(rung.at))
    })
}

/// Whether `to` has what `from` has not, or the other way round.
fn differs(at: LevelRef, from: Place, to: Place) -> bool {
    match at {
        LevelRef::System(_) => from.realm != to.realm,
        LevelRef::Transient(_) => from.realm != to.realm || from.peer() != to.peer(),
        LevelRef::Peer(_) | LevelRef::ClassPeer(..) => from.peer() != to.peer(),
        LevelRef::Class(_) => from.class != to.class,
    }
}

/// The parts of the classes of streams that the peer of a place will have.
fn parts(to: Place, streams: &[StreamShare]) -> impl Iterator<Item = (LevelRef, Request)> {
    let peer = to.peer();
    streams.iter().filter_map(move |share| {
        Some((LevelRef::ClassPeer(share.class, peer?), Request::new(share.usage)))
    })
}
