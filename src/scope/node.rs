//! One scope: what it uses, and which connections may keep idle blocks below it.

use super::ScopeRef;
use super::demand::{Ceilings, Demand};
use super::members::{Member, Members, OwnIdle};
use crate::error::Refused;
use crate::try_box::OutOfMemory;
use crate::usage::Tally;

/// One scope of the tree. Its limits lie beside it.
#[derive(Default)]
pub(super) struct Node {
    pub(super) used: Tally,
    /// How many requests reclaim idle blocks from this scope right now. Meanwhile no connection
    /// below it starts to keep blocks.
    pub(super) reclaiming: u32,
    /// The place of the member that is the likeliest to have an idle block.
    pub(super) likeliest: u32,
    /// The ids of the [`Members`] below.
    pub(super) caching: Vec<u64>,
}

impl Node {
    /// Makes room for one more member.
    pub(super) fn reserve(&mut self) -> Result<(), OutOfMemory> {
        self.caching.try_reserve(1).map_err(|_| OutOfMemory)
    }
}

/// A scope above a connection, with the limits in force.
pub(super) struct Ancestor<'a> {
    pub(super) at: ScopeRef,
    pub(super) node: &'a mut Node,
    pub(super) ceilings: &'a Ceilings,
    /// Whether the scope refuses nothing and only counts what it would refuse.
    pub(super) observes: bool,
}

impl Ancestor<'_> {
    /// Whether there is room for `request`. A scope that only observes has room for all that can be
    /// counted.
    #[inline(always)]
    pub(super) fn has_room(&self, request: &Demand) -> bool {
        self.enforced().fit(&self.node.used, request)
    }

    /// As [`has_room`](Self::has_room), with an error that tells why not.
    pub(super) fn check(&self, request: &Demand) -> Result<(), Refused> {
        self.enforced().check(self.at.scope(), &self.node.used, request)
    }

    #[inline(always)]
    fn enforced(&self) -> &Ceilings {
        if self.observes { &Ceilings::NONE } else { self.ceilings }
    }

    /// What a scope that only observes would have refused. Idle blocks in its way do not count.
    #[cold]
    pub(super) fn observe<M: Member>(
        &self,
        request: &Demand,
        members: &Members<M>,
        own: OwnIdle,
    ) -> Option<Refused> {
        let check = |request| self.ceilings.check(self.at.scope(), &self.node.used, request).err();
        let refused = check(request)?;
        let in_vain = refused.missing_bytes().is_none_or(|missing| {
            members.observed_idle(&self.node.caching, own, missing) < missing
        });
        if in_vain {
            return Some(refused);
        }
        // Idle blocks make room for the memory, but not for what is counted.
        check(&Demand { usage: request.usage.with_memory(0), ..*request })
    }

    /// Whether a connection below may start to keep blocks.
    pub(super) fn may_cache(&self) -> bool {
        self.node.reclaiming == 0 && !self.bars_idle()
    }

    /// Whether no block may lie idle below, since memory is blocked here.
    pub(super) fn bars_idle(&self) -> bool {
        !self.observes && self.ceilings.bars_memory()
    }
}
