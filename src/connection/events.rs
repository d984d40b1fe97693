//! What is told to `tracing`: at most one event in 30 s for each line and for each scope, whatever remote
//! peers do.

use std::collections::BTreeMap;
use std::panic::Location;
use std::time::Duration;

use super::{Holder, Shared};
use crate::error::{Reason, Refused, Resource, Scope};
use crate::summary::ScopeUse;
use crate::sync::Mutex;

/// When each event was told last.
#[derive(Default)]
pub(crate) struct Events {
    told: Mutex<BTreeMap<Event, Duration>>,
    /// From which age on an orphan is old.
    pub(crate) old: Duration,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Orphaned(&'static Location<'static>),
    Old(&'static Location<'static>),
    Refused(Scope, Resource, Reason),
    /// All connections were looked at for orphans that are old.
    Walk,
}

const PAUSE: Duration = Duration::from_secs(30);

/// Call these with no lock held: a subscriber may run any code.
impl Shared {
    pub(super) fn tell_refused(&self, refused: &Refused) {
        if self.is_due(Event::Refused(refused.scope(), refused.resource(), refused.reason())) {
            let bottleneck = self.bottleneck();
            tracing::warn!(governor = self.name, bottleneck, "a scope refuses: {refused}");
        }
    }

    /// A guard went while these were still out.
    pub(super) fn tell_orphaned(&self, connection: u64, orphans: &[Holder]) {
        for Holder { site, bytes, kind, .. } in orphans {
            if self.is_due(Event::Orphaned(site)) {
                let bottleneck = self.bottleneck();
                tracing::warn!(
                    governor = self.name, connection, %site, bytes, kind, bottleneck,
                    "a guard dropped while a lease is still out"
                );
            }
        }
    }

    pub(super) fn tell_old_orphans(&self) {
        if !self.is_due(Event::Walk) {
            return;
        }
        let mut old = Vec::new();
        self.walk(|connection, walk| {
            connection.for_each_holder(walk, |holder| {
                if holder.orphaned && self.hot.age(holder.tick) >= self.events.old {
                    old.push(holder);
                }
            });
        });
        for Holder { site, bytes, tick, .. } in old {
            if self.is_due(Event::Old(site)) {
                let (age, bottleneck) = (self.hot.age(tick).as_secs(), self.bottleneck());
                tracing::warn!(
                    governor = self.name, %site, bytes, age_seconds = age, bottleneck,
                    "a lease still outlives its connection's guard"
                );
            }
        }
    }

    /// Whether an event was not told for a while, in which case it is now.
    fn is_due(&self, event: Event) -> bool {
        let now = self.hot.age(0);
        let mut told = self.events.told.lock();
        // Another thread may have read the clock later, and told this since.
        let is_due = told.get(&event).is_none_or(|last| now.saturating_sub(*last) >= PAUSE);
        if is_due {
            told.insert(event, now);
        }
        is_due
    }

    /// The fullest resource of the scopes that always exist.
    fn bottleneck(&self) -> String {
        let rows = self.tree.fixed_rows();
        let fullest = ScopeUse::fullest(&rows);
        fullest.map(|(row, of)| ScopeUse::of(row, of, None).to_string()).unwrap_or_default()
    }
}
