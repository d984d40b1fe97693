//! The connections that may keep idle blocks: each has its place in the list of every scope above
//! it, so that a scope can reclaim from those below it, and from no others.
//!
//! **Promise.** A connection is listed in all scopes above it or in none. Listing is the only step
//! that needs memory, and reserves all of it before anything changes.

use super::node::Node;
use super::nodes::Nodes;
use super::table::{Hashed, Table};
use super::{Parents, RANKS, Rank};
use crate::keyed::spread;

/// What scopes list: something that can hold idle memory.
pub(crate) trait Member: Clone {
    /// How much idle memory it holds at this moment, or a little more.
    fn idle_bytes(&self) -> u64;

    /// The same, exactly, unless another thread is at work on it.
    fn known_idle_bytes(&self) -> u64;
}

/// How much idle memory the member that makes a request holds.
#[derive(Clone, Copy, Default)]
pub(crate) struct OwnIdle {
    pub(crate) id: u64,
    pub(crate) bytes: u64,
}

/// Every listed member.
pub(super) struct Members<M> {
    by_id: Table<Listed<M>>,
}

struct Listed<M> {
    id: u64,
    member: M,
    /// Its place in the list of the scope of each rank.
    places: [u32; RANKS],
}

impl<M> Hashed for Listed<M> {
    fn hash(&self) -> u64 {
        spread(self.id)
    }
}

impl<M: Member> Members<M> {
    pub(super) fn new() -> Self {
        Self { by_id: Table::new() }
    }

    /// Lists a member in the scopes above it. `false`: there is no memory for that.
    pub(super) fn list(
        &mut self,
        id: u64,
        member: &M,
        nodes: &mut Nodes,
        parents: Parents,
    ) -> bool {
        let reserved = nodes.climb(parents, |above| above.node.reserve());
        let listed = Listed { id, member: member.clone(), places: [0; RANKS] };
        if reserved.is_err() || self.by_id.insert(listed).is_err() {
            return false;
        }
        nodes.each(parents, |above| self.enter(id, above.at.rank(), above.node));
        true
    }

    /// Takes a member off all lists. (The caller has a share of it, so that none is dropped for good
    /// here, under the tree's lock.)
    pub(super) fn unlist(&mut self, id: u64, nodes: &mut Nodes, parents: Parents) {
        nodes.each(parents, |above| self.leave(id, above.at.rank(), above.node));
        self.by_id.remove_if(spread(id), |listed| listed.id == id, |_| true);
    }

    /// Adds a member that is listed elsewhere to one more list, where room is
    /// [reserved](Node::reserve).
    pub(super) fn enter(&mut self, id: u64, rank: Rank, node: &mut Node) {
        self.set_place(id, rank, node.caching.len());
        node.caching.push(id);
    }

    /// Takes a member off one list.
    pub(super) fn leave(&mut self, id: u64, rank: Rank, node: &mut Node) {
        let Some(listed) = self.find(id) else { return };
        let place = listed.places[rank as usize] as usize;
        node.caching.swap_remove(place);
        if let Some(&moved) = node.caching.get(place) {
            self.set_place(moved, rank, place);
        }
        if node.caching.len() < node.caching.capacity() / 4 {
            node.caching.shrink_to(node.caching.len() * 2);
        }
    }

    pub(super) fn get(&self, id: u64) -> Option<&M> {
        self.find(id).map(|listed| &listed.member)
    }

    /// How much idle memory some of these members hold, as far as `enough`.
    /// Of the member `own`, whose lock the caller holds, the caller knows it.
    pub(super) fn idle_among(&self, ids: &[u64], own: OwnIdle, enough: u64) -> u64 {
        /// Where memory is only observed, no more are looked at under the tree's lock.
        const MOST: usize = 16;
        let mut idle = 0_u64;
        for id in ids.iter().rev().take(MOST) {
            let known = |member: &M| {
                if *id == own.id { own.bytes } else { member.known_idle_bytes() }
            };
            idle = idle.saturating_add(self.get(*id).map_or(0, known));
            if idle >= enough {
                break;
            }
        }
        idle
    }

    fn find(&self, id: u64) -> Option<&Listed<M>> {
        self.by_id.find(spread(id), |listed| listed.id == id)
    }

    fn set_place(&mut self, id: u64, rank: Rank, place: usize) {
        if let Some(listed) = self.by_id.find_mut(spread(id), |listed| listed.id == id) {
            listed.places[rank as usize] = place as u32;
        }
    }
}
