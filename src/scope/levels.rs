//! Every scope, its limits beside it, and the way up from a connection.

use std::convert::Infallible;

use super::classes::{Class, ClassRef, Classes, Crossing, Crossings};
use super::level::Level;
use super::peers::{Peer, PeerRef, Peers, own_bounds};
use super::request::Bounds;
use super::{Hashed, LevelRef, Place, Realm, Standing};
use crate::error::Scope;
use crate::limits::{Limits, ScopeLimits};
use crate::name::PeerKey;
use crate::sync::Arc;

/// Every scope, and the limits of all.
pub(super) struct Levels<M> {
    /// Shared with nobody but those who are copying it.
    pub(super) limits: Arc<Limits>,
    pub(super) bounds: AllBounds,
    pub(super) realms: [RealmLevels<M>; 2],
    pub(super) peers: Peers<M>,
    pub(super) classes: Classes<M>,
    pub(super) crossings: Crossings<M>,
}

/// The limits of the scopes that always exist, and of a peer that has none of its own.
pub(super) struct AllBounds {
    pub(super) connection: Bounds,
    pub(super) peer: Bounds,
    realms: [RealmBounds; 2],
}

pub(super) struct RealmBounds {
    pub(super) system: Bounds,
    pub(super) transient: Bounds,
}

/// The scopes that each realm has of its own.
pub(super) struct RealmLevels<M> {
    pub(super) system: Level<M>,
    pub(super) transient: Level<M>,
}

/// A scope above a connection, with the limits in force.
pub(super) struct Rung<'a, M> {
    pub(super) at: LevelRef,
    pub(super) level: &'a mut Level<M>,
    pub(super) bounds: &'a Bounds,
}

/// Scopes that nobody holds any more, to be dropped when no lock is held.
#[must_use = "a scope may not be dropped under the lock"]
pub(crate) struct Vacated<M> {
    /// One peer, which is the usual case and takes no room elsewhere.
    peer: Option<Box<Peer<M>>>,
    others: Vec<Empty<M>>,
}

/// One such scope.
enum Empty<M> {
    Peer { _scope: Box<Peer<M>> },
    Class { _scope: Box<Class<M>> },
    Crossing { _scope: Box<Crossing<M>> },
}

impl<M> Levels<M> {
    pub(super) fn new(limits: Limits, other_hash: u64) -> Self {
        let realm = || RealmLevels { system: Level::new(), transient: Level::new() };
        Self {
            bounds: AllBounds::new(&limits),
            limits: Arc::new(limits),
            realms: [realm(), realm()],
            peers: Peers::new(),
            classes: Classes::new(other_hash),
            crossings: Crossings::new(),
        }
    }

    /// Visits the scopes that count a connection, in the order in which they are asked, until one
    /// objects.
    #[inline(always)]
    pub(super) fn climb<E>(
        &mut self,
        place: Place,
        standing: Standing,
        mut visit: impl FnMut(Rung<'_, M>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Self { bounds: all, realms, peers, classes, crossings, .. } = self;
        let of_realm = all.of(place.realm);
        let RealmLevels { system, transient } = &mut realms[place.realm as usize];
        match place.peer() {
            Some(at) => {
                if let Some(Peer { level, own, .. }) = peers.get_mut(at) {
                    let bounds = own.as_deref().unwrap_or(&all.peer);
                    visit(Rung { at: LevelRef::Peer(at), level, bounds })?;
                }
            }
            None if standing == Standing::Present => {
                let at = LevelRef::Transient(place.realm);
                visit(Rung { at, level: transient, bounds: &of_realm.transient })?;
            }
            None => {}
        }
        if let Some(at) = place.class
            && standing == Standing::Present
            && let Some(Class { level, bounds, peer_bounds, .. }) = classes.get_mut(at)
        {
            if let Some(peer) = place.peer()
                && let Some(Crossing { level, .. }) = crossings.get_mut(at, peer)
            {
                visit(Rung { at: LevelRef::ClassPeer(at, peer), level, bounds: peer_bounds })?;
            }
            visit(Rung { at: LevelRef::Class(at), level, bounds })?;
        }
        let at = LevelRef::System(place.realm);
        visit(Rung { at, level: system, bounds: &of_realm.system })
    }

    /// [Climbs](Self::climb) to the top.
    #[inline(always)]
    pub(super) fn each(
        &mut self,
        place: Place,
        standing: Standing,
        mut visit: impl FnMut(Rung<'_, M>),
    ) {
        let Ok(()) = self.climb(place, standing, |rung| {
            visit(rung);
            Ok::<_, Infallible>(())
        });
    }

    /// Does something with one scope and its limits, if it is there.
    pub(super) fn with<R>(
        &mut self,
        at: LevelRef,
        f: impl FnOnce(&mut Level<M>, &Bounds) -> R,
    ) -> Option<R> {
        let Self { bounds: all, realms, peers, classes, crossings, .. } = self;
        Some(match at {
            LevelRef::System(realm) => f(&mut realms[realm as usize].system, &all.of(realm).system),
            LevelRef::Transient(realm) => {
                f(&mut realms[realm as usize].transient, &all.of(realm).transient)
            }
            LevelRef::Peer(peer) => {
                let Peer { level, own, .. } = peers.get_mut(peer)?;
                f(level, own.as_deref().unwrap_or(&all.peer))
            }
            LevelRef::Class(class) => {
                let Class { level, bounds, .. } = classes.get_mut(class)?;
                f(level, bounds)
            }
            LevelRef::ClassPeer(class, peer) => {
                let bounds = &classes.get(class)?.peer_bounds;
                f(&mut crossings.get_mut(class, peer)?.level, bounds)
            }
        })
    }

    /// Takes over new limits, and answers what they replace.
    pub(super) fn set_limits(
        &mut self,
        limits: Limits,
        hash: impl Fn(&[u8]) -> u64,
    ) -> (Arc<Limits>, Vec<Option<Box<Bounds>>>) {
        let old = std::mem::replace(&mut self.limits, Arc::new(limits));
        self.bounds = AllBounds::new(&self.limits);
        let Self { limits, peers, classes, .. } = self;
        let mut own = Vec::new();
        for key in old.peers.keys().chain(limits.peers.keys()).map(PeerKey::as_bytes) {
            let found = peers.find(hash(key), key);
            if let Some(peer) = found.and_then(|at| peers.get_mut(at)) {
                own.push(std::mem::replace(&mut peer.own, own_bounds(limits, key)));
            }
        }
        classes.set_limits(limits);
        (old, own)
    }

    /// Gives one peer limits of its own, or takes them from it.
    pub(super) fn set_peer_limits(
        &mut self,
        hash: u64,
        key: &PeerKey,
        limits: Option<ScopeLimits>,
    ) -> Option<ScopeLimits> {
        if Arc::get_mut(&mut self.limits).is_none() {
            // Someone is copying them at this moment.
            self.limits = Arc::new((*self.limits).clone());
        }
        let own = &mut Arc::get_mut(&mut self.limits)?.peers;
        let before = match limits {
            Some(limits) => own.insert(key.clone(), limits),
            None => own.remove(key),
        };
        let found = self.peers.find(hash, key.as_bytes());
        if let Some(peer) = found.and_then(|at| self.peers.get_mut(at)) {
            peer.own = limits.map(|limits| Box::new(Bounds::new(limits)));
        }
        before
    }
}

impl<M> Rung<'_, M> {
    #[inline]
    pub(super) fn scope(&self) -> Scope {
        self.at.scope()
    }
}

/// Holding and letting go.
impl<M> Levels<M> {
    pub(super) fn hold_peer(&mut self, peer: Hashed<'_, [u8]>) -> PeerRef {
        let Self { limits, peers, .. } = self;
        peers.hold(peer.hash, peer.name, || own_bounds(limits, peer.name))
    }

    pub(super) fn hold_class(&mut self, class: Hashed<'_, str>) -> ClassRef {
        let Self { limits, classes, .. } = self;
        classes.hold(class.hash, class.name, limits)
    }

    /// Lets go of a class, and of the peer's part of it if the peer is known.
    pub(super) fn release_class(
        &mut self,
        class: Option<ClassRef>,
        peer: Option<PeerRef>,
    ) -> Vacated<M> {
        let mut vacated = Vacated::default();
        if let Some(class) = class {
            if let Some(peer) = peer {
                vacated.merge(self.release_crossing(class, peer, 1));
            }
            let released = self.classes.release(class);
            vacated.others.extend(released.map(|scope| Empty::Class { _scope: scope }));
        }
        vacated
    }

    pub(super) fn release_crossing(
        &mut self,
        class: ClassRef,
        peer: PeerRef,
        holders: u32,
    ) -> Vacated<M> {
        let mut vacated = Vacated::default();
        let released = self.crossings.release(class, peer, holders);
        vacated.others.extend(released.map(|scope| Empty::Crossing { _scope: scope }));
        vacated
    }

    pub(super) fn release_peer(&mut self, peer: Option<PeerRef>) -> Vacated<M> {
        Vacated::of_peer(peer.and_then(|peer| self.peers.release(peer)))
    }

    /// Holds a scope and those that it belongs to, if it is still there.
    pub(super) fn hold(&mut self, level: LevelRef) -> bool {
        if self.with(level, |_, _| ()).is_none() {
            return false;
        }
        match level {
            LevelRef::System(_) | LevelRef::Transient(_) => {}
            LevelRef::Peer(peer) => self.peers.hold_again(peer),
            LevelRef::Class(class) => self.classes.hold_again(class),
            LevelRef::ClassPeer(class, peer) => {
                self.peers.hold_again(peer);
                self.classes.hold_again(class);
                self.crossings.hold(class, peer, 1);
            }
        }
        true
    }

    /// Lets go of what [`hold`](Self::hold) holds.
    pub(super) fn release(&mut self, level: LevelRef) -> Vacated<M> {
        match level {
            LevelRef::System(_) | LevelRef::Transient(_) => Vacated::default(),
            LevelRef::Peer(peer) => self.release_peer(Some(peer)),
            LevelRef::Class(class) => self.release_class(Some(class), None),
            LevelRef::ClassPeer(class, peer) => {
                let mut vacated = self.release_class(Some(class), Some(peer));
                vacated.merge(self.release_peer(Some(peer)));
                vacated
            }
        }
    }
}

impl<M> Default for Vacated<M> {
    fn default() -> Self {
        Self::of_peer(None)
    }
}

impl<M> Vacated<M> {
    pub(super) fn of_peer(peer: Option<Box<Peer<M>>>) -> Self {
        Self { peer, others: Vec::new() }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        let Self { peer, others } = other;
        if self.peer.is_none() {
            self.peer = peer;
        } else {
            self.others.extend(peer.map(|scope| Empty::Peer { _scope: scope }));
        }
        if !others.is_empty() {
            self.others.extend(others);
        }
    }
}

impl AllBounds {
    #[inline]
    pub(super) fn of(&self, realm: Realm) -> &RealmBounds {
        &self.realms[realm as usize]
    }

    fn new(limits: &Limits) -> Self {
        let realm = |system, transient| RealmBounds {
            system: Bounds::new(system),
            transient: Bounds::new(transient),
        };
        Self {
            connection: Bounds::new(limits.connection),
            peer: Bounds::new(limits.peer),
            realms: [
                realm(limits.system, limits.transient),
                realm(limits.allowlisted_system, limits.allowlisted_transient),
            ],
        }
    }
}
