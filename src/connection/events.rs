//! What is told to `tracing`: at most one event in 30 s for each line and for each scope, whatever remote
//! peers do.

use std::collections::BTreeMap;
use std::panic::Location;
use std::time::Duration;

use super::{Holder, Shared};
use crate::error::{Reason, Refused, Resource, Scope};
use crate::sync::Mutex;

/// When each event was told last.
pub(super) struct Events {
    told: Mutex<BTreeMap<Event, Duration>>,
    old: Duration,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Orphaned(&'static Location<'static>),
    Old(&'static Location<'static>),
    Refused(Scope, Resource, Reason),
    /// All connections were looked at for orphans that are old.
    Walk,
}

impl Events {
    const PAUSE: Duration = Duration::from_secs(30);

    /// None yet. An orphan is old from this age on.
    pub(super) fn new(old: Duration) -> Self {
        Self { told: Mutex::default(), old }
    }
}

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
                let (kind, bottleneck) = (kind.label(), self.bottleneck());
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
        let is_due = told.get(&event).is_none_or(|last| now - *last >= Events::PAUSE);
        if is_due {
            told.insert(event, now);
        }
        is_due
    }

    /// The fullest resource of the scopes that always exist.
    fn bottleneck(&self) -> String {
        let rows = self.tree.fixed_rows();
        let limited = rows.iter().flat_map(|row| {
            Resource::ALL.map(|resource| (row, resource, row.limits.of(resource).max()))
        });
        let full = |(row, resource, max): &(&crate::report::ScopeRow, Resource, u64)| {
            row.usage.of(*resource) as f64 / (*max).max(1) as f64
        };
        let fullest = limited.max_by(|a, b| full(a).total_cmp(&full(b)));
        let told = fullest.map(|(row, resource, max)| {
            format!("{} {}: {} of {max}", row.scope, resource, row.usage.of(resource))
        });
        told.unwrap_or_default()
    }
}
