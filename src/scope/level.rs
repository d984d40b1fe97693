//! One scope: what it uses, and who presses on it.

use std::collections::BTreeMap;

use super::request::Bounds;
use crate::error::{Refused, Resource};
use crate::usage::Tally;

/// One scope's use and pressure. Its limits are found in the tree's.
pub(super) struct Level<M> {
    pub(super) usage: Tally,
    /// How many requests press on this scope right now.
    pub(super) pressing: u32,
    pub(super) tight: bool,
    /// Members that may hold idle memory, by their ids.
    caching: BTreeMap<u64, M>,
}

impl<M> Level<M> {
    pub(super) fn new() -> Self {
        Self { usage: Tally::default(), pressing: 0, tight: false, caching: BTreeMap::new() }
    }

    #[inline]
    pub(super) fn sub(&mut self, less: &Tally, bounds: &Bounds) {
        self.usage.sub(less);
        self.relax(bounds);
    }

    /// Ends tightness once there is room again and nobody presses.
    #[inline]
    pub(super) fn relax(&mut self, bounds: &Bounds) {
        if self.tight && self.pressing == 0 {
            let limit = bounds.limits.memory.max();
            self.tight = self.usage.memory > limit - limit / 8;
        }
    }

    pub(super) fn list(&mut self, id: u64, member: M) {
        self.caching.insert(id, member);
    }

    #[inline]
    pub(super) fn unlist(&mut self, id: u64) -> Option<M> {
        if self.caching.is_empty() {
            return None;
        }
        let member = self.caching.remove(&id);
        if self.caching.is_empty() {
            // An emptied map keeps its last node.
            self.caching = BTreeMap::new();
        }
        member
    }
}

impl<M: Clone> Level<M> {
    pub(super) fn first_caching(&self) -> Option<M> {
        self.caching.first_key_value().map(|(_, member)| member.clone())
    }

    /// A member whose idle memory might make room for what was refused. Memory that the scope lacks
    /// makes it tight.
    pub(super) fn victim(&mut self, refused: &Refused) -> Option<M> {
        if refused.resource() != Resource::Memory || refused.never_fits() {
            return None;
        }
        self.tight = true;
        self.first_caching()
    }
}
