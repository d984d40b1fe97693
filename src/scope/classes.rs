//! The scopes of classes, and of each peer's part of a class.
//!
//! **Promise.** A scope is there while someone holds it. Names that the limits do not name may be
//! made at run time, even out of what a remote peer says: past [`MOST_UNLISTED`] of them at once,
//! new ones share the scope called [`OTHER_CLASSES`]. So neither memory nor a report's rows grow
//! with what peers invent.

use std::num::NonZeroU32;

use hashbrown::HashTable;

use super::level::Level;
use super::peers::PeerRef;
use super::request::Bounds;
use super::{PARTS, part_of};
use crate::keyed::shrink;
use crate::limits::Limits;

/// How many classes without limits of their own can exist at once.
const MOST_UNLISTED: usize = 256;

/// The class that stands in for those without limits of their own once there are too many of them
/// at once (256).
pub const OTHER_CLASSES: &str = "(other)";

/// Names a class's scope while it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ClassRef(NonZeroU32);

impl ClassRef {
    fn new(place: usize) -> Self {
        let number = u32::try_from(place + 1).ok().and_then(NonZeroU32::new);
        Self(number.expect("there is memory for fewer classes"))
    }

    #[inline]
    fn place(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// One class's scope.
pub(super) struct Class<M> {
    hash: u64,
    holders: u32,
    name: Box<str>,
    /// Whether the limits name it.
    listed: bool,
    pub(super) bounds: Bounds,
    pub(super) peer_bounds: Bounds,
    pub(super) level: Level<M>,
}

impl<M> Class<M> {
    /// Whether it is one of those that there can be too many of.
    fn is_counted(&self) -> bool {
        !self.listed && *self.name != *OTHER_CLASSES
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// Every class's scope.
pub(super) struct Classes<M> {
    scopes: Vec<Option<Box<Class<M>>>>,
    by_name: HashTable<ClassRef>,
    unlisted: usize,
    /// The hash of [`OTHER_CLASSES`].
    other_hash: u64,
}

impl<M> Classes<M> {
    pub(super) fn new(other_hash: u64) -> Self {
        Self { scopes: Vec::new(), by_name: HashTable::new(), unlisted: 0, other_hash }
    }

    /// Finds or makes the scope of the class called `name`, and holds it.
    pub(super) fn hold(&mut self, hash: u64, name: &str, limits: &Limits) -> ClassRef {
        if let Some(class) = self.find(hash, name) {
            self.hold_again(class);
            return class;
        }
        let listed = limits.names_class(name);
        if !listed && self.unlisted >= MOST_UNLISTED && name != OTHER_CLASSES {
            return self.hold(self.other_hash, OTHER_CLASSES, limits);
        }
        let class = Class {
            hash,
            holders: 1,
            name: name.into(),
            listed,
            bounds: Bounds::new(*limits.of_class(name)),
            peer_bounds: Bounds::new(*limits.of_class_peer(name)),
            level: Level::new(),
        };
        let free = self.scopes.iter().position(Option::is_none);
        let place = free.unwrap_or_else(|| {
            self.scopes.push(None);
            self.scopes.len() - 1
        });
        self.scopes[place] = Some(Box::new(class));
        self.unlisted += usize::from(!listed && name != OTHER_CLASSES);
        let at = ClassRef::new(place);
        let Self { scopes, by_name, .. } = self;
        by_name.insert_unique(hash, at, |at| hash_of_name(scopes, *at));
        at
    }

    fn find(&self, hash: u64, name: &str) -> Option<ClassRef> {
        let is_it = |at: &ClassRef| self.get(*at).is_some_and(|class| *class.name == *name);
        self.by_name.find(hash, is_it).copied()
    }

    /// Holds once more what is held already.
    pub(super) fn hold_again(&mut self, at: ClassRef) {
        if let Some(class) = self.get_mut(at) {
            class.holders += 1;
        }
    }

    /// Lets go of a scope. The last holder gets it, to drop it when no lock is held.
    #[must_use = "a scope may not be dropped under the lock"]
    pub(super) fn release(&mut self, at: ClassRef) -> Option<Box<Class<M>>> {
        let Some(class) = self.get_mut(at) else {
            debug_assert!(false, "a class was released more often than it was held");
            return None;
        };
        class.holders -= 1;
        if class.holders > 0 {
            return None;
        }
        let (hash, counted) = (class.hash, class.is_counted());
        self.unlisted -= usize::from(counted);
        if let Ok(entry) = self.by_name.find_entry(hash, |place| *place == at) {
            entry.remove();
        }
        let released = self.scopes[at.place()].take();
        let Self { scopes, by_name, .. } = self;
        while scopes.pop_if(|last| last.is_none()).is_some() {}
        if scopes.len() < scopes.capacity() / 4 {
            scopes.shrink_to(scopes.len() * 2);
        }
        shrink(by_name, |at| hash_of_name(scopes, *at));
        released
    }

    #[inline]
    pub(super) fn get(&self, at: ClassRef) -> Option<&Class<M>> {
        self.scopes.get(at.place())?.as_deref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, at: ClassRef) -> Option<&mut Class<M>> {
        self.scopes.get_mut(at.place())?.as_deref_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Class<M>> {
        self.scopes.iter().flatten().map(|class| &**class)
    }

    /// Takes over new limits.
    pub(super) fn set_limits(&mut self, limits: &Limits) {
        self.unlisted = 0;
        for class in self.scopes.iter_mut().flatten() {
            class.listed = limits.names_class(&class.name);
            class.bounds = Bounds::new(*limits.of_class(&class.name));
            class.peer_bounds = Bounds::new(*limits.of_class_peer(&class.name));
            self.unlisted += usize::from(class.is_counted());
        }
    }
}

fn hash_of_name<M>(scopes: &[Option<Box<Class<M>>>], at: ClassRef) -> u64 {
    scopes[at.place()].as_ref().map_or(0, |class| class.hash)
}

/// One peer's part of one class.
pub(super) struct Crossing<M> {
    class: ClassRef,
    peer: PeerRef,
    holders: u32,
    pub(super) level: Level<M>,
}

impl<M> Crossing<M> {
    pub(super) fn class(&self) -> ClassRef {
        self.class
    }

    pub(super) fn peer(&self) -> PeerRef {
        self.peer
    }

    fn is(&self, class: ClassRef, peer: PeerRef) -> bool {
        self.class == class && self.peer == peer
    }
}

/// Every peer's part of every class.
pub(super) struct Crossings<M> {
    parts: Box<[HashTable<Box<Crossing<M>>>]>,
}

impl<M> Crossings<M> {
    pub(super) fn new() -> Self {
        Self { parts: (0..PARTS).map(|_| HashTable::new()).collect() }
    }

    /// Finds or makes the scope, and holds it so many times.
    pub(super) fn hold(&mut self, class: ClassRef, peer: PeerRef, holders: u32) {
        let hash = hash_of(class, peer);
        let part = &mut self.parts[part_of(hash)];
        if let Some(crossing) = part.find_mut(hash, |crossing| crossing.is(class, peer)) {
            crossing.holders += holders;
            return;
        }
        let crossing = Crossing { class, peer, holders, level: Level::new() };
        part.insert_unique(hash, Box::new(crossing), |crossing| {
            hash_of(crossing.class, crossing.peer)
        });
    }

    /// Lets go of a scope so many times. The last holder gets it, to drop it when no lock is held.
    #[must_use = "a scope may not be dropped under the lock"]
    pub(super) fn release(
        &mut self,
        class: ClassRef,
        peer: PeerRef,
        holders: u32,
    ) -> Option<Box<Crossing<M>>> {
        let hash = hash_of(class, peer);
        let part = &mut self.parts[part_of(hash)];
        let Ok(mut entry) = part.find_entry(hash, |crossing| crossing.is(class, peer)) else {
            debug_assert!(false, "a peer's part of a class was released more often than held");
            return None;
        };
        entry.get_mut().holders -= holders;
        if entry.get().holders > 0 {
            return None;
        }
        let (removed, _) = entry.remove();
        shrink(part, |crossing| hash_of(crossing.class, crossing.peer));
        Some(removed)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, class: ClassRef, peer: PeerRef) -> Option<&mut Crossing<M>> {
        let hash = hash_of(class, peer);
        let part = &mut self.parts[part_of(hash)];
        part.find_mut(hash, |crossing| crossing.is(class, peer)).map(|crossing| &mut **crossing)
    }

    pub(super) fn part_at(&self, part: usize) -> impl Iterator<Item = &Crossing<M>> {
        self.parts[part].iter().map(|crossing| &**crossing)
    }
}

/// The peer's hash is keyed already, and classes are numbered by us.
fn hash_of(class: ClassRef, peer: PeerRef) -> u64 {
    (peer.hash() ^ u64::from(class.0.get())).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
}
