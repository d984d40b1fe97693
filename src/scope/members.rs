//! The connections that may keep idle blocks: each has its place in the list of every scope above
//! it, so that a scope can reclaim from those below it, and from no others.
//!
//! **Promise.** A connection is listed in all scopes above it or in none. Listing is the only step
//! that needs memory, and reserves all of it before anything changes.

use super::node::Node;
use super::nodes::Nodes;
use super::table::{Hashed, Table};
use super::{Parents, RANKS, Rank, ScopeRef, Scopes};
use crate::keyed::spread;
use crate::usage::Tally;

/// What scopes list: something that can hold idle memory.
pub(crate) trait Member: Clone {
    /// What lies idle with it at this moment, or no end of it while another thread is at work on it.
    fn idle(&self) -> Idle;

    /// The part of it that can be seen without its lock.
    fn first_idle(&self) -> Idle;
}

/// What lies idle with a member, or with several.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Idle {
    pub(crate) bytes: u64,
    /// Changes with each lease and return.
    pub(crate) moves: u64,
}

impl Idle {
    #[inline]
    pub(crate) fn add(&mut self, more: Idle) {
        self.bytes = self.bytes.saturating_add(more.bytes);
        self.moves = self.moves.wrapping_add(more.moves);
    }
}

/// Blocks of the member that makes a request.
#[derive(Clone, Copy, Default)]
pub(crate) struct OwnBlocks {
    pub(crate) id: u64,
    /// Idle, and the first to give way.
    pub(crate) idle: u64,
    /// Known not to give way.
    pub(crate) out: u64,
    /// Idle and asked for.
    pub(crate) lent: u64,
    /// Idle where the member's lock alone leads, which the request holds.
    pub(crate) extra: u64,
}

/// What idle blocks do about a shortfall.
pub(crate) enum Relief {
    /// Too little is idle.
    None,
    /// As much as was missing was taken.
    Taken,
    /// Enough may be idle: with several members, or with one that another thread is at work on.
    Perhaps,
}

/// So many members are looked at in one turn of the tree's lock before a request is refused.
pub(super) const FEW: usize = 32;

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
        let place = node.caching.len();
        self.set_place(id, rank, place);
        node.caching.push(id);
        node.likeliest = place as u32;
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

    /// What lies idle with these members, one of which may be the one that makes the request.
    pub(super) fn idle_among(&self, ids: &[u64], own: OwnBlocks) -> Idle {
        let mut all = Idle::default();
        ids.iter().for_each(|id| all.add(self.idle_of(*id, own)));
        all
    }

    fn idle_of(&self, id: u64, own: OwnBlocks) -> Idle {
        match self.get(id) {
            Some(member) if id == own.id => {
                let Idle { bytes, moves } = member.first_idle();
                Idle { bytes: bytes.saturating_add(own.extra).saturating_sub(own.lent), moves }
            }
            Some(member) => member.idle(),
            None => Idle::default(),
        }
    }

    /// How much idle memory some of these members hold, as far as `enough`.
    /// Of the member `own`, whose lock the caller holds, the caller knows it.
    pub(super) fn observed_idle(&self, ids: &[u64], own: OwnIdle, enough: u64) -> u64 {
        /// Where memory is only observed, no more are looked at under the tree's lock.
        const MOST: usize = 16;
        let mut idle = 0_u64;
        for id in ids.iter().rev().take(MOST) {
            let known = |member: &M| if *id == own.id { own.bytes } else { member.idle().bytes };
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

impl<M: Member> Scopes<M> {
    /// Takes `missing` bytes that lie idle with one member below a scope, or tells whether several may
    /// have as much. Where few are listed, [`Relief::None`] is exact. `take` takes them from a member, if
    /// it has them, and returns the scopes above it and how much it took.
    pub(crate) fn relieve(
        &mut self,
        at: ScopeRef,
        missing: u64,
        own: OwnBlocks,
        mut take: impl FnMut(&M) -> Option<(Parents, u64)>,
    ) -> Relief {
        let Self { nodes, members, .. } = self;
        let Some(node) = nodes.get_mut(at) else { return Relief::None };
        let listed = node.caching.len();
        if listed == 0 || missing > node.used.cacheable.saturating_sub(own.out) {
            return Relief::None;
        }
        let mut take = |member: &M| if own.idle == 0 { take(member) } else { None };
        let likeliest = node.caching.get(node.likeliest as usize);
        let mut taken = likeliest.and_then(|id| take(members.get(*id)?));
        let mut idle = Idle::default();
        for id in node.caching.iter().rev().take(FEW) {
            if taken.is_some() {
                break;
            }
            let of_one = members.idle_of(*id, own);
            idle.add(of_one);
            if of_one.bytes >= missing {
                taken = members.get(*id).and_then(&mut take);
            }
        }
        if let Some((parents, bytes)) = taken {
            // What was taken will lie idle with the member that it is taken for.
            if let Some(listed) = members.find(own.id) {
                node.likeliest = listed.places[at.rank() as usize];
            }
            let less = Tally::of_blocks(bytes);
            nodes.each(parents, |above| above.node.used.sub(&less));
            return Relief::Taken;
        }
        if listed > FEW {
            return Relief::Perhaps;
        }
        // Blocks come to lie idle meanwhile. But between two looks that find as many leases and
        // returns there were none, so all of what they found lay idle at once.
        let at_rest = idle == members.idle_among(&node.caching, own);
        if idle.bytes < missing && at_rest { Relief::None } else { Relief::Perhaps }
    }
}

#[cfg(all(test, not(leasehold_loom)))]
mod tests {
    use super::*;
    use crate::keyed::KeyedHasher;
    use crate::limits::Limits;
    use crate::scope::{Partition, Tree};

    /// A member that has nothing.
    #[derive(Clone)]
    struct Poor;

    impl Member for Poor {
        fn idle(&self) -> Idle {
            Idle::default()
        }

        fn first_idle(&self) -> Idle {
            Idle::default()
        }
    }

    /// A bind lists members in a scope that is being reclaimed from. That goes on no longer for them.
    #[test]
    fn members_that_come_meanwhile_do_not_make_a_visit_endless() {
        let tree = Tree::new(Limits::unlimited(), KeyedHasher::random());
        let parents = tree.lock().hold(None, None, Partition::Ordinary).unwrap();
        (1..=100).for_each(|id| assert!(tree.lock().list(id, &Poor, parents)));
        let mut visited = 0;
        tree.for_each_member(ScopeRef::System(Partition::Ordinary), |_| {
            visited += 1;
            assert!(tree.lock().list(100 + visited, &Poor, parents));
            visited < 10_000
        });
        assert_eq!(visited, 100);
    }
}
