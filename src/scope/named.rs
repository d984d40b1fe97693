//! The scopes that have a name, of peers, of traffic classes and of each peer's part of a class: there
//! while something holds them, found by name or by reference.
//!
//! **Promise.** Memory is a function of what is held now: the last holder's release removes the
//! scope. Names may come from remote peers, so their hash is keyed.
//!
//! A class that the limits do not name has the default limits, and a scope of its own all the same:
//! what streams of one peer do in classes of their own never fills another class.

use std::num::NonZeroU64;

use super::Named;
use super::demand::Ceilings;
use super::node::Node;
use super::table::{Hashed, Table};
use crate::keyed::{KeyBytes, spread};
use crate::limits::{Limits, ScopeLimits};
use crate::try_box::{OutOfMemory, TryBox};

/// Names a peer's or a class's scope while it is held: the keyed hash of its name, but for a few bits
/// that tell names of the same hash apart, and [two](Self::FREE_BITS) that are always zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NameRef(NonZeroU64);

impl NameRef {
    /// A table uses the lowest bits of a hash and those from bit 40 on, to find its entries, and the
    /// top seven. These are in between.
    const NTH: u64 = 0x3f << 50;
    pub(super) const FREE_BITS: u64 = 0x3 << 48;

    /// The references that a name with this hash can have.
    fn all(hash: u64) -> impl Iterator<Item = Self> {
        let hash = hash & !(Self::NTH | Self::FREE_BITS);
        (1..64).filter_map(move |nth| NonZeroU64::new(hash | nth << 50)).map(Self)
    }

    pub(super) fn bits(self) -> u64 {
        self.0.get()
    }

    /// As [`bits`](Self::bits) has it.
    pub(super) fn from_bits(bits: u64) -> Option<Self> {
        NonZeroU64::new(bits).map(Self)
    }

    #[inline]
    fn hash(self) -> u64 {
        self.bits() & !Self::NTH
    }
}

/// Which scope it is: a class's, a peer's, or the peer's part of the class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    pub(super) class: Option<NameRef>,
    pub(super) peer: Option<NameRef>,
}

impl Names {
    #[inline]
    pub(super) fn peer(peer: NameRef) -> Self {
        Self { class: None, peer: Some(peer) }
    }

    pub(super) fn class(class: NameRef) -> Self {
        Self { class: Some(class), peer: None }
    }

    pub(super) fn part(class: NameRef, peer: NameRef) -> Self {
        Self { class: Some(class), peer: Some(peer) }
    }

    /// The name of the class or of the peer; of a part, that of the peer.
    fn name(self) -> Option<NameRef> {
        self.peer.or(self.class)
    }

    #[inline]
    fn hash(self) -> u64 {
        match (self.class, self.peer) {
            (Some(class), Some(peer)) => spread(class.hash() ^ peer.hash().rotate_left(1)),
            (one, other) => one.or(other).map_or(0, NameRef::hash),
        }
    }
}

/// One scope that has a name.
pub(super) struct NamedScope {
    of: Names,
    holders: u32,
    /// Of the limits that `own` was looked up in.
    generation: u32,
    /// The peer's key, or the name of the class.
    name: KeyBytes,
    /// The limits that it has of its own, if it has any.
    own: Option<TryBox<Ceilings>>,
    pub(super) node: Node,
}

impl NamedScope {
    pub(super) fn of(&self) -> Names {
        self.of
    }

    pub(super) fn name(&self) -> &[u8] {
        self.name.as_bytes()
    }

    /// The node and the limits in force: `default`, if it has none of its own. They are looked up if
    /// other limits are in force than the last time. Where there is no memory for them, those that it
    /// had stay in force until the next look.
    #[inline]
    pub(super) fn in_force<'a>(
        &'a mut self,
        limits: &Limits,
        generation: u32,
        default: &'a Ceilings,
    ) -> (&'a mut Node, &'a Ceilings) {
        if self.generation != generation
            && let Ok(own) = own_ceilings(self.of, self.name(), limits)
        {
            (self.own, self.generation) = (own, generation);
        }
        (&mut self.node, self.own.as_deref().unwrap_or(default))
    }
}

impl Hashed for TryBox<NamedScope> {
    #[inline]
    fn hash(&self) -> u64 {
        self.of.hash()
    }
}

/// Every scope that has a name.
pub(super) struct NamedScopes {
    pub(super) table: Table<TryBox<NamedScope>>,
}

impl NamedScopes {
    pub(super) fn new() -> Self {
        Self { table: Table::new() }
    }

    /// Finds or makes the scope that a name has, of a peer or of a class, and holds it.
    pub(super) fn hold(
        &mut self,
        kind: impl Fn(NameRef) -> Names + Copy,
        name: Named<'_>,
        limits: &Limits,
        generation: u32,
    ) -> Result<NameRef, OutOfMemory> {
        if let Some(scope) = self.find(kind, name)
            && let Some(found) = scope.of.name()
        {
            scope.holders += 1;
            return Ok(found);
        }
        let is_free = |name: &NameRef| self.get(kind(*name)).is_none();
        let free = NameRef::all(name.hash).find(is_free);
        let free = free.expect("no keyed hash has as many names at once");
        self.insert(kind(free), name.name, 1, limits, generation)?;
        Ok(free)
    }

    /// Finds or makes a peer's part of a class, which is held, and holds it this many times.
    pub(super) fn hold_part(
        &mut self,
        (class, peer): (NameRef, NameRef),
        holders: u32,
        limits: &Limits,
        generation: u32,
    ) -> Result<(), OutOfMemory> {
        let of = Names::part(class, peer);
        if let Some(part) = self.get_mut(of) {
            part.holders += holders;
            return Ok(());
        }
        let name = self.get(Names::class(class)).map(|class| KeyBytes::try_new(class.name()));
        let Some(name) = name.transpose()? else { return Ok(()) };
        self.insert(of, name.as_bytes(), holders, limits, generation)
    }

    fn insert(
        &mut self,
        of: Names,
        name: &[u8],
        holders: u32,
        limits: &Limits,
        generation: u32,
    ) -> Result<(), OutOfMemory> {
        let (own, name) = (own_ceilings(of, name, limits)?, KeyBytes::try_new(name)?);
        let scope = NamedScope { of, holders, generation, name, own, node: Node::default() };
        self.table.insert(TryBox::new(scope)?)?;
        Ok(())
    }

    /// Holds a scope once more. `false`: it is gone.
    pub(super) fn hold_again(&mut self, of: Names) -> bool {
        let scope = self.get_mut(of);
        scope.map(|scope| scope.holders += 1).is_some()
    }

    /// Lets go of a scope this many times. It goes with its last holder.
    #[inline]
    pub(super) fn release(&mut self, of: Names, holders: u32) {
        self.table.remove_if(
            of.hash(),
            |scope| scope.of == of,
            |scope| {
                scope.holders -= holders;
                scope.holders == 0
            },
        );
    }

    /// The scope that a name has, if it is there.
    #[inline]
    pub(super) fn find(
        &mut self,
        kind: impl Fn(NameRef) -> Names,
        name: Named<'_>,
    ) -> Option<&mut NamedScope> {
        let hash = name.hash & !(NameRef::NTH | NameRef::FREE_BITS);
        let is_it = |scope: &TryBox<NamedScope>| {
            scope.of.name().map(&kind) == Some(scope.of) && scope.name() == name.name
        };
        self.table.find_mut(hash, is_it).map(|scope| &mut **scope)
    }

    #[inline]
    pub(super) fn get(&self, of: Names) -> Option<&NamedScope> {
        self.table.find(of.hash(), |scope| scope.of == of).map(|scope| &**scope)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, of: Names) -> Option<&mut NamedScope> {
        self.table.find_mut(of.hash(), |scope| scope.of == of).map(|scope| &mut **scope)
    }
}

/// The limits that a scope has of its own.
fn own_ceilings(
    of: Names,
    name: &[u8],
    limits: &Limits,
) -> Result<Option<TryBox<Ceilings>>, OutOfMemory> {
    let own: Option<&ScopeLimits> = match (of.class, of.peer) {
        (None, _) if limits.peers.is_empty() => None,
        (None, _) => limits.peers.get(name),
        (Some(_), None) => limits.classes.get(class_name(name)),
        (Some(_), Some(_)) => limits.class_peers.get(class_name(name)),
    };
    own.map(|limits| TryBox::new(Ceilings::new(*limits))).transpose()
}

/// What was a `str` when it was hashed.
pub(super) fn class_name(name: &[u8]) -> &str {
    std::str::from_utf8(name).unwrap_or_default()
}
