//! What can be seen of the tree.
//!
//! Scopes are read part by part, with the lock let go in between and memory for the rows reserved
//! before it is taken, so that a report on a million of them holds no thread up for long.

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
    /// The scopes that always exist.
    pub(crate) fn fixed_rows(&self) -> Vec<ScopeRow> {
        let mut rows = Vec::with_capacity(4);
        let partitions = [Partition::Ordinary, Partition::Allowlisted];
        let fixed = partitions.map(|of| [ScopeRef::System(of), ScopeRef::Transient(of)]);
        for at in fixed.into_iter().flatten() {
            let mut scopes = self.lock();
            let nodes = &mut scopes.nodes;
            let limits = nodes.fixed_ceilings(at).map(|ceilings| ceilings.limits);
            if let (Some(limits), Some(node)) = (limits, nodes.get_mut(at)) {
                let usage = node.used.usage();
                rows.push(ScopeRow { scope: at.scope(), class: None, peer: None, usage, limits });
            }
        }
        rows
    }

    /// Every scope: those that always exist first.
    pub(crate) fn rows(&self) -> Vec<ScopeRow> {
        let mut rows = self.fixed_rows();
        for part in 0..PARTS {
            // Room for the rows is made without the lock.
            let expected = self.lock().nodes.part_len(part);
            rows.reserve(expected + expected / 8 + 8);
            self.lock().nodes.read_part(part, &mut rows);
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
        let mut scopes = self.lock();
        let system = scopes.nodes.get_mut(ScopeRef::System(Partition::Ordinary));
        system.map(|node| node.used.usage()).unwrap_or_default()
    }
}

impl Nodes {
    fn part_len(&self, part: usize) -> usize {
        let Self { peers, classes, class_peers, .. } = self;
        let [peers, classes] = [peers.table.part(part).len(), classes.table.part(part).len()];
        peers + classes + class_peers.table.part(part).len()
    }

    fn read_part(&self, part: usize, rows: &mut Vec<ScopeRow>) {
        let (all, Self { peers, classes, class_peers, .. }) = (self.limits(), self);
        rows.extend(classes.table.part(part).iter().map(|class| ScopeRow {
            scope: Scope::Class,
            class: Some(class.name().into()),
            peer: None,
            usage: class.node.used.usage(),
            limits: *all.of_class(class.name()),
        }));
        rows.extend(peers.table.part(part).iter().map(|peer| ScopeRow {
            scope: Scope::Peer,
            class: None,
            peer: Some(PeerKey::of_bounded(peer.key())),
            usage: peer.node.used.usage(),
            limits: *all.peers.get(peer.key()).unwrap_or(&all.peer),
        }));
        rows.extend(class_peers.table.part(part).iter().filter_map(|both| {
            let class = classes.get(both.class)?.name();
            Some(ScopeRow {
                scope: Scope::ClassPeer,
                class: Some(class.into()),
                peer: Some(PeerKey::of_bounded(peers.get(both.peer)?.key())),
                usage: both.node.used.usage(),
                limits: *all.of_class_peer(class),
            })
        }));
    }
}
