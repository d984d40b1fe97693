//! Every scope, its limits beside it, and the way up from a connection.

use std::convert::Infallible;

use super::demand::Ceilings;
use super::named::{NameRef, NamedScopes, Names};
use super::node::{Ancestor, Node};
use super::{Named, Parents, Partition, ScopeRef};
use crate::error::Scope;
use crate::limits::{Limits, Observe};
use crate::sync::Arc;
use crate::try_box::OutOfMemory;
use crate::usage::Tally;

/// Every scope, and the limits of all.
pub(super) struct Nodes {
    /// Shared only while a thread copies them.
    limits: Arc<Limits>,
    /// The scopes that only observe, as the limits have them.
    pub(super) observe: Observe,
    /// Rises with every change of limits: a scope that was looked up in older ones is looked up
    /// again when it is next used.
    generation: u32,
    pub(super) ceilings: AllCeilings,
    /// By partition.
    systems: [Node; 2],
    transients: [Node; 2],
    pub(super) named: NamedScopes,
}

/// The limits of the scopes that always exist, and of those that have none of their own.
pub(super) struct AllCeilings {
    pub(super) stream: Ceilings,
    pub(super) connection: Ceilings,
    peer: Ceilings,
    class: Ceilings,
    class_peer: Ceilings,
    /// By partition.
    systems: [Ceilings; 2],
    transients: [Ceilings; 2],
}

impl Nodes {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            ceilings: AllCeilings::new(&limits),
            observe: limits.observe,
            limits: Arc::new(limits),
            generation: 0,
            systems: Default::default(),
            transients: Default::default(),
            named: NamedScopes::new(),
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
        self.ceilings = AllCeilings::new(&limits);
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
        mut visit: impl FnMut(Ancestor<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let partition = parents.partition();
        if let Some(peer) = parents.peer() {
            self.visit(ScopeRef::Named(Names::peer(peer)), &mut visit)?;
        } else if !parents.are_departed() {
            self.visit(ScopeRef::Transient(partition), &mut visit)?;
        }
        if let Some(class) = parents.class {
            self.climb_class(class, parents.peer(), &mut visit)?;
        }
        self.visit(ScopeRef::System(partition), visit)
    }

    /// Visits a class, after the peer's part of it.
    pub(super) fn climb_class<E>(
        &mut self,
        class: NameRef,
        peer: Option<NameRef>,
        mut visit: impl FnMut(Ancestor<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if let Some(peer) = peer {
            self.visit(ScopeRef::Named(Names::part(class, peer)), &mut visit)?;
        }
        self.visit(ScopeRef::Named(Names::class(class)), visit)
    }

    /// [Climbs](Self::climb) to the top.
    #[inline(always)]
    pub(super) fn each(&mut self, parents: Parents, mut visit: impl FnMut(Ancestor<'_>)) {
        let Ok(()) = self.climb(parents, |above| {
            visit(above);
            Ok::<_, Infallible>(())
        });
    }

    /// [Climbs](Self::climb_class) to the top.
    pub(super) fn each_of_class(
        &mut self,
        class: NameRef,
        peer: Option<NameRef>,
        mut visit: impl FnMut(Ancestor<'_>),
    ) {
        let Ok(()) = self.climb_class(class, peer, |above| {
            visit(above);
            Ok::<_, Infallible>(())
        });
    }

    #[inline(always)]
    fn visit<E>(
        &mut self,
        at: ScopeRef,
        mut visit: impl FnMut(Ancestor<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.ancestor(at).map_or(Ok(()), &mut visit)
    }

    /// One scope with the limits in force, if it is still there.
    #[inline(always)]
    pub(super) fn ancestor(&mut self, at: ScopeRef) -> Option<Ancestor<'_>> {
        let observes = self.observe.contains(at.scope());
        let fixed = &self.ceilings;
        let (node, ceilings) = match at {
            ScopeRef::System(of) => (&mut self.systems[of as usize], &fixed.systems[of as usize]),
            ScopeRef::Transient(of) => {
                (&mut self.transients[of as usize], &fixed.transients[of as usize])
            }
            ScopeRef::Named(of) => {
                let default = match (of.class, of.peer) {
                    (None, _) => &fixed.peer,
                    (Some(_), None) => &fixed.class,
                    (Some(_), Some(_)) => &fixed.class_peer,
                };
                self.named.get_mut(of)?.in_force(&self.limits, self.generation, default)
            }
        };
        Some(Ancestor { at, node, ceilings, observes })
    }

    /// The two scopes that count a connection which is there and in no class.
    #[inline(always)]
    pub(super) fn two(&mut self, parents: Parents) -> Option<[(&mut Node, &Ceilings); 2]> {
        let of = parents.partition() as usize;
        let fixed = &self.ceilings;
        let first = match parents.peer() {
            Some(peer) => {
                let scope = self.named.get_mut(Names::peer(peer))?;
                scope.in_force(&self.limits, self.generation, &fixed.peer)
            }
            None => (&mut self.transients[of], &fixed.transients[of]),
        };
        Some([first, (&mut self.systems[of], &fixed.systems[of])])
    }

    /// The limits of each connection, or of each stream.
    #[inline(always)]
    pub(super) fn own_ceilings(&self, of: Scope) -> &Ceilings {
        match of {
            of if self.observe.contains(of) => &Ceilings::NONE,
            Scope::Stream => &self.ceilings.stream,
            _ => &self.ceilings.connection,
        }
    }

    /// One scope, if it is still there.
    pub(super) fn get_mut(&mut self, at: ScopeRef) -> Option<&mut Node> {
        self.ancestor(at).map(|above| above.node)
    }

    /// What a system uses.
    pub(super) fn used(&self, system: Partition) -> Tally {
        self.systems[system as usize].used
    }
}

/// Holding and letting go.
impl Nodes {
    pub(super) fn hold_peer(&mut self, key: Named<'_>) -> Result<NameRef, OutOfMemory> {
        self.named.hold(Names::peer, key, &self.limits, self.generation)
    }

    /// Holds a class, and the peer's part of it if the peer is known; or neither.
    pub(super) fn hold_class(
        &mut self,
        name: Named<'_>,
        peer: Option<NameRef>,
    ) -> Result<NameRef, OutOfMemory> {
        let class = self.named.hold(Names::class, name, &self.limits, self.generation)?;
        if let Some(peer) = peer {
            let part = self.hold_part(class, peer, 1);
            part.inspect_err(|_| self.named.release(Names::class(class), 1))?;
        }
        Ok(class)
    }

    /// Holds a peer's part of a class this many times.
    pub(super) fn hold_part(
        &mut self,
        class: NameRef,
        peer: NameRef,
        holders: u32,
    ) -> Result<(), OutOfMemory> {
        self.named.hold_part((class, peer), holders, &self.limits, self.generation)
    }

    /// Lets go of a class, and of the peer's part of it if the peer is known.
    pub(super) fn release_class(&mut self, class: NameRef, peer: Option<NameRef>) {
        if let Some(peer) = peer {
            self.named.release(Names::part(class, peer), 1);
        }
        self.named.release(Names::class(class), 1);
    }

    /// Holds a scope once more. `false`: it is gone.
    pub(super) fn hold_again(&mut self, at: ScopeRef) -> bool {
        match at {
            ScopeRef::Named(of) => self.named.hold_again(of),
            ScopeRef::System(_) | ScopeRef::Transient(_) => true,
        }
    }

    /// Lets go of what [`hold_again`](Self::hold_again) holds.
    pub(super) fn release_again(&mut self, at: ScopeRef) {
        if let ScopeRef::Named(of) = at {
            self.named.release(of, 1);
        }
    }

    /// Lets go of every scope that a connection holds.
    pub(super) fn release(&mut self, parents: Parents) {
        if let Some(class) = parents.class {
            self.release_class(class, parents.peer());
        }
        if let Some(peer) = parents.peer() {
            self.named.release(Names::peer(peer), 1);
        }
    }
}

impl AllCeilings {
    fn new(limits: &Limits) -> Self {
        let both = |of: [_; 2]| of.map(Ceilings::new);
        Self {
            stream: Ceilings::new(limits.stream),
            connection: Ceilings::new(limits.connection),
            peer: Ceilings::new(limits.peer),
            class: Ceilings::new(limits.class_default),
            class_peer: Ceilings::new(limits.class_peer_default),
            systems: both([limits.system, limits.allowlisted_system]),
            transients: both([limits.transient, limits.allowlisted_transient]),
        }
    }
}
