//! The scope tree: who may use how much, and the one way to charge it.
//!
//! ```text
//! system ──┬── transient ── connection        before the peer is known
//!          ├── peer(key) ── connection        after `bind_peer`
//!          └── class(name) ─ ─ ─ ┘            optional second parent
//! ```
//!
//! **Promises.** No charge ever raises a scope above the limit in force at that instant, and a
//! request is refused only if a limit would really be exceeded. Both follow from how a charge is
//! made: it locks every scope it touches, in the fixed order *transient, peer, class, system*,
//! checks them all, then commits to all. Nothing is ever rolled back, so nobody sees a charge that
//! does not last. (Compare-exchange with roll-back was tried: another request that runs in between
//! is refused although there is room.) The limits of the whole tree live under the system's lock,
//! which every charge holds, so a change of limits is one step for all scopes at once.
//!
//! **Pressure.** A scope lists the members (connections) that may hold idle cached memory. Before
//! a refusal the one who asks *presses* on the scope: from then on the scope is *tight*, nobody
//! starts to cache in it, and the listed members are swept one by one until the request fits or
//! the list is empty. An entry leaves the list in the same step that takes the member's idle
//! memory off the scope, so an empty list under pressure means that nothing idle is left. The
//! scope stays tight until its use falls below seven eighths of its limit and nobody presses.
//!
//! This file knows neither connections nor memory: a member is whatever the caller lists.

use std::collections::BTreeMap;

use crossbeam_utils::CachePadded;

use crate::error::{NameTooLong, Reason, Refused, Resource, Scope};
use crate::keyed::{Keyed, Named};
use crate::limits::{Limits, ScopeLimits};
use crate::sync::{Arc, Mutex, MutexGuard};
use crate::usage::Usage;

#[cfg(not(leasehold_loom))]
const PEER_SHARDS: usize = 16;
#[cfg(leasehold_loom)]
const PEER_SHARDS: usize = 1;

/// Every scope of one governor. `M` is a member: what scopes list as holders of idle memory.
pub(crate) struct Tree<M> {
    transient: CachePadded<Mutex<Level<M>>>,
    peers: Keyed<Mutex<Level<M>>>,
    classes: Keyed<Mutex<Level<M>>>,
    system: CachePadded<Mutex<System<M>>>,
}

/// The root, with the limits of the whole tree.
struct System<M> {
    level: Level<M>,
    limits: Arc<Limits>,
    refusals: Refusals,
}

/// One scope's use and pressure. Its limits are found in the tree's.
pub(crate) struct Level<M> {
    usage: Usage,
    /// How many requests press on this scope right now.
    pressing: u32,
    tight: bool,
    /// Members that may hold idle memory, by their ids.
    caching: BTreeMap<u64, M>,
}

/// A scope that exists as long as someone holds it, found by its key.
pub(crate) type KeyedScope<M> = Named<Mutex<Level<M>>>;

/// How many refusals there were, by scope, resource and reason.
pub(crate) type Refusals = [[[u64; Reason::ALL.len()]; Resource::ALL.len()]; Scope::ALL.len()];

/// Where a connection hangs in the tree.
pub(crate) struct Place<M> {
    /// `None` while the peer is not known.
    pub(crate) peer: Option<Arc<KeyedScope<M>>>,
    pub(crate) class: Option<Arc<KeyedScope<M>>>,
}

/// Whether a connection still exists, or only memory that it left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Present,
    /// What an unbound connection leaves behind does not count in the transient scope.
    Departed,
}

impl<M> Level<M> {
    fn new() -> Self {
        Self { usage: Usage::default(), pressing: 0, tight: false, caching: BTreeMap::new() }
    }

    fn shared() -> Mutex<Self> {
        Mutex::new(Self::new())
    }

    fn sub(&mut self, less: &Usage, limits: &ScopeLimits) {
        self.usage.sub(less);
        self.relax(limits);
    }

    fn unlist(&mut self, id: u64) -> Option<M> {
        let member = self.caching.remove(&id);
        if self.caching.is_empty() {
            // An emptied map keeps its last node.
            self.caching = BTreeMap::new();
        }
        member
    }

    /// Ends tightness once there is room again and nobody presses.
    fn relax(&mut self, limits: &ScopeLimits) {
        if self.tight && self.pressing == 0 {
            let limit = limits.memory.max();
            self.tight = self.usage.memory > limit - limit / 8;
        }
    }
}

impl<M: Clone> Tree<M> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            transient: CachePadded::new(Mutex::new(Level::new())),
            peers: Keyed::new(PEER_SHARDS),
            classes: Keyed::new(1),
            system: CachePadded::new(Mutex::new(System {
                level: Level::new(),
                limits: Arc::new(limits),
                refusals: Default::default(),
            })),
        }
    }

    /// The scope of the peer called `key`, for as long as it is held.
    pub(crate) fn peer(&self, key: &[u8]) -> Result<Arc<KeyedScope<M>>, NameTooLong> {
        self.peers.hold(key, Level::shared)
    }

    /// The scope of the class called `name`, for as long as it is held.
    pub(crate) fn class(&self, name: &[u8]) -> Result<Arc<KeyedScope<M>>, NameTooLong> {
        self.classes.hold(name, Level::shared)
    }

    /// Lets go of a peer's scope; the last to do so removes it from the map.
    pub(crate) fn release_peer(&self, scope: Arc<KeyedScope<M>>) {
        self.peers.release(scope);
    }

    /// Lets go of a class's scope; the last to do so removes it from the map.
    pub(crate) fn release_class(&self, scope: Arc<KeyedScope<M>>) {
        self.classes.release(scope);
    }

    /// Replaces the limits of the whole tree in one step. Use above a new limit stays, and falls.
    /// `along` runs in the same step.
    pub(crate) fn set_limits(&self, limits: Limits, along: impl FnOnce()) {
        let new = Arc::new(limits);
        let mut system = self.system.lock();
        let old = std::mem::replace(&mut system.limits, new);
        along();
        drop(system);
        drop(old);
    }

    pub(crate) fn limits(&self) -> Arc<Limits> {
        self.system.lock().limits.clone()
    }

    pub(crate) fn refusals(&self) -> Box<Refusals> {
        Box::new(self.system.lock().refusals)
    }

    pub(crate) fn count_refusal(&self, refused: &Refused) {
        let row = &mut self.system.lock().refusals[refused.scope() as usize];
        row[refused.resource() as usize][refused.reason() as usize] += 1;
    }

    pub(crate) fn system_usage(&self) -> Usage {
        self.system.lock().level.usage
    }

    /// Some member that may hold idle memory, if there is any.
    pub(crate) fn first_caching(&self) -> Option<M> {
        self.system.lock().level.caching.first_key_value().map(|(_, member)| member.clone())
    }

    pub(crate) fn transient_usage(&self) -> Usage {
        self.transient.lock().usage
    }

    pub(crate) fn peer_usages(&self) -> Vec<(Box<[u8]>, Usage)> {
        usages(&self.peers)
    }

    pub(crate) fn class_usages(&self) -> Vec<(Box<[u8]>, Usage)> {
        usages(&self.classes)
    }

    /// Locks every scope above a connection.
    pub(crate) fn line<'a>(&'a self, place: &'a Place<M>, standing: Standing) -> Line<'a, M> {
        let parent = match (&place.peer, standing) {
            (Some(peer), _) => Some(peer.value().lock()),
            (None, Standing::Present) => Some(self.transient.lock()),
            (None, Standing::Departed) => None,
        };
        Line {
            parent,
            class: place.class.as_ref().map(|class| (class.value().lock(), class.key())),
            system: self.system.lock(),
            bound: place.peer.is_some(),
        }
    }

    /// Moves `usage` from the transient scope to `peer` in one step, unless the peer refuses. If
    /// `id` is listed as a member that may cache, that moves along.
    pub(crate) fn bind(
        &self,
        place: &Place<M>,
        peer: &KeyedScope<M>,
        usage: &Usage,
        id: u64,
    ) -> Result<(), (Refused, Option<M>)> {
        debug_assert!(place.peer.is_none());
        let mut transient = self.transient.lock();
        let mut target = peer.value().lock();
        let system = self.system.lock();
        if let Err(refused) = system.limits.peer.check(Scope::Peer, &target.usage, usage) {
            let victim = target.victim(&refused);
            return Err((refused, victim));
        }
        target.usage.add(usage);
        transient.sub(usage, &system.limits.transient);
        if let Some(member) = transient.unlist(id) {
            target.caching.insert(id, member);
        }
        Ok(())
    }

    /// Presses on the scope that refused, until the answer is dropped. `keyed` is the scope if it
    /// is a peer's or a class's.
    pub(crate) fn press<'a>(
        &'a self,
        scope: Scope,
        keyed: Option<Arc<KeyedScope<M>>>,
    ) -> Pressure<'a, M> {
        let pressure = Pressure { tree: self, scope, keyed };
        pressure.with(|level, _| {
            level.pressing += 1;
            level.tight = true;
        });
        pressure
    }
}

/// Every scope above one connection, locked.
pub(crate) struct Line<'a, M> {
    parent: Option<MutexGuard<'a, Level<M>>>,
    class: Option<(MutexGuard<'a, Level<M>>, &'a [u8])>,
    system: MutexGuard<'a, System<M>>,
    bound: bool,
}

impl<M: Clone> Line<'_, M> {
    /// The limits of each connection, in force while the line is held.
    pub(crate) fn connection_limits(&self) -> &ScopeLimits {
        &self.system.limits.connection
    }

    /// Whether every scope of the line has room for `more`.
    pub(crate) fn check(&self, more: &Usage) -> Result<(), Refused> {
        let limits = &self.system.limits;
        if let Some(parent) = &self.parent {
            let (scope, limits) = if self.bound {
                (Scope::Peer, &limits.peer)
            } else {
                (Scope::Transient, &limits.transient)
            };
            limits.check(scope, &parent.usage, more)?;
        }
        if let Some((class, name)) = &self.class {
            limits.of_class(std::str::from_utf8(name).unwrap_or_default()).check(
                Scope::Class,
                &class.usage,
                more,
            )?;
        }
        limits.system.check(Scope::System, &self.system.level.usage, more)
    }

    /// Charges `more` to every scope of the line, which has been [checked](Self::check).
    pub(crate) fn charge(&mut self, more: &Usage) {
        if let Some(parent) = &mut self.parent {
            parent.usage.add(more);
        }
        if let Some((class, _)) = &mut self.class {
            class.usage.add(more);
        }
        self.system.level.usage.add(more);
    }

    /// A member whose idle memory might make room in the scope that refused.
    pub(crate) fn victim(&mut self, refused: &Refused) -> Option<M> {
        match refused.scope() {
            Scope::Peer | Scope::Transient => self.parent.as_mut()?.victim(refused),
            Scope::Class => self.class.as_mut()?.0.victim(refused),
            Scope::System => self.system.level.victim(refused),
            _ => None,
        }
    }

    /// Takes `less` off every scope of the line.
    pub(crate) fn credit(&mut self, less: &Usage) {
        let System { level: system, limits, .. } = &mut *self.system;
        if let Some(parent) = &mut self.parent {
            parent.sub(less, if self.bound { &limits.peer } else { &limits.transient });
        }
        if let Some((class, name)) = &mut self.class {
            class.sub(less, limits.of_class(std::str::from_utf8(name).unwrap_or_default()));
        }
        system.sub(less, &limits.system);
    }

    /// Takes `less` off the connection's parent alone: what an unbound connection leaves behind
    /// does not fill the transient scope.
    pub(crate) fn credit_parent(&mut self, less: &Usage) {
        let limits = &self.system.limits;
        if let Some(parent) = &mut self.parent {
            parent.sub(less, if self.bound { &limits.peer } else { &limits.transient });
        }
    }

    /// Whether any scope of the line is tight, so that nothing idle may be kept.
    pub(crate) fn is_tight(&self) -> bool {
        self.parent.as_ref().is_some_and(|parent| parent.tight)
            || self.class.as_ref().is_some_and(|(class, _)| class.tight)
            || self.system.level.tight
    }

    /// Lists a member in every scope of the line as one that may hold idle memory.
    pub(crate) fn list(&mut self, id: u64, member: &M) {
        for level in self.levels() {
            level.caching.insert(id, member.clone());
        }
    }

    /// Takes a member off the lists. What comes back is dropped after the locks.
    #[must_use = "a member may not be dropped under a lock"]
    pub(crate) fn unlist(&mut self, id: u64) -> [Option<M>; 3] {
        let mut unlisted = [None, None, None];
        for (level, unlisted) in self.levels().zip(&mut unlisted) {
            *unlisted = level.unlist(id);
        }
        unlisted
    }

    fn levels(&mut self) -> impl Iterator<Item = &mut Level<M>> {
        let parent = self.parent.as_deref_mut();
        let class = self.class.as_mut().map(|(class, _)| &mut **class);
        parent.into_iter().chain(class).chain([&mut self.system.level])
    }
}

impl<M: Clone> Level<M> {
    /// Memory that the scope lacks makes it tight.
    fn victim(&mut self, refused: &Refused) -> Option<M> {
        if refused.resource() != Resource::Memory || refused.never_fits() {
            return None;
        }
        self.tight = true;
        self.caching.first_key_value().map(|(_, member)| member.clone())
    }
}

/// While it lives, its scope stays tight: nobody starts to cache, and the list of those who do
/// only shrinks.
pub(crate) struct Pressure<'a, M> {
    tree: &'a Tree<M>,
    scope: Scope,
    keyed: Option<Arc<KeyedScope<M>>>,
}

impl<M> Pressure<'_, M> {
    pub(crate) fn is_on(&self, scope: Scope) -> bool {
        self.scope == scope
    }

    fn with(&self, f: impl FnOnce(&mut Level<M>, &ScopeLimits)) {
        // The level first, then the limits under the system's lock: the order of every charge.
        match (&self.keyed, self.scope) {
            (Some(keyed), _) => {
                let mut level = keyed.value().lock();
                let system = self.tree.system.lock();
                let limits = match self.scope {
                    Scope::Class => {
                        system.limits.of_class(std::str::from_utf8(keyed.key()).unwrap_or_default())
                    }
                    _ => &system.limits.peer,
                };
                f(&mut level, limits);
            }
            (None, Scope::Transient) => {
                let mut level = self.tree.transient.lock();
                let system = self.tree.system.lock();
                f(&mut level, &system.limits.transient);
            }
            (None, _) => {
                let System { level, limits, .. } = &mut *self.tree.system.lock();
                f(level, &limits.system);
            }
        }
    }
}

impl<M> Drop for Pressure<'_, M> {
    fn drop(&mut self) {
        self.with(|level, limits| {
            level.pressing -= 1;
            level.relax(limits);
        });
    }
}

fn usages<M>(scopes: &Keyed<Mutex<Level<M>>>) -> Vec<(Box<[u8]>, Usage)> {
    let row = |scope: &KeyedScope<M>| (scope.key().into(), scope.value().lock().usage);
    scopes.held().iter().map(|scope| row(scope)).collect()
}
