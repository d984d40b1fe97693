//! The scope tree: how much everything may use, and the one way to charge it.
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
//! The [addresses](crate::subnet) that connections come from lie beside the scopes: an admission, and
//! a move of a connection, asks both.
//!
//! **Promises.** No charge ever raises a scope above the limit in force at that instant, and a
//! request is refused only if a limit would really be exceeded. Both follow from how a charge is
//! made: under the tree's one lock it checks every scope it touches, then commits to all. Nothing
//! is ever rolled back, so no thread sees a charge that does not last; a bind, a change of limits and
//! a move between ordinary and allow-listed scopes are one step each.
//!
//! **Why one lock.** Every charge ends in a system scope, so locks for the scopes below it let no
//! two charges run at once; they only cost. (Tried: a lock for each scope, in a fixed order.
//! Admitting, binding and closing a connection then took 22 locks instead of eight. A lock of their
//! own for the addresses: two more. Compare-exchange with roll-back: another request that runs in
//! between is refused although there is room.) What is done under the lock is short: no memory is
//! mapped, no waker woken, nothing dropped that runs a user's code, and tables are split so that no
//! part takes long to grow. What takes longer, a report or a change of limits, works in pieces.
//!
//! **Idle blocks.** A scope lists the connections (*members*) that may keep idle blocks, and knows how
//! much lies in blocks that could be idle: no reclaiming brings more. What a request is short of it
//! takes at once, under the lock, if one member has as much idle. Else it counts what lies idle below,
//! and is refused if that is too little. Only if several members have to give something it
//! *reclaims*: it takes the idle blocks of one member after the other until it fits. Meanwhile no
//! connection below starts to keep blocks.
//!
//! **Observing.** A scope that only observes never refuses; what it would have refused is counted
//! once, when it is charged, unless idle blocks would have covered it.
//!
//! This module knows neither connections nor memory: a member is what the caller lists.

mod charge;
mod demand;
mod members;
mod named;
mod node;
mod nodes;
mod refusals;
mod report;
mod scopes;
mod table;

use std::net::IpAddr;
use std::time::Duration;

use crossbeam_utils::CachePadded;

use crate::error::{NameTooLong, Scope};
use crate::keyed::KeyedHasher;
use crate::limits::{Limits, ScopeLimits};
use crate::name::PeerKey;
use crate::ranges::MAX_NAME_BYTES;
use crate::subnet::{Address, Change, Progress, Subnets};
use crate::sync::{Arc, Mutex, TreeGuard, TreeMutex};
pub(crate) use charge::{Charge, Shortfall, StreamCharge, StreamShare};
pub(crate) use demand::Demand;
use members::FEW;
pub(crate) use members::{Idle, Member, OwnBlocks, OwnIdle, Relief};
pub(crate) use named::NameRef;
use named::Names;
use nodes::Nodes;
pub(crate) use refusals::Refusals;
pub(crate) use scopes::Scopes;

/// Every scope of one governor.
pub(crate) struct Tree<M> {
    hasher: KeyedHasher,
    scopes: CachePadded<TreeMutex<Scopes<M>>>,
    /// Serializes changes of all limits; acquired before the tree's lock.
    changing: Mutex<()>,
}

/// Ordinary traffic, and traffic that only the allow list admitted, have a system each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Partition {
    Ordinary,
    Allowlisted,
}

impl Partition {
    pub(crate) fn system(self) -> Scope {
        ScopeRef::System(self).scope()
    }
}

/// The scopes above a connection, or above what a connection that is gone left behind: that counts for
/// its peer and the system only, and fills neither the transient scope nor a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parents {
    /// The peer's [`NameRef`], or zero, and the marks below.
    peer: u64,
    pub(crate) class: Option<NameRef>,
}

const ALLOWLISTED: u64 = 1 << 48;
const DEPARTED: u64 = 1 << 49;

const _: () = assert!(NameRef::FREE_BITS == ALLOWLISTED | DEPARTED);
const _: () = assert!(size_of::<Parents>() == 16);

/// One scope, for as long as something holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScopeRef {
    System(Partition),
    Transient(Partition),
    Named(Names),
}

/// A connection has at most one scope of each rank above it. They are asked in this order.
#[derive(Clone, Copy, Debug)]
#[repr(usize)]
enum Rank {
    PeerOrTransient,
    ClassPeer,
    Class,
    System,
}

const RANKS: usize = 4;

/// A name with its hash, which is computed before the lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named<'a> {
    hash: u64,
    name: &'a [u8],
}

impl<'a> Named<'a> {
    pub(crate) fn new(name: &'a [u8], hasher: &KeyedHasher) -> Result<Self, NameTooLong> {
        if name.len() > MAX_NAME_BYTES {
            return Err(NameTooLong { len: name.len() });
        }
        Ok(Self { hash: hasher.hash(name), name })
    }
}

impl Parents {
    fn new(peer: Option<NameRef>, class: Option<NameRef>, partition: Partition) -> Self {
        Self { peer: peer.map_or(0, NameRef::bits), class }.within(partition)
    }

    /// The same in another partition.
    pub(crate) fn within(self, partition: Partition) -> Self {
        let mark = if partition == Partition::Allowlisted { ALLOWLISTED } else { 0 };
        Self { peer: self.peer & !ALLOWLISTED | mark, ..self }
    }

    #[inline]
    pub(crate) fn partition(self) -> Partition {
        if self.peer & ALLOWLISTED == 0 { Partition::Ordinary } else { Partition::Allowlisted }
    }

    #[inline]
    pub(crate) fn peer(self) -> Option<NameRef> {
        NameRef::from_bits(self.peer & !NameRef::FREE_BITS)
    }

    /// Those of what a connection leaves behind, if that is anything.
    fn departed(self, leaves_memory: bool) -> Self {
        let peer = self.peer().filter(|_| leaves_memory);
        let departed = Self::new(peer, None, self.partition());
        Self { peer: departed.peer | DEPARTED, ..departed }
    }

    #[inline]
    fn are_departed(self) -> bool {
        self.peer & DEPARTED != 0
    }
}

impl ScopeRef {
    #[inline]
    fn scope(self) -> Scope {
        match self {
            ScopeRef::System(Partition::Ordinary) => Scope::System,
            ScopeRef::System(Partition::Allowlisted) => Scope::AllowlistedSystem,
            ScopeRef::Transient(Partition::Ordinary) => Scope::Transient,
            ScopeRef::Transient(Partition::Allowlisted) => Scope::AllowlistedTransient,
            ScopeRef::Named(Names { class: None, .. }) => Scope::Peer,
            ScopeRef::Named(Names { class: Some(_), peer: None }) => Scope::Class,
            ScopeRef::Named(Names { class: Some(_), peer: Some(_) }) => Scope::ClassPeer,
        }
    }

    #[inline]
    fn rank(self) -> Rank {
        match self.scope() {
            Scope::ClassPeer => Rank::ClassPeer,
            Scope::Class => Rank::Class,
            Scope::System | Scope::AllowlistedSystem => Rank::System,
            _ => Rank::PeerOrTransient,
        }
    }

    /// Whether a move between two places changes this scope.
    #[inline]
    fn differs(self, from: Parents, to: Parents) -> bool {
        let partitions_differ = from.partition() != to.partition();
        match self {
            ScopeRef::System(_) => partitions_differ,
            ScopeRef::Transient(_) => partitions_differ || from.peer() != to.peer(),
            ScopeRef::Named(Names { peer: Some(_), .. }) => from.peer() != to.peer(),
            ScopeRef::Named(_) => from.class != to.class,
        }
    }

    /// Whether it counts what a connection leaves behind.
    fn counts_departed(self) -> bool {
        match self {
            ScopeRef::System(_) => true,
            ScopeRef::Transient(_) => false,
            ScopeRef::Named(names) => names.class.is_none(),
        }
    }

    /// Whether the idle blocks of a connection below `parents` are charged here.
    pub(crate) fn counts(self, parents: Parents) -> bool {
        match self {
            ScopeRef::Named(Names { class: Some(class), .. }) => parents.class == Some(class),
            _ => true,
        }
    }
}

impl<M: Member> Tree<M> {
    pub(crate) fn new(limits: Limits, hasher: KeyedHasher) -> Self {
        let subnets = Subnets::new(&limits.subnets, hasher);
        let scopes = Scopes::new(Nodes::new(limits), subnets);
        Self { scopes: CachePadded::new(TreeMutex::new(scopes)), hasher, changing: Mutex::new(()) }
    }

    /// Prepares an address.
    #[inline]
    pub(crate) fn address(&self, address: IpAddr) -> Address {
        Address::new(address, &self.hasher)
    }

    #[inline]
    pub(crate) fn lock(&self) -> TreeGuard<'_, Scopes<M>> {
        self.scopes.lock()
    }

    /// The name of a peer that is held.
    pub(crate) fn peer_name(&self, peer: NameRef) -> Option<PeerKey> {
        let scopes = self.lock();
        let peer = scopes.nodes.named.get(Names::peer(peer));
        peer.map(|peer| PeerKey::of_bounded(peer.name()))
    }
}

/// Limits.
impl<M: Member> Tree<M> {
    /// Replaces all limits in one step. Use above a new limit stays, and falls. `along` runs in the
    /// same step, with the new limits and whether the allow-listed scopes are in use.
    pub(crate) fn set_limits(&self, limits: Limits, along: impl FnOnce(&Limits, bool)) {
        let change = Change::new(&limits.subnets, self.hasher);
        let limits = Arc::new(limits);
        let _turn = self.changing.lock();
        self.lock().subnets.begin(change);
        loop {
            let mut scopes = self.lock();
            let progress = scopes.subnets.go_on();
            drop(scopes);
            if progress == Progress::Done {
                break;
            }
        }
        let mut scopes = self.lock();
        let replaced_subnets = scopes.subnets.switch();
        let replaced = scopes.nodes.set_limits(limits.clone());
        let in_use = scopes.nodes.used(Partition::Allowlisted) != Default::default();
        along(&limits, in_use);
        drop(scopes);
        drop((replaced_subnets, replaced, limits));
    }

    /// Gives one peer limits of its own, or takes them from it.
    pub(crate) fn set_peer_limits(
        &self,
        key: &PeerKey,
        limits: Option<ScopeLimits>,
    ) -> Option<ScopeLimits> {
        let change = |all: &mut Limits| match limits {
            Some(limits) => all.peers.insert(key.clone(), limits),
            None => all.peers.remove(key.as_bytes()),
        };
        let _turn = self.changing.lock();
        let mut scopes = self.lock();
        if let Some(all) = scopes.nodes.limits_mut() {
            return change(all);
        }
        // A thread is copying the limits at this moment, outside the lock, and so does this one.
        let current = scopes.nodes.limits().clone();
        drop(scopes);
        let mut copy = (*current).clone();
        let before = change(&mut copy);
        let replaced = self.lock().nodes.set_limits(Arc::new(copy));
        drop((replaced, current));
        before
    }

    /// The scope of a peer that may have no memory, if it is there.
    pub(crate) fn barred_peer(&self, key: &PeerKey) -> Option<ScopeRef> {
        let key = Named::new(key.as_bytes(), &self.hasher).ok()?;
        let mut scopes = self.lock();
        let at = scopes.nodes.named.find(Names::peer, key)?.of();
        let at = ScopeRef::Named(at);
        scopes.nodes.ancestor(at)?.ceilings.bars_memory().then_some(at)
    }

    /// The limits in force.
    pub(crate) fn limits(&self) -> Limits {
        let limits = self.lock().nodes.limits().clone();
        // The copy is made when the lock is let go.
        (*limits).clone()
    }

    /// The limits of a stream in force.
    pub(crate) fn stream_limits(&self) -> ScopeLimits {
        self.lock().nodes.limits().stream
    }

    /// Whether an address has to be validated before a connection from there is admitted.
    pub(crate) fn should_validate(&self, address: IpAddr, now: Duration) -> bool {
        let address = self.address(address);
        let mut scopes = self.lock();
        let (validate, retired) = scopes.subnets.should_validate(address, now);
        drop(scopes);
        drop(retired);
        validate
    }

    /// Gives back what the limits by address no longer need, a little with each turn of the lock.
    pub(crate) fn maintain(&self, now: Duration) {
        let mut next = Some(0);
        while let Some(sketch) = next {
            let mut scopes = self.lock();
            let (then, retired) = scopes.subnets.maintain(sketch, now);
            drop(scopes);
            drop(retired);
            next = then;
        }
    }
}

/// Reclaiming idle blocks.
impl<M: Member> Tree<M> {
    /// Keeps connections below a scope from starting to keep blocks, until
    /// [`end_reclaim`](Self::end_reclaim). `false`: the scope is gone, and its idle blocks with it.
    #[must_use = "what begins has to end"]
    pub(crate) fn begin_reclaim(&self, at: ScopeRef) -> bool {
        let mut scopes = self.lock();
        let held = scopes.nodes.hold_again(at);
        if held && let Some(node) = scopes.nodes.get_mut(at) {
            node.reclaiming += 1;
        }
        held
    }

    pub(crate) fn end_reclaim(&self, at: ScopeRef) {
        let mut scopes = self.lock();
        if let Some(node) = scopes.nodes.get_mut(at) {
            node.reclaiming -= 1;
        }
        scopes.nodes.release_again(at);
    }

    /// Visits the members of a scope until `visit` returns `false`, with the lock let go. A member
    /// that comes or goes meanwhile may be visited twice or not at all.
    pub(crate) fn for_each_member(&self, at: ScopeRef, mut visit: impl FnMut(&M) -> bool) {
        let mut end = usize::MAX;
        let mut some = [const { None }; AT_ONCE];
        loop {
            let mut scopes = self.lock();
            let Scopes { nodes, members, .. } = &mut *scopes;
            let Some(node) = nodes.get_mut(at) else { return };
            end = end.min(node.caching.len());
            let start = end.saturating_sub(AT_ONCE);
            for (member, id) in some.iter_mut().zip(&node.caching[start..end]) {
                *member = members.get(*id).cloned();
            }
            drop(scopes);
            end = start;
            if some.iter_mut().filter_map(Option::take).any(|member| !visit(&member)) || end == 0 {
                return;
            }
        }
    }

    /// Whether a scope lists more members than [`relieve`](Scopes::relieve) counts.
    pub(crate) fn is_crowded(&self, at: ScopeRef) -> bool {
        self.lock().nodes.get_mut(at).is_some_and(|node| node.caching.len() > FEW)
    }

    /// Whether this much lies idle below a scope. Some members are looked at with each turn of the
    /// lock, so that blocks that move meanwhile may be missed.
    pub(crate) fn has_idle(&self, at: ScopeRef, bytes: u64) -> bool {
        let (mut idle, mut end) = (0_u64, usize::MAX);
        while idle < bytes && end > 0 {
            let mut scopes = self.lock();
            let Scopes { nodes, members, .. } = &mut *scopes;
            let Some(node) = nodes.get_mut(at) else { break };
            let looked_at = end.min(node.caching.len());
            end = looked_at.saturating_sub(AT_ONCE);
            let looked = members.idle_among(&node.caching[end..looked_at], OwnBlocks::default());
            idle = idle.saturating_add(looked.bytes);
        }
        idle >= bytes
    }
}

/// Members that are looked at in one turn of the lock.
const AT_ONCE: usize = 64;
