//! The scopes of traffic classes, and of each peer's part of a class: there while something holds
//! them.
//!
//! A class that the limits do not name has the default limits, and a scope of its own all the same:
//! what streams of one peer do in classes of their own never fills another class.

use super::Named;
use super::demand::Ceilings;
use super::node::Node;
use super::peers::PeerRef;
use super::table::{Hashed, Table};
use crate::keyed::spread;
use crate::limits::Limits;
use crate::try_box::{OutOfMemory, TryBox};

use std::num::NonZeroU32;

/// Names a class's scope while it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClassRef(NonZeroU32);

/// One class's scope.
pub(super) struct Class {
    at: ClassRef,
    hash: u64,
    holders: u32,
    /// Of the limits that the two below were looked up in.
    generation: u32,
    name: Box<str>,
    pub(super) ceilings: Ceilings,
    /// Of each peer's part.
    pub(super) peer_ceilings: Ceilings,
    pub(super) node: Node,
}

impl Class {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Looks the limits up, if others are in force than the last time.
    #[inline]
    pub(super) fn refresh(&mut self, limits: &Limits, generation: u32) {
        if self.generation != generation {
            self.ceilings = Ceilings::new(*limits.of_class(&self.name));
            self.peer_ceilings = Ceilings::new(*limits.of_class_peer(&self.name));
            self.generation = generation;
        }
    }
}

impl Hashed for TryBox<Class> {
    fn hash(&self) -> u64 {
        spread(self.at.0.get().into())
    }
}

/// A class by the hash of its name.
struct Entry {
    hash: u64,
    at: ClassRef,
}

impl Hashed for Entry {
    fn hash(&self) -> u64 {
        self.hash
    }
}

/// Every class's scope.
pub(super) struct Classes {
    pub(super) table: Table<TryBox<Class>>,
    by_name: Table<Entry>,
    /// References are numbers used in turn, so that nothing remembers which are free.
    last: u32,
}

impl Classes {
    pub(super) fn new() -> Self {
        Self { table: Table::new(), by_name: Table::new(), last: 0 }
    }

    /// Finds or makes the scope of the class called `name`, and holds it.
    pub(super) fn hold(
        &mut self,
        class: Named<'_, str>,
        limits: &Limits,
        generation: u32,
    ) -> Result<ClassRef, OutOfMemory> {
        let Named { hash, name } = class;
        let is_it = |entry: &Entry| self.get(entry.at).is_some_and(|class| *class.name == *name);
        if let Some(at) = self.by_name.find(hash, is_it).map(|entry| entry.at) {
            self.hold_again(at);
            return Ok(at);
        }
        let at = self.unused();
        let scope = Class {
            at,
            hash,
            holders: 1,
            generation,
            name: copied(name)?,
            ceilings: Ceilings::new(*limits.of_class(name)),
            peer_ceilings: Ceilings::new(*limits.of_class_peer(name)),
            node: Node::default(),
        };
        self.table.insert(TryBox::new(scope)?)?;
        if let Err(error) = self.by_name.insert(Entry { hash, at }) {
            self.table.remove_if(number_hash(at), |class| class.at == at, |_| true);
            return Err(error);
        }
        Ok(at)
    }

    fn unused(&mut self) -> ClassRef {
        loop {
            self.last = self.last.wrapping_add(1);
            if let Some(number) = NonZeroU32::new(self.last)
                && self.get(ClassRef(number)).is_none()
            {
                return ClassRef(number);
            }
        }
    }

    /// Holds once more what is held already.
    pub(super) fn hold_again(&mut self, at: ClassRef) {
        if let Some(class) = self.get_mut(at) {
            class.holders += 1;
        }
    }

    /// Lets go of a scope, which goes with its last holder.
    pub(super) fn release(&mut self, at: ClassRef) {
        let removed = self.table.remove_if(
            number_hash(at),
            |class| class.at == at,
            |class| {
                class.holders -= 1;
                class.holders == 0
            },
        );
        if let Some(class) = removed {
            self.by_name.remove_if(class.hash, |entry| entry.at == at, |_| true);
        }
    }

    #[inline]
    pub(super) fn get(&self, at: ClassRef) -> Option<&Class> {
        self.table.find(number_hash(at), |class| class.at == at).map(|class| &**class)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, at: ClassRef) -> Option<&mut Class> {
        self.table.find_mut(number_hash(at), |class| class.at == at).map(|class| &mut **class)
    }
}

fn number_hash(at: ClassRef) -> u64 {
    spread(at.0.get().into())
}

fn copied(name: &str) -> Result<Box<str>, OutOfMemory> {
    let mut copy = String::new();
    copy.try_reserve_exact(name.len()).map_err(|_| OutOfMemory)?;
    copy.push_str(name);
    Ok(copy.into_boxed_str())
}

/// One peer's part of one class.
pub(super) struct ClassPeer {
    pub(super) class: ClassRef,
    pub(super) peer: PeerRef,
    holders: u32,
    pub(super) node: Node,
}

impl Hashed for TryBox<ClassPeer> {
    fn hash(&self) -> u64 {
        part_hash(self.class, self.peer)
    }
}

/// Every peer's part of every class.
pub(super) struct ClassPeers {
    pub(super) table: Table<TryBox<ClassPeer>>,
}

impl ClassPeers {
    pub(super) fn new() -> Self {
        Self { table: Table::new() }
    }

    /// Finds or makes the scope, and holds it this many times.
    pub(super) fn hold(
        &mut self,
        class: ClassRef,
        peer: PeerRef,
        holders: u32,
    ) -> Result<(), OutOfMemory> {
        if let Some(part) = self.find_mut(class, peer) {
            part.holders += holders;
            return Ok(());
        }
        let part = ClassPeer { class, peer, holders, node: Node::default() };
        self.table.insert(TryBox::new(part)?)?;
        Ok(())
    }

    /// Lets go of a scope this many times. It goes with its last holder.
    pub(super) fn release(&mut self, class: ClassRef, peer: PeerRef, holders: u32) {
        let is_it = |part: &TryBox<ClassPeer>| part.class == class && part.peer == peer;
        self.table.remove_if(part_hash(class, peer), is_it, |part| {
            part.holders -= holders;
            part.holders == 0
        });
    }

    #[inline]
    pub(super) fn find_mut(&mut self, class: ClassRef, peer: PeerRef) -> Option<&mut ClassPeer> {
        let is_it = |part: &TryBox<ClassPeer>| part.class == class && part.peer == peer;
        self.table.find_mut(part_hash(class, peer), is_it).map(|part| &mut **part)
    }
}

/// The peer's hash is keyed already, and classes are numbered here.
fn part_hash(class: ClassRef, peer: PeerRef) -> u64 {
    spread(peer.hash ^ u64::from(class.0.get()))
}
