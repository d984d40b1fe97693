//! The usual life of a connection, in few steps: it comes in while its peer is not known, is bound
//! to one, and ends without leaving anything behind; it has no class, its streams have none, and no
//! scope only observes.
//!
//! Each step does exactly what its general counterpart in [`line`](super::line) does, or nothing at
//! all and says so; then that one has to be asked. They are worth having apart: an admission, a bind
//! and a close together take half as long this way.

use super::levels::{Levels, Vacated};
use super::{Hashed, Line, Place, Request};
use crate::usage::Tally;

impl<M: Clone> Line<'_, M> {
    /// As [`check`](Self::check) and [`charge`](Self::charge), of a connection that uses nothing
    /// yet. `false`: nothing has changed.
    #[inline]
    pub(crate) fn try_admit_plainly(&mut self, request: &Request) -> bool {
        let Levels { limits, bounds, realms, .. } = &mut self.scopes.levels;
        let place = self.place;
        if place.class.is_some() || place.peer().is_some() || !limits.observe.is_none() {
            return false;
        }
        let (levels, of_realm) = (&mut realms[place.realm as usize], bounds.of(place.realm));
        let fits = request.fits(&bounds.connection, &Tally::default())
            && request.fits(&of_realm.transient, &levels.transient.usage)
            && request.fits(&of_realm.system, &levels.system.usage);
        if fits {
            levels.transient.usage.add(&request.usage);
            levels.system.usage.add(&request.usage);
        }
        fits
    }

    /// As [`bind`](Self::bind), of a connection without streams that have a class. `false`: nothing
    /// has changed.
    #[inline]
    pub(crate) fn try_bind_plainly(
        &mut self,
        peer: Hashed<'_, [u8]>,
        own: &Tally,
        id: u64,
    ) -> bool {
        let Levels { limits, bounds, realms, peers, .. } = &mut self.scopes.levels;
        let place = self.place;
        if place.class.is_some() || !limits.observe.is_none() {
            return false;
        }
        let request = Request::new(*own);
        let bound = peers.hold_if(peer.hash, peer.name, limits, |scope| {
            let fits = request.fits(scope.bounds(&bounds.peer), &scope.level.usage);
            if fits {
                scope.level.usage.add(own);
                let transient = &mut realms[place.realm as usize].transient;
                transient.sub(own, &bounds.of(place.realm).transient);
                if let Some(member) = transient.unlist(id) {
                    scope.level.list(id, member);
                }
            }
            fits
        });
        if let Some(at) = bound {
            self.place = Place::new(Some(at), None, place.realm);
        }
        bound.is_some()
    }

    /// As [`depart`](Self::depart), of a connection that leaves nothing behind. `None`: nothing has
    /// changed.
    #[inline]
    pub(super) fn try_depart_plainly(&mut self, ended: &Tally) -> Option<Vacated<M>> {
        let Levels { bounds, realms, peers, .. } = &mut self.scopes.levels;
        let place = self.place;
        if place.class.is_some() {
            return None;
        }
        let (levels, of_realm) = (&mut realms[place.realm as usize], bounds.of(place.realm));
        levels.system.sub(ended, &of_realm.system);
        Some(match place.peer() {
            Some(peer) => Vacated::of_peer(peers.release_after(peer, |scope| {
                let bounds = scope.own.as_deref().unwrap_or(&bounds.peer);
                scope.level.sub(ended, bounds);
            })),
            None => {
                levels.transient.sub(ended, &of_realm.transient);
                Vacated::default()
            }
        })
    }
}
