//! How often each scope refused each thing.

use crate::error::{Reason, Refused, Resource, Scope};

/// Counts by scope, resource and reason.
#[derive(Clone, Default)]
pub(crate) struct Refusals {
    counts: [[[u64; Reason::ALL.len()]; Resource::ALL.len()]; Scope::ALL.len()],
}

impl Refusals {
    pub(super) fn count(&mut self, refused: &Refused) {
        let row = &mut self.counts[refused.scope() as usize][refused.resource() as usize];
        row[refused.reason() as usize] += 1;
    }

    /// What happened at least once.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Scope, Resource, Reason, u64)> {
        Scope::ALL.into_iter().flat_map(move |scope| {
            Resource::ALL.into_iter().flat_map(move |resource| {
                Reason::ALL.into_iter().filter_map(move |reason| {
                    let count = self.counts[scope as usize][resource as usize][reason as usize];
                    (count > 0).then_some((scope, resource, reason, count))
                })
            })
        })
    }
}
