//! The scopes of peers: there while someone holds them, found by key or by reference.
//!
//! **Promise.** Memory is a function of who is held now: the last holder's release removes the
//! scope, and tables shrink as they empty. Keys come from remote peers, so their hash is keyed. The
//! table is split, so that growing it never takes long: everything here happens under the tree's
//! one lock.

use std::num::NonZeroU8;

use hashbrown::HashTable;

use super::level::Level;
use super::request::Bounds;
use super::{PARTS, part_of};
use crate::keyed::shrink;
use crate::limits::Limits;

/// Names a peer's scope while it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PeerRef {
    /// The keyed hash of the peer's key.
    hash: u64,
    /// Tells peers apart whose keys have the same hash.
    nth: NonZeroU8,
}

impl PeerRef {
    pub(super) fn hash(self) -> u64 {
        self.hash
    }

    /// The reference in parts, for whoever must not waste a byte.
    pub(super) fn parts(this: Option<Self>) -> (u64, Option<NonZeroU8>) {
        (this.map_or(0, |peer| peer.hash), this.map(|peer| peer.nth))
    }

    /// Takes [`parts`](Self::parts) back together.
    #[inline]
    pub(super) fn from_parts(hash: u64, nth: Option<NonZeroU8>) -> Option<Self> {
        nth.map(|nth| Self { hash, nth })
    }
}

/// One peer's scope.
pub(super) struct Peer<M> {
    at: PeerRef,
    holders: u32,
    key: Box<[u8]>,
    /// The peer's own limits, if it has any.
    pub(super) own: Option<Box<Bounds>>,
    pub(super) level: Level<M>,
}

impl<M> Peer<M> {
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    pub(super) fn bounds<'a>(&'a self, default: &'a Bounds) -> &'a Bounds {
        self.own.as_deref().unwrap_or(default)
    }
}

/// Every peer's scope.
pub(super) struct Peers<M> {
    parts: Box<[HashTable<Box<Peer<M>>>]>,
}

impl<M> Peers<M> {
    pub(super) fn new() -> Self {
        Self { parts: (0..PARTS).map(|_| HashTable::new()).collect() }
    }

    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Option<PeerRef> {
        let found = self.part(hash).find(hash, |peer| peer.at.hash == hash && *peer.key == *key);
        found.map(|peer| peer.at)
    }

    /// Finds or makes the scope of the peer called `key`, and holds it.
    pub(super) fn hold(
        &mut self,
        hash: u64,
        key: &[u8],
        own: impl FnOnce() -> Option<Box<Bounds>>,
    ) -> PeerRef {
        let part = self.part_mut(hash);
        if let Some(peer) = part.find_mut(hash, |peer| peer.at.hash == hash && *peer.key == *key) {
            peer.holders += 1;
            return peer.at;
        }
        let taken = |nth| part.find(hash, |peer| peer.at == PeerRef { hash, nth }).is_some();
        let mut every = (1..=u8::MAX).filter_map(NonZeroU8::new);
        let nth = every.find(|nth| !taken(*nth)).expect("no keyed hash has 255 keys at once");
        let at = PeerRef { hash, nth };
        let peer = Peer { at, holders: 1, key: key.into(), own: own(), level: Level::new() };
        part.insert_unique(hash, Box::new(peer), |peer| peer.at.hash);
        at
    }

    /// Holds the scope of the peer called `key`, found or made, if `enter` agrees.
    #[inline]
    pub(super) fn hold_if(
        &mut self,
        hash: u64,
        key: &[u8],
        limits: &Limits,
        enter: impl FnOnce(&mut Peer<M>) -> bool,
    ) -> Option<PeerRef> {
        let part = self.part_mut(hash);
        if let Some(peer) = part.find_mut(hash, |peer| peer.at.hash == hash && *peer.key == *key) {
            let entered = enter(peer);
            peer.holders += u32::from(entered);
            return entered.then_some(peer.at);
        }
        let at = self.hold(hash, key, || own_bounds(limits, key));
        let entered = self.get_mut(at).is_some_and(enter);
        if !entered {
            // Made in vain, and empty.
            drop(self.release(at));
        }
        entered.then_some(at)
    }

    /// Holds once more what is held already.
    pub(super) fn hold_again(&mut self, at: PeerRef) {
        if let Some(peer) = self.get_mut(at) {
            peer.holders += 1;
        }
    }

    /// Lets go of a scope. The last holder gets it, to drop it when no lock is held.
    #[must_use = "a scope may not be dropped under the lock"]
    pub(super) fn release(&mut self, at: PeerRef) -> Option<Box<Peer<M>>> {
        self.release_after(at, |_| ())
    }

    /// As [`release`](Self::release), after something was done with it.
    #[inline]
    #[must_use = "a scope may not be dropped under the lock"]
    pub(super) fn release_after(
        &mut self,
        at: PeerRef,
        before: impl FnOnce(&mut Peer<M>),
    ) -> Option<Box<Peer<M>>> {
        let part = self.part_mut(at.hash);
        let Ok(mut entry) = part.find_entry(at.hash, |peer| peer.at == at) else {
            debug_assert!(false, "a peer was released more often than it was held");
            return None;
        };
        let peer = entry.get_mut();
        before(peer);
        peer.holders -= 1;
        if peer.holders > 0 {
            return None;
        }
        let (removed, _) = entry.remove();
        shrink(part, |peer| peer.at.hash);
        Some(removed)
    }

    #[inline]
    pub(super) fn get(&self, at: PeerRef) -> Option<&Peer<M>> {
        self.part(at.hash).find(at.hash, |peer| peer.at == at).map(|peer| &**peer)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, at: PeerRef) -> Option<&mut Peer<M>> {
        self.part_mut(at.hash).find_mut(at.hash, |peer| peer.at == at).map(|peer| &mut **peer)
    }

    pub(super) fn part_at(&self, part: usize) -> impl Iterator<Item = &Peer<M>> {
        self.parts[part].iter().map(|peer| &**peer)
    }

    fn part(&self, hash: u64) -> &HashTable<Box<Peer<M>>> {
        &self.parts[part_of(hash)]
    }

    fn part_mut(&mut self, hash: u64) -> &mut HashTable<Box<Peer<M>>> {
        &mut self.parts[part_of(hash)]
    }
}

/// The limits that a peer has of its own.
pub(super) fn own_bounds(limits: &Limits, key: &[u8]) -> Option<Box<Bounds>> {
    if limits.peers.is_empty() {
        return None;
    }
    limits.peers.get(key).map(|limits| Box::new(Bounds::new(*limits)))
}
