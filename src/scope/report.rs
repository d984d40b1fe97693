//! What can be seen of the tree.
//!
//! Scopes are read part by part, with the lock let go in between and memory for the rows reserved
//! before it is taken, so that a report on a million of them holds no thread up for long.

use super::named::{NamedScope, Names, class_name};
use super::nodes::Nodes;
use super::table::PARTS;
use super::{Member, Partition, Refusals, ScopeRef, Tree};
use crate::name::PeerKey;
use crate::report::ScopeRow;
use crate::usage::Usage;

/// What is counted beside the scopes.
pub(crate) struct TreeCounters {
    pub(crate) refusals: Refusals,
    pub(crate) observed: Refusals,
    pub(crate) admitted: u64,
    /// What is allocated behind the limits by address.
    pub(crate) subnet_bytes: usize,
}

impl<M: Member> Tree<M> {
    /// The scopes that always exist.
    pub(crate) fn fixed_rows(&self) -> Vec<ScopeRow> {
        let mut rows = Vec::with_capacity(4);
        let partitions = [Partition::Ordinary, Partition::Allowlisted];
        let fixed = partitions.map(|of| [ScopeRef::System(of), ScopeRef::Transient(of)]);
        for at in fixed.into_iter().flatten() {
            if let Some(above) = self.lock().nodes.ancestor(at) {
                rows.push(ScopeRow {
                    scope: at.scope(),
                    class: None,
                    peer: None,
                    usage: above.node.used.usage(),
                    limits: above.ceilings.limits,
                    observes: above.observes,
                });
            }
        }
        rows
    }

    /// Every scope: those that always exist first.
    pub(crate) fn rows(&self) -> Vec<ScopeRow> {
        let mut rows = self.fixed_rows();
        for part in 0..PARTS {
            // Room for the rows is made without the lock.
            let expected = self.lock().nodes.named.table.part(part).len();
            rows.reserve(expected + expected / 8 + 8);
            let nodes = &self.lock().nodes;
            rows.extend(nodes.named.table.part(part).iter().map(|scope| nodes.row(scope)));
        }
        rows
    }

    /// The counters.
    pub(crate) fn counters(&self) -> TreeCounters {
        let scopes = self.lock();
        TreeCounters {
            refusals: scopes.refusals.clone(),
            observed: scopes.observed.clone(),
            admitted: scopes.admitted,
            subnet_bytes: scopes.subnets.memory_bytes(),
        }
    }

    /// The connections that ended since the last call.
    #[cfg(feature = "metrics")]
    pub(crate) fn take_ended(&self) -> crate::counters::Ended {
        std::mem::take(&mut self.lock().ended)
    }

    /// What the ordinary system uses.
    pub(crate) fn system_usage(&self) -> Usage {
        self.lock().nodes.used(Partition::Ordinary).usage()
    }
}

impl Nodes {
    fn row(&self, scope: &NamedScope) -> ScopeRow {
        let (all, of, name) = (self.limits(), scope.of(), scope.name());
        let peer = of.peer.and_then(|peer| self.named.get(Names::peer(peer)));
        let (limits, class) = match (of.class, of.peer) {
            (None, _) => (all.peers.get(name).unwrap_or(&all.peer), None),
            (Some(_), None) => (all.of_class(class_name(name)), Some(class_name(name))),
            (Some(_), Some(_)) => (all.of_class_peer(class_name(name)), Some(class_name(name))),
        };
        let level = ScopeRef::Named(of).scope();
        ScopeRow {
            scope: level,
            class: class.map(Into::into),
            peer: peer.map(|peer| PeerKey::of_bounded(peer.name())),
            usage: scope.node.used.usage(),
            limits: *limits,
            observes: self.observe.contains(level),
        }
    }
}
