//! The scope tree: who may use how much, and the one way to charge it.
//!
//! ```text
//! system ──┬── transient ── connection ── stream       before the peer is known
//!          ├── peer(key) ── connection ── stream       after `bind_peer`
//!          └── class(name) ─ ─ ─ ┘ ─ ─ ─ ─ ┘           optional second parent, and a third:
//!                └── class-per-peer ─ ─ ─ ─ ┘          the peer's part of that class
//!
//! allow-listed system ── allow-listed transient        what only the allow list admitted
//! ```
//!
//! **Promises.** No charge ever raises a scope above the limit in force at that instant, and a
//! request is refused only if a limit would really be exceeded. Both follow from how a charge is
//! made: under the tree's one lock it checks every scope it touches, then commits to all. Nothing
//! is ever rolled back, so nobody sees a charge that does not last; a bind, a change of limits and
//! a move between ordinary and allow-listed scopes are one step each.
//!
//! **Why one lock.** Every charge ends in a system scope, so locks for the scopes below it let no
//! two charges run at once; they only cost. (Tried: a lock a scope, in a fixed order. Admitting,
//! binding and closing a connection then took 22 locks instead of eight. Compare-exchange with
//! roll-back was tried too: another request that runs in between is refused although there is
//! room.) What is done under the lock is short: no memory is mapped, no waker woken, nothing
//! dropped that runs anyone's code, and tables are split so that none takes long to grow.
//!
//! **Pressure.** A scope lists the members (connections) that may hold idle cached memory. Before
//! a refusal the one who asks *presses* on the scope: from then on the scope is *tight*, nobody
//! starts to cache in it, and the listed members are swept one by one until the request fits or
//! the list is empty. An entry leaves the list in the same step that takes the member's idle
//! memory off the scope, so an empty list under pressure means that nothing idle is left. The
//! scope stays tight until its use falls below seven eighths of its limit and nobody presses.
//!
//! **Observing.** A scope that only observes never refuses; what it would have refused is counted
//! once, when it is charged.
//!
//! This module knows neither connections nor memory: a member is whatever the caller lists.

mod classes;
mod level;
mod line;
mod peers;
mod refusals;
mod report;
mod request;

use std::hash::BuildHasher;
use std::num::NonZeroU8;

use crossbeam_utils::CachePadded;

use crate::error::{NameTooLong, Refused, Scope};
use crate::keyed::{KeyedHasher, new_hasher};
use crate::limits::{Limits, ScopeLimits};
use crate::name::{MAX_NAME_BYTES, PeerKey};
use crate::sync::Mutex;
pub(crate) use classes::ClassRef;
pub use classes::OTHER_CLASSES;
use classes::{Class, Classes, Crossing, Crossings};
use level::Level;
pub(crate) use line::{Line, Shortfall, StreamShare};
pub(crate) use peers::PeerRef;
use peers::{Peer, Peers};
pub(crate) use refusals::Refusals;
pub(crate) use report::Seen;
pub(crate) use request::Request;

/// How many tables the scopes of peers are spread over.
#[cfg(not(leasehold_loom))]
const PARTS: usize = 64;
#[cfg(leasehold_loom)]
const PARTS: usize = 1;

/// Every scope of one governor. `M` is a member: what scopes list as holders of idle memory.
pub(crate) struct Tree<M> {
    hasher: KeyedHasher,
    scopes: CachePadded<Mutex<Scopes<M>>>,
}

/// What the lock guards.
struct Scopes<M> {
    limits: Limits,
    realms: [RealmScopes<M>; 2],
    peers: Peers<M>,
    classes: Classes<M>,
    crossings: Crossings<M>,
    refusals: Refusals,
    observed: Refusals,
    admitted: u64,
    next_id: u64,
}

/// Which of the two systems something belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Realm {
    Ordinary,
    Allowlisted,
}

struct RealmScopes<M> {
    system: Level<M>,
    transient: Level<M>,
}

/// Where a connection, or a stream with a class of its own, hangs in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// `None` while the peer is not known, in [parts](PeerRef::parts).
    peer_hash: u64,
    peer_nth: Option<NonZeroU8>,
    pub(crate) realm: Realm,
    pub(crate) class: Option<ClassRef>,
}

const _: () = assert!(size_of::<Place>() == 16);

/// Whether a connection still exists, or only memory that it left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Present,
    /// What a connection leaves behind counts for its peer and the system only: it fills neither
    /// the transient scope nor a class.
    Departed,
}

/// One scope, for as long as someone holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LevelRef {
    System(Realm),
    Transient(Realm),
    Peer(PeerRef),
    Class(ClassRef),
    ClassPeer(ClassRef, PeerRef),
}

/// A name with its hash, which is computed before the lock.
pub(crate) struct Hashed<'a, T: ?Sized> {
    hash: u64,
    name: &'a T,
}

impl<T: ?Sized> Clone for Hashed<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for Hashed<'_, T> {}

/// Scopes that nobody holds any more, to be dropped when no lock is held.
#[must_use = "a scope may not be dropped under the lock"]
pub(crate) struct Vacated<M>(Vec<Vacant<M>>);

enum Vacant<M> {
    Peer { _scope: Box<Peer<M>> },
    Class { _scope: Box<Class<M>> },
    Crossing { _scope: Box<Crossing<M>> },
}

impl Place {
    fn new(peer: Option<PeerRef>, class: Option<ClassRef>, realm: Realm) -> Self {
        let (peer_hash, peer_nth) = PeerRef::parts(peer);
        Self { peer_hash, peer_nth, realm, class }
    }

    #[inline]
    pub(crate) fn peer(self) -> Option<PeerRef> {
        PeerRef::from_parts(self.peer_hash, self.peer_nth)
    }

    pub(crate) fn set_peer(&mut self, peer: Option<PeerRef>) {
        (self.peer_hash, self.peer_nth) = PeerRef::parts(peer);
    }

    fn crossing(self) -> Option<LevelRef> {
        let (class, peer) = self.class.zip(self.peer())?;
        Some(LevelRef::ClassPeer(class, peer))
    }

    /// The scopes that count a connection, in the order in which they are asked.
    #[inline]
    fn levels(self, standing: Standing) -> impl Iterator<Item = LevelRef> {
        let system = Some(LevelRef::System(self.realm));
        let peer = self.peer().map(LevelRef::Peer);
        let levels = match standing {
            Standing::Present => {
                let parent = peer.or(Some(LevelRef::Transient(self.realm)));
                [parent, self.crossing(), self.class.map(LevelRef::Class), system]
            }
            Standing::Departed => [peer, None, None, system],
        };
        levels.into_iter().flatten()
    }

    fn has(self, level: LevelRef) -> bool {
        self.levels(Standing::Present).any(|own| own == level)
    }
}

impl LevelRef {
    #[inline]
    fn scope(self) -> Scope {
        match self {
            LevelRef::System(Realm::Ordinary) => Scope::System,
            LevelRef::System(Realm::Allowlisted) => Scope::AllowlistedSystem,
            LevelRef::Transient(Realm::Ordinary) => Scope::Transient,
            LevelRef::Transient(Realm::Allowlisted) => Scope::AllowlistedTransient,
            LevelRef::Peer(_) => Scope::Peer,
            LevelRef::Class(_) => Scope::Class,
            LevelRef::ClassPeer(..) => Scope::ClassPeer,
        }
    }
}

impl<M> Vacated<M> {
    pub(crate) fn none() -> Self {
        Self(Vec::new())
    }

    fn push(&mut self, vacant: Option<Vacant<M>>) {
        self.0.extend(vacant);
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

impl Limits {
    fn of_system(&self, realm: Realm) -> &ScopeLimits {
        match realm {
            Realm::Ordinary => &self.system,
            Realm::Allowlisted => &self.allowlisted_system,
        }
    }

    fn of_transient(&self, realm: Realm) -> &ScopeLimits {
        match realm {
            Realm::Ordinary => &self.transient,
            Realm::Allowlisted => &self.allowlisted_transient,
        }
    }
}

impl<M> RealmScopes<M> {
    fn new() -> Self {
        Self { system: Level::new(), transient: Level::new() }
    }
}

impl<M: Clone> Tree<M> {
    pub(crate) fn new(limits: Limits) -> Self {
        let hasher = new_hasher();
        Self {
            scopes: CachePadded::new(Mutex::new(Scopes {
                limits,
                realms: [RealmScopes::new(), RealmScopes::new()],
                peers: Peers::new(),
                classes: Classes::new(hasher.hash_one(OTHER_CLASSES.as_bytes())),
                crossings: Crossings::new(),
                refusals: Refusals::default(),
                observed: Refusals::default(),
                admitted: 0,
                next_id: 0,
            })),
            hasher,
        }
    }

    /// Prepares a peer's key.
    pub(crate) fn peer_key<'a>(&self, key: &'a [u8]) -> Result<Hashed<'a, [u8]>, NameTooLong> {
        Ok(Hashed { hash: self.hasher.hash_one(bounded(key)?), name: key })
    }

    /// Prepares a class's name.
    pub(crate) fn class_name<'a>(&self, name: &'a str) -> Result<Hashed<'a, str>, NameTooLong> {
        Ok(Hashed { hash: self.hasher.hash_one(bounded(name.as_bytes())?), name })
    }

    /// Locks the scopes above a connection, and all others with them.
    #[inline]
    pub(crate) fn line(&self, place: Place, standing: Standing) -> Line<'_, M> {
        Line::new(self.scopes.lock(), place, standing)
    }

    /// What a peer that is held is called.
    pub(crate) fn peer_name(&self, peer: PeerRef) -> Option<PeerKey> {
        self.scopes.lock().peers.get(peer).map(|peer| PeerKey::of_bounded(peer.key()))
    }

    /// The last one who held a peer for its orphans lets go of it.
    pub(crate) fn release_peer(&self, peer: PeerRef) {
        let vacated = self.scopes.lock().release_peer(Some(peer));
        drop(vacated);
    }

    /// Locks the scopes above a connection that is to be admitted, and holds them.
    pub(crate) fn enter(
        &self,
        peer: Option<Hashed<'_, [u8]>>,
        class: Option<Hashed<'_, str>>,
    ) -> Line<'_, M> {
        let mut scopes = self.scopes.lock();
        let peer = peer.map(|peer| scopes.hold_peer(peer));
        let class = class.map(|class| scopes.hold_class(class));
        let place = Place::new(peer, class, Realm::Ordinary);
        if let (Some(class), Some(peer)) = (class, peer) {
            scopes.crossings.hold(class, peer);
        }
        Line::new(scopes, place, Standing::Present)
    }

    /// Replaces the limits of the whole tree in one step. Use above a new limit stays, and falls.
    /// `along` runs in the same step.
    pub(crate) fn set_limits(&self, limits: Limits, along: impl FnOnce()) {
        let mut own = Vec::new();
        let mut scopes = self.scopes.lock();
        let old = std::mem::replace(&mut scopes.limits, limits);
        let Scopes { limits, peers, classes, .. } = &mut *scopes;
        for key in old.peers.keys().chain(limits.peers.keys()).map(PeerKey::as_bytes) {
            let found = peers.find(self.hasher.hash_one(key), key);
            if let Some(peer) = found.and_then(|at| peers.get_mut(at)) {
                own.extend(std::mem::replace(&mut peer.own, limits.own_of(key)));
            }
        }
        classes.set_limits(limits);
        along();
        drop(scopes);
        drop((old, own));
    }

    /// Gives one peer limits of its own, or takes them from it.
    pub(crate) fn set_peer_limits(
        &self,
        key: &PeerKey,
        limits: Option<ScopeLimits>,
    ) -> Option<ScopeLimits> {
        let hash = self.hasher.hash_one(key.as_bytes());
        let mut scopes = self.scopes.lock();
        let before = match limits {
            Some(limits) => scopes.limits.peers.insert(key.clone(), limits),
            None => scopes.limits.peers.remove(key),
        };
        if let Some(at) = scopes.peers.find(hash, key.as_bytes())
            && let Some(peer) = scopes.peers.get_mut(at)
        {
            peer.own = limits.map(Box::new);
        }
        before
    }

    /// The limits in force.
    pub(crate) fn limits(&self) -> Limits {
        self.scopes.lock().limits.clone()
    }

    /// The limits of a stream in force, and whether they are only observed.
    pub(crate) fn stream_limits(&self) -> (ScopeLimits, bool) {
        let scopes = self.scopes.lock();
        (scopes.limits.stream, scopes.limits.observe.contains(Scope::Stream))
    }

    pub(crate) fn count_refusal(&self, refused: &Refused) {
        self.scopes.lock().refusals.count(refused);
    }

    /// Counts what was granted although a scope that only observes would have refused it.
    pub(crate) fn count_observed(&self, refused: &Refused) {
        self.scopes.lock().observed.count(refused);
    }

    /// Some member of a system that may hold idle memory, if there is any.
    pub(crate) fn first_caching(&self, realm: Realm) -> Option<M> {
        self.scopes.lock().realms[realm as usize].system.first_caching()
    }

    /// Presses on a scope until the answer is dropped.
    pub(crate) fn press(&self, level: LevelRef) -> Pressure<'_, M> {
        let mut scopes = self.scopes.lock();
        let found = scopes.hold(level);
        if found {
            scopes.with(level, |level, _| {
                level.pressing += 1;
                level.tight = true;
            });
        }
        drop(scopes);
        Pressure { tree: self, level, found }
    }
}

/// While it lives, its scope stays tight: nobody starts to cache, and the list of those who do
/// only shrinks.
pub(crate) struct Pressure<'a, M: Clone> {
    tree: &'a Tree<M>,
    level: LevelRef,
    /// Whether the scope was still there, and is held. If not, neither is its idle memory.
    found: bool,
}

impl<M: Clone> Pressure<'_, M> {
    pub(crate) fn is_on(&self, level: LevelRef) -> bool {
        self.level == level
    }
}

impl<M: Clone> Drop for Pressure<'_, M> {
    fn drop(&mut self) {
        if !self.found {
            return;
        }
        let mut scopes = self.tree.scopes.lock();
        scopes.with(self.level, |level, limits| {
            level.pressing -= 1;
            level.relax(limits);
        });
        let vacated = scopes.release(self.level);
        drop(scopes);
        drop(vacated);
    }
}

impl<M> Scopes<M> {
    fn hold_peer(&mut self, peer: Hashed<'_, [u8]>) -> PeerRef {
        let Self { limits, peers, .. } = self;
        peers.hold(peer.hash, peer.name, || limits.own_of(peer.name))
    }

    fn hold_class(&mut self, class: Hashed<'_, str>) -> ClassRef {
        let Self { limits, classes, .. } = self;
        classes.hold(class.hash, class.name, limits)
    }

    /// Lets go of a class, and of the peer's part of it if the peer is known.
    fn release_class(&mut self, class: Option<ClassRef>, peer: Option<PeerRef>) -> Vacated<M> {
        let mut vacated = Vacated::none();
        if let Some(class) = class {
            if let Some(peer) = peer {
                vacated = self.release_crossing(class, peer);
            }
            let released = self.classes.release(class);
            vacated.push(released.map(|scope| Vacant::Class { _scope: scope }));
        }
        vacated
    }

    fn release_crossing(&mut self, class: ClassRef, peer: PeerRef) -> Vacated<M> {
        let mut vacated = Vacated::none();
        let released = self.crossings.release(class, peer);
        vacated.push(released.map(|scope| Vacant::Crossing { _scope: scope }));
        vacated
    }

    fn release_peer(&mut self, peer: Option<PeerRef>) -> Vacated<M> {
        let mut vacated = Vacated::none();
        let released = peer.and_then(|peer| self.peers.release(peer));
        vacated.push(released.map(|scope| Vacant::Peer { _scope: scope }));
        vacated
    }

    /// Holds a scope and those that it belongs to, if it is still there.
    fn hold(&mut self, level: LevelRef) -> bool {
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
                self.crossings.hold(class, peer);
            }
        }
        true
    }

    /// Lets go of what [`hold`](Self::hold) holds.
    fn release(&mut self, level: LevelRef) -> Vacated<M> {
        match level {
            LevelRef::System(_) | LevelRef::Transient(_) => Vacated::none(),
            LevelRef::Peer(peer) => self.release_peer(Some(peer)),
            LevelRef::Class(class) => self.release_class(Some(class), None),
            LevelRef::ClassPeer(class, peer) => {
                let mut vacated = self.release_class(Some(class), Some(peer));
                vacated.merge(self.release_peer(Some(peer)));
                vacated
            }
        }
    }

    /// Does something with one scope and its limits, if it is there.
    #[inline]
    fn with<R>(
        &mut self,
        level: LevelRef,
        f: impl FnOnce(&mut Level<M>, &ScopeLimits) -> R,
    ) -> Option<R> {
        let Self { limits, realms, peers, classes, crossings, .. } = self;
        Some(match level {
            LevelRef::System(realm) => {
                f(&mut realms[realm as usize].system, limits.of_system(realm))
            }
            LevelRef::Transient(realm) => {
                f(&mut realms[realm as usize].transient, limits.of_transient(realm))
            }
            LevelRef::Peer(peer) => {
                let Peer { level, own, .. } = peers.get_mut(peer)?;
                f(level, own.as_deref().unwrap_or(&limits.peer))
            }
            LevelRef::Class(class) => {
                let Class { level, limits, .. } = classes.get_mut(class)?;
                f(level, limits)
            }
            LevelRef::ClassPeer(class, peer) => {
                let limits = &classes.get(class)?.peer_limits;
                f(&mut crossings.get_mut(class, peer)?.level, limits)
            }
        })
    }
}

fn bounded(name: &[u8]) -> Result<&[u8], NameTooLong> {
    if name.len() > MAX_NAME_BYTES { Err(NameTooLong { len: name.len() }) } else { Ok(name) }
}

/// Which part a hash belongs to: bits that the table of a part does not use, which takes the lowest
/// and the top seven.
fn part_of(hash: u64) -> usize {
    (hash >> 40) as usize % PARTS
}
