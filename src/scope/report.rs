//! What can be seen of the tree.
//!
//! Peers are read part by part, with the lock let go in between, so that a report on a million of
//! them keeps nobody waiting for long.

use super::levels::Levels;
use super::{LevelRef, PARTS, Realm, Refusals, Tree};
use crate::limits::ScopeLimits;
use crate::usage::Usage;

/// A scope's use beside the limits in force.
pub(crate) type Seen = (Usage, ScopeLimits);

/// Every scope's use beside its limits.
pub(crate) struct TreeReport {
    pub(crate) system: Seen,
    pub(crate) transient: Seen,
    pub(crate) allowlisted_system: Seen,
    pub(crate) allowlisted_transient: Seen,
    pub(crate) classes: Vec<(Box<str>, Seen)>,
    pub(crate) peers: Vec<(Box<[u8]>, Seen)>,
    pub(crate) class_peers: Vec<(Box<str>, Box<[u8]>, Seen)>,
    pub(crate) refusals: Refusals,
    pub(crate) observed: Refusals,
    pub(crate) admitted: u64,
    /// What is allocated behind the limits by address.
    pub(crate) subnet_bytes: usize,
}

impl<M: Clone> Tree<M> {
    pub(crate) fn report(&self) -> TreeReport {
        let (mut peers, mut class_peers) = (Vec::new(), Vec::new());
        for part in 0..PARTS {
            let mut scopes = self.scopes.lock();
            let Levels { bounds, peers: table, classes, crossings, .. } = &mut scopes.levels;
            peers.extend(table.part_at(part).map(|peer| {
                let seen = (peer.level.usage.usage(), peer.bounds(&bounds.peer).limits);
                (peer.key().into(), seen)
            }));
            for crossing in crossings.part_at(part) {
                if let Some(class) = classes.get(crossing.class())
                    && let Some(peer) = table.get(crossing.peer())
                {
                    let seen = (crossing.level.usage.usage(), class.peer_bounds.limits);
                    class_peers.push((class.name().into(), peer.key().into(), seen));
                }
            }
        }
        let mut scopes = self.scopes.lock();
        let classes = scopes.levels.classes.iter();
        let classes = classes
            .map(|class| (class.name().into(), (class.level.usage.usage(), class.bounds.limits)))
            .collect();
        TreeReport {
            system: scopes.levels.seen(LevelRef::System(Realm::Ordinary)),
            transient: scopes.levels.seen(LevelRef::Transient(Realm::Ordinary)),
            allowlisted_system: scopes.levels.seen(LevelRef::System(Realm::Allowlisted)),
            allowlisted_transient: scopes.levels.seen(LevelRef::Transient(Realm::Allowlisted)),
            classes,
            peers,
            class_peers,
            refusals: scopes.refusals.clone(),
            observed: scopes.observed.clone(),
            admitted: scopes.admitted,
            subnet_bytes: scopes.subnets.memory_bytes(),
        }
    }

    /// What the ordinary system uses.
    pub(crate) fn system_usage(&self) -> Usage {
        self.scopes.lock().levels.realms[Realm::Ordinary as usize].system.usage.usage()
    }
}

impl<M> Levels<M> {
    fn seen(&mut self, level: LevelRef) -> Seen {
        self.with(level, |level, bounds| (level.usage.usage(), bounds.limits)).unwrap_or_default()
    }
}
