//! Every scope, its limits beside it, and the way up from a connection.

use std::convert::Infallible;

use super::classes::{Class, ClassPeer, ClassPeers, ClassRef, Classes};
use super::demand::Ceilings;
use super::node::{Ancestor, Node};
use super::peers::{PeerRef, Peers};
use super::{Named, Parents, ScopeRef, Standing};
use crate::error::Scope;
use crate::limits::{Limits, Observe};
use crate::sync::Arc;
use crate::try_box::OutOfMemory;

/// Every scope, and the limits of all.
pub(super) struct Nodes {
    /// Shared only while a thread copies them.
    limits: Arc<Limits>,
    /// The scopes that only observe, as the limits have them.
    pub(super) observe: Observe,
    /// Rises with every change of limits: a scope that was looked up in older ones is looked up
    /// again when it is next used.
    generation: u32,
    pub(super) fixed: FixedCeilings,
    partitions: [PartitionNodes; 2],
    pub(super) peers: Peers,
    pub(super) classes: Classes,
    pub(super) class_peers: ClassPeers,
}

/// The limits of the scopes that always exist, and of those that have none of their own.
pub(super) struct FixedCeilings {
    pub(super) stream: Ceilings,
    pub(super) connection: Ceilings,
    pub(super) peer: Ceilings,
    partitions: [PartitionCeilings; 2],
}

struct PartitionCeilings {
    system: Ceilings,
    transient: Ceilings,
}

#[derive(Default)]
struct PartitionNodes {
    system: Node,
    transient: Node,
}

impl Nodes {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            fixed: FixedCeilings::new(&limits),
            observe: limits.observe,
            limits: Arc::new(limits),
            generation: 0,
            partitions: Default::default(),
            peers: Peers::new(),
            classes: Classes::new(),
            class_peers: ClassPeers::new(),
        }
    }

    pub(super) fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    /// The limits, to be changed in place, unless a thread is copying them.
    pub(super) fn limits_mut(&mut self) -> Option<&mut Limits> {
        self.generation = self.generation.wrapping_add(1);
        Arc::get_mut(&mut self.limits)
    }

    /// Takes over new limits, and returns those that they replace.
    #[must_use = "limits are dropped after the lock"]
    pub(super) fn set_limits(&mut self, limits: Arc<Limits>) -> Arc<Limits> {
        self.fixed = FixedCeilings::new(&limits);
        self.observe = limits.observe;
        self.generation = self.generation.wrapping_add(1);
        std::mem::replace(&mut self.limits, limits)
    }

    /// Visits the scopes that count a connection, in the order in which they are asked, until one
    /// objects.
    #[inline(always)]
    pub(super) fn climb<E>(
        &mut self,
        parents: Parents,
        standing: Standing,
        mut visit: impl FnMut(Ancestor<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Self { limits, observe, generation, fixed, partitions, peers, classes, class_peers } =
            self;
        let mut visit = |at: ScopeRef, node: &mut Node, ceilings: &Ceilings| {
            visit(Ancestor { at, node, ceilings, observes: observe.contains(at.scope()) })
        };
        let partition = parents.partition;
        let PartitionNodes { system, transient } = &mut partitions[partition as usize];
        let ceilings = &fixed.partitions[partition as usize];
        let present = standing == Standing::Present;
        match parents.peer() {
            Some(at) => {
                if let Some(peer) = peers.get_mut(at) {
                    peer.refresh(limits, *generation);
                    let (node, ceilings) = peer.parts(&fixed.peer);
                    visit(ScopeRef::Peer(at), node, ceilings)?;
                }
            }
            None if present => {
                visit(ScopeRef::Transient(partition), transient, &ceilings.transient)?;
            }
            None => {}
        }
        if let Some(at) = parents.class
            && present
            && let Some(class) = classes.get_mut(at)
        {
            class.refresh(limits, *generation);
            let Class { node, ceilings, peer_ceilings, .. } = class;
            if let Some(peer) = parents.peer()
                && let Some(ClassPeer { node, .. }) = class_peers.find_mut(at, peer)
            {
                visit(ScopeRef::ClassPeer(at, peer), node, peer_ceilings)?;
            }
            visit(ScopeRef::Class(at), node, ceilings)?;
        }
        visit(ScopeRef::System(partition), system, &ceilings.system)
    }

    /// [Climbs](Self::climb) to the top.
    #[inline(always)]
    pub(super) fn each(
        &mut self,
        parents: Parents,
        standing: Standing,
        mut visit: impl FnMut(Ancestor<'_>),
    ) {
        let Ok(()) = self.climb(parents, standing, |above| {
            visit(above);
            Ok::<_, Infallible>(())
        });
    }

    /// Visits a class that only a stream is charged to, after its peer's part of it.
    pub(super) fn climb_class<E>(
        &mut self,
        at: ClassRef,
        peer: Option<PeerRef>,
        mut visit: impl FnMut(Ancestor<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Self { limits, observe, generation, classes, class_peers, .. } = self;
        let Some(class) = classes.get_mut(at) else { return Ok(()) };
        class.refresh(limits, *generation);
        let Class { node, ceilings, peer_ceilings, .. } = class;
        if let Some(peer) = peer
            && let Some(ClassPeer { node, .. }) = class_peers.find_mut(at, peer)
        {
            let observes = observe.contains(Scope::ClassPeer);
            let at = ScopeRef::ClassPeer(at, peer);
            visit(Ancestor { at, node, ceilings: peer_ceilings, observes })?;
        }
        let observes = observe.contains(Scope::Class);
        visit(Ancestor { at: ScopeRef::Class(at), node, ceilings, observes })
    }

    /// [Climbs](Self::climb_class) to the top.
    pub(super) fn each_of_class(
        &mut self,
        at: ClassRef,
        peer: Option<PeerRef>,
        mut visit: impl FnMut(Ancestor<'_>),
    ) {
        let Ok(()) = self.climb_class(at, peer, |above| {
            visit(above);
            Ok::<_, Infallible>(())
        });
    }

    /// One scope, if it is still there.
    pub(super) fn get_mut(&mut self, at: ScopeRef) -> Option<&mut Node> {
        Some(match at {
            ScopeRef::System(partition) => &mut self.partitions[partition as usize].system,
            ScopeRef::Transient(partition) => &mut self.partitions[partition as usize].transient,
            ScopeRef::Peer(peer) => &mut self.peers.get_mut(peer)?.node,
            ScopeRef::Class(class) => &mut self.classes.get_mut(class)?.node,
            ScopeRef::ClassPeer(class, peer) => &mut self.class_peers.find_mut(class, peer)?.node,
        })
    }

    /// A peer that may have no memory, if it is there.
    pub(super) fn barred_peer(&mut self, key: Named<'_, [u8]>) -> Option<PeerRef> {
        let Self { limits, generation, fixed, peers, .. } = self;
        let peer = peers.find_mut(key)?;
        peer.refresh(limits, *generation);
        let at = peer.at();
        peer.parts(&fixed.peer).1.bars_memory().then_some(at)
    }

    /// The limits in force for one of the scopes that always exist.
    pub(super) fn fixed_ceilings(&self, at: ScopeRef) -> Option<&Ceilings> {
        match at {
            ScopeRef::System(partition) => Some(&self.fixed.partitions[partition as usize].system),
            ScopeRef::Transient(partition) => {
                Some(&self.fixed.partitions[partition as usize].transient)
            }
            ScopeRef::Peer(_) | ScopeRef::Class(_) | ScopeRef::ClassPeer(..) => None,
        }
    }
}

/// Holding and letting go.
impl Nodes {
    /// Holds a peer's scope, a class's, and the peer's part of the class; or none of them.
    pub(super) fn hold(
        &mut self,
        peer: Option<Named<'_, [u8]>>,
        class: Option<Named<'_, str>>,
    ) -> Result<(Option<PeerRef>, Option<ClassRef>), OutOfMemory> {
        let Self { limits, generation, peers, classes, class_peers, .. } = self;
        let peer = peer.map(|peer| peers.hold(peer, limits, *generation)).transpose()?;
        let class = class.map(|class| classes.hold(class, limits, *generation)).transpose();
        let held = class.and_then(|class| {
            let Some((class, peer)) = class.zip(peer) else { return Ok(class) };
            let part = class_peers.hold(class, peer, 1).inspect_err(|_| classes.release(class));
            part.map(|()| Some(class))
        });
        if let (Err(_), Some(peer)) = (held, peer) {
            peers.release(peer);
        }
        Ok((peer, held?))
    }

    /// Lets go of what [`hold`](Self::hold) holds.
    pub(super) fn release(&mut self, peer: Option<PeerRef>, class: Option<ClassRef>) {
        self.release_class(class, peer);
        if let Some(peer) = peer {
            self.peers.release(peer);
        }
    }

    /// Lets go of a class, and of the peer's part of it if the peer is known.
    pub(super) fn release_class(&mut self, class: Option<ClassRef>, peer: Option<PeerRef>) {
        let Some(class) = class else { return };
        if let Some(peer) = peer {
            self.class_peers.release(class, peer, 1);
        }
        self.classes.release(class);
    }

    /// Holds a scope once more, with those that it belongs to. `false`: it is gone.
    pub(super) fn hold_again(&mut self, at: ScopeRef) -> bool {
        if self.get_mut(at).is_none() {
            return false;
        }
        match at {
            ScopeRef::System(_) | ScopeRef::Transient(_) => true,
            ScopeRef::Peer(peer) => {
                self.peers.hold_again(peer);
                true
            }
            ScopeRef::Class(class) => {
                self.classes.hold_again(class);
                true
            }
            ScopeRef::ClassPeer(class, peer) => {
                let held = self.class_peers.hold(class, peer, 1).is_ok();
                if held {
                    self.peers.hold_again(peer);
                    self.classes.hold_again(class);
                }
                held
            }
        }
    }

    /// Lets go of what [`hold_again`](Self::hold_again) holds.
    pub(super) fn release_again(&mut self, at: ScopeRef) {
        match at {
            ScopeRef::System(_) | ScopeRef::Transient(_) => {}
            ScopeRef::Peer(peer) => self.peers.release(peer),
            ScopeRef::Class(class) => self.classes.release(class),
            ScopeRef::ClassPeer(class, peer) => self.release(Some(peer), Some(class)),
        }
    }
}

impl FixedCeilings {
    fn new(limits: &Limits) -> Self {
        let partition = |system, transient| PartitionCeilings {
            system: Ceilings::new(system),
            transient: Ceilings::new(transient),
        };
        Self {
            stream: Ceilings::new(limits.stream),
            connection: Ceilings::new(limits.connection),
            peer: Ceilings::new(limits.peer),
            partitions: [
                partition(limits.system, limits.transient),
                partition(limits.allowlisted_system, limits.allowlisted_transient),
            ],
        }
    }
}
