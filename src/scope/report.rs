//! What can be seen of the tree.
//!
//! Scopes are read part by part, with the lock let go in between and memory for the rows reserved
//! before it is taken, so that a report on a million of them holds no thread up for long.

use super::named::{NamedScope, class_name};
use super::nodes::Nodes;
use super::table::PARTS;
use super::{Member, Partition, Refusals, ScopeRef, Tree};
use crate::error::Scope;
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
    /// Every scope: those that always exist first.
    pub(crate) fn rows(&self) -> Vec<ScopeRow> {
        let mut rows = Vec::new();
        let partitions = [Partition::Ordinary, Partition::Allowlisted];
        let fixed = partitions.map(|of| [ScopeRef::System(of), ScopeRef::Transient(of)]);
        for at in fixed.into_iter().flatten() {
            if let Some(above) = self.lock().nodes.ancestor(at) {
                let (usage, limits) = (above.node.used.usage(), above.ceilings.limits);
                rows.push(ScopeRow { scope: at.scope(), class: None, peer: None, usage, limits });
            }
        }
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

    /// What the ordinary system uses.
    pub(crate) fn system_usage(&self) -> Usage {
        self.lock().nodes.used(Partition::Ordinary).usage()
    }
}

impl Nodes {
    fn row(&self, of: &NamedScope) -> ScopeRow {
        let (all, at, usage) = (self.limits(), of.at(), of.node.used.usage());
        let peer = match at {
            ScopeRef::ClassPeer(_, peer) => self.named.get(ScopeRef::Peer(peer)),
            _ => Some(of),
        };
        let peer = peer.map(|peer| PeerKey::of_bounded(peer.name()));
        let class = class_name(of.name());
        let (class, peer, limits) = match at.scope() {
            Scope::Peer => (None, peer, all.peers.get(of.name()).unwrap_or(&all.peer)),
            Scope::Class => (Some(class), None, all.of_class(class)),
            _ => (Some(class), peer, all.of_class_peer(class)),
        };
        ScopeRow { scope: at.scope(), class: class.map(Into::into), peer, usage, limits: *limits }
    }
}
