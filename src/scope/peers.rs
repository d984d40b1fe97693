//! The scopes of peers: there while something holds them, found by key or by reference.
//!
//! **Promise.** Memory is a function of what is held now: the last holder's release removes the
//! scope. Keys come from remote peers, so their hash is keyed.

use std::num::NonZeroU8;

use super::Named;
use super::demand::Ceilings;
use super::node::Node;
use super::table::{Hashed, Table};
use crate::keyed::KeyBytes;
use crate::limits::Limits;
use crate::try_box::{OutOfMemory, TryBox};

/// Names a peer's scope while it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerRef {
    /// The keyed hash of the peer's key.
    pub(super) hash: u64,
    /// Tells peers apart whose keys have the same hash.
    pub(super) nth: NonZeroU8,
}

/// One peer's scope.
pub(super) struct Peer {
    at: PeerRef,
    holders: u32,
    /// Of the limits that `own` was looked up in.
    generation: u32,
    key: KeyBytes,
    /// The peer's own limits, if it has any.
    own: Option<TryBox<Ceilings>>,
    pub(super) node: Node,
}

impl Peer {
    pub(super) fn at(&self) -> PeerRef {
        self.at
    }

    pub(super) fn key(&self) -> &[u8] {
        self.key.as_bytes()
    }

    /// The node, and the limits in force beside it.
    #[inline]
    pub(super) fn parts<'a>(&'a mut self, default: &'a Ceilings) -> (&'a mut Node, &'a Ceilings) {
        (&mut self.node, self.own.as_deref().unwrap_or(default))
    }

    /// Looks the peer's own limits up, if other limits are in force than the last time. Where there
    /// is no memory for them, those that the peer had stay in force until the next look.
    #[inline]
    pub(super) fn refresh(&mut self, limits: &Limits, generation: u32) {
        if self.generation != generation
            && let Ok(own) = own_ceilings(limits, self.key())
        {
            (self.own, self.generation) = (own, generation);
        }
    }
}

impl Hashed for TryBox<Peer> {
    fn hash(&self) -> u64 {
        self.at.hash
    }
}

/// Every peer's scope.
pub(super) struct Peers {
    pub(super) table: Table<TryBox<Peer>>,
}

impl Peers {
    pub(super) fn new() -> Self {
        Self { table: Table::new() }
    }

    /// Finds or makes the scope of the peer called `key`, and holds it.
    pub(super) fn hold(
        &mut self,
        key: Named<'_, [u8]>,
        limits: &Limits,
        generation: u32,
    ) -> Result<PeerRef, OutOfMemory> {
        if let Some(peer) = self.find_mut(key) {
            peer.holders += 1;
            return Ok(peer.at);
        }
        let Named { hash, name } = key;
        let taken = |nth| self.table.find(hash, |peer| peer.at == PeerRef { hash, nth }).is_some();
        let mut every = (1..=u8::MAX).filter_map(NonZeroU8::new);
        let nth = every.find(|nth| !taken(*nth)).expect("no keyed hash has 255 keys at once");
        let at = PeerRef { hash, nth };
        let (key, own) = (KeyBytes::try_new(name)?, own_ceilings(limits, name)?);
        let peer = Peer { at, holders: 1, generation, key, own, node: Node::default() };
        self.table.insert(TryBox::new(peer)?)?;
        Ok(at)
    }

    /// The scope of the peer called `key`, if it is there.
    #[inline]
    pub(super) fn find_mut(&mut self, key: Named<'_, [u8]>) -> Option<&mut Peer> {
        let Named { hash, name } = key;
        let is_it = |peer: &TryBox<Peer>| peer.at.hash == hash && peer.key() == name;
        self.table.find_mut(hash, is_it).map(|peer| &mut **peer)
    }

    /// Holds once more what is held already.
    pub(super) fn hold_again(&mut self, at: PeerRef) {
        if let Some(peer) = self.get_mut(at) {
            peer.holders += 1;
        }
    }

    /// Lets go of a scope, which goes with its last holder.
    pub(super) fn release(&mut self, at: PeerRef) {
        self.table.remove_if(
            at.hash,
            |peer| peer.at == at,
            |peer| {
                peer.holders -= 1;
                peer.holders == 0
            },
        );
    }

    #[inline]
    pub(super) fn get(&self, at: PeerRef) -> Option<&Peer> {
        self.table.find(at.hash, |peer| peer.at == at).map(|peer| &**peer)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, at: PeerRef) -> Option<&mut Peer> {
        self.table.find_mut(at.hash, |peer| peer.at == at).map(|peer| &mut **peer)
    }
}

/// The limits that a peer has of its own.
fn own_ceilings(limits: &Limits, key: &[u8]) -> Result<Option<TryBox<Ceilings>>, OutOfMemory> {
    if limits.peers.is_empty() {
        return Ok(None);
    }
    limits.peers.get(key).map(|limits| TryBox::new(Ceilings::new(*limits))).transpose()
}
