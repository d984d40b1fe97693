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
//! The [addresses](crate::subnet) that connections come from lie beside the scopes, for whoever
//! admits a connection or moves it asks both.
//!
//! **Promises.** No charge ever raises a scope above the limit in force at that instant, and a
//! request is refused only if a limit would really be exceeded. Both follow from how a charge is
//! made: under the tree's one lock it checks every scope it touches, then commits to all. Nothing
//! is ever rolled back, so nobody sees a charge that does not last; a bind, a change of limits and
//! a move between ordinary and allow-listed scopes are one step each.
//!
//! **Why one lock.** Every charge ends in a system scope, so locks for the scopes below it let no
//! two charges run at once; they only cost. (Tried: a lock a scope, in a fixed order. Admitting,
//! binding and closing a connection then took 22 locks instead of eight. A lock of their own for the
//! addresses: two more. Compare-exchange with roll-back: another request that runs in between is
//! refused although there is room.) What is done under the lock is short: no memory is mapped, no
//! waker woken, nothing dropped that runs anyone's code, and tables are split so that none takes long
//! to grow.
//!
//! **Pressure.** A scope lists the members (connections) that may hold idle cached memory. Before
//! a refusal the one who asks *presses* on the scope: from then on the scope is *tight*, nobody
//! starts to cache in it, and the listed members are swept one by one until the request fits or
//! the list is empty. An entry leaves the list in the same step that takes the member's idle
//! memory off the scope, so an empty list under pressure means that nothing idle is left. The
//! scope stays tight until its use falls below seven eighths of its limit and nobody presses.
//!
//! **Observing.** A scope that only observes never refuses; what it would have refused is counted
//! once, when it is charged. It is pressed on before, like any other: idle memory in its way is
//! swept, so that what is counted is what would really have been refused.
//!
//! This module knows neither connections nor memory: a member is whatever the caller lists.

mod classes;
mod level;
mod levels;
mod line;
mod moves;
mod peers;
mod plain;
mod refusals;
mod report;
mod request;

use std::net::IpAddr;
use std::num::NonZeroU8;
use std::time::Duration;

use crossbeam_utils::CachePadded;

use crate::error::{NameTooLong, Refused, Scope};
use crate::keyed::KeyedHasher;
use crate::limits::{Limits, ScopeLimits};
use crate::name::{MAX_NAME_BYTES, PeerKey};
use crate::subnet::{Address, Subnets};
use crate::sync::Mutex;
use crate::usage::Tally;
pub(crate) use classes::ClassRef;
pub use classes::OTHER_CLASSES;
use levels::Levels;
pub(crate) use levels::Vacated;
pub(crate) use line::{Excused, Line, Shortfall, StreamShare, Unmet};
pub(crate) use peers::PeerRef;
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
    levels: Levels<M>,
    subnets: Subnets,
    refusals: Refusals,
    observed: Refusals,
    /// Connections admitted ever, and so the id of the last.
    admitted: u64,
}

/// Which of the two systems something belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Realm {
    Ordinary,
    Allowlisted,
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

impl<M: Clone> Tree<M> {
    pub(crate) fn new(limits: Limits) -> Self {
        let hasher = KeyedHasher::random();
        Self {
            scopes: CachePadded::new(Mutex::new(Scopes {
                subnets: Subnets::new(&limits.subnets, hasher),
                levels: Levels::new(limits, hasher.hash(OTHER_CLASSES.as_bytes())),
                refusals: Refusals::default(),
                observed: Refusals::default(),
                admitted: 0,
            })),
            hasher,
        }
    }

    /// Prepares a peer's key.
    pub(crate) fn peer_key<'a>(&self, key: &'a [u8]) -> Result<Hashed<'a, [u8]>, NameTooLong> {
        Ok(Hashed { hash: self.hasher.hash(bounded(key)?), name: key })
    }

    /// Prepares a class's name.
    pub(crate) fn class_name<'a>(&self, name: &'a str) -> Result<Hashed<'a, str>, NameTooLong> {
        Ok(Hashed { hash: self.hasher.hash(bounded(name.as_bytes())?), name })
    }

    /// Prepares an address.
    #[inline]
    pub(crate) fn address(&self, address: IpAddr) -> Address {
        Address::new(address, &self.hasher)
    }

    /// Locks the scopes above a connection, and all others with them.
    #[inline]
    pub(crate) fn line(&self, place: Place, standing: Standing) -> Line<'_, M> {
        Line::new(self.scopes.lock(), place, standing)
    }

    /// What a peer that is held is called.
    pub(crate) fn peer_name(&self, peer: PeerRef) -> Option<PeerKey> {
        let scopes = self.scopes.lock();
        scopes.levels.peers.get(peer).map(|peer| PeerKey::of_bounded(peer.key()))
    }

    /// Locks the scopes above a connection that is to be admitted, and holds them.
    pub(crate) fn enter(
        &self,
        peer: Option<Hashed<'_, [u8]>>,
        class: Option<Hashed<'_, str>>,
    ) -> Line<'_, M> {
        let mut scopes = self.scopes.lock();
        let levels = &mut scopes.levels;
        let peer = peer.map(|peer| levels.hold_peer(peer));
        let class = class.map(|class| levels.hold_class(class));
        let place = Place::new(peer, class, Realm::Ordinary);
        if let (Some(class), Some(peer)) = (class, peer) {
            levels.crossings.hold(class, peer, 1);
        }
        Line::new(scopes, place, Standing::Present)
    }

    /// Replaces all limits in one step. Use above a new limit stays, and falls. `along` runs in the
    /// same step; it is told whether the allow-listed scopes are in use.
    pub(crate) fn set_limits(&self, limits: Limits, along: impl FnOnce(&Limits, bool)) {
        let mut scopes = self.scopes.lock();
        let addresses = scopes.subnets.set_limits(&limits.subnets);
        let replaced = scopes.levels.set_limits(limits, |key| self.hasher.hash(key));
        let levels = &scopes.levels;
        let allowlisted = &levels.realms[Realm::Allowlisted as usize].system.usage;
        along(&levels.limits, *allowlisted != Tally::default());
        drop(scopes);
        drop((addresses, replaced));
    }

    /// Gives one peer limits of its own, or takes them from it.
    pub(crate) fn set_peer_limits(
        &self,
        key: &PeerKey,
        limits: Option<ScopeLimits>,
    ) -> Option<ScopeLimits> {
        let hash = self.hasher.hash(key.as_bytes());
        self.scopes.lock().levels.set_peer_limits(hash, key, limits)
    }

    /// The limits in force.
    pub(crate) fn limits(&self) -> Limits {
        let limits = self.scopes.lock().levels.limits.clone();
        // The copy is made when the lock is let go.
        (*limits).clone()
    }

    /// The limits of a stream in force.
    pub(crate) fn stream_limits(&self) -> ScopeLimits {
        self.scopes.lock().levels.limits.stream
    }

    /// Whether an address has to be validated before a connection from there is admitted.
    pub(crate) fn should_validate(&self, address: IpAddr, now: Duration) -> bool {
        let address = self.address(address);
        let mut scopes = self.scopes.lock();
        let (validate, retired) = scopes.subnets.should_validate(address, now);
        drop(scopes);
        drop(retired);
        validate
    }

    /// Gives back what the limits by address no longer need, a little with each turn of the lock.
    pub(crate) fn maintain(&self, now: Duration) {
        let mut next = Some(0);
        while let Some(sketch) = next {
            let mut scopes = self.scopes.lock();
            let (then, retired) = scopes.subnets.maintain(sketch, now);
            drop(scopes);
            drop(retired);
            next = then;
        }
    }

    pub(crate) fn count_refusal(&self, refused: &Refused) {
        self.scopes.lock().refusals.count(refused);
    }

    /// Some member of a system that may hold idle memory, if there is any.
    pub(crate) fn first_caching(&self, realm: Realm) -> Option<M> {
        self.scopes.lock().levels.realms[realm as usize].system.first_caching()
    }

    /// Presses on a scope until the answer is dropped.
    pub(crate) fn press(&self, level: LevelRef) -> Pressure<'_, M> {
        let mut scopes = self.scopes.lock();
        let found = scopes.levels.hold(level);
        if found {
            scopes.levels.with(level, |level, _| {
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
        scopes.levels.with(self.level, |level, bounds| {
            level.pressing -= 1;
            level.relax(bounds);
        });
        let vacated = scopes.levels.release(self.level);
        drop(scopes);
        drop(vacated);
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
