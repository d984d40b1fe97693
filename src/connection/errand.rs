//! The slow way: try under the locks, run errands without them, try again.
//!
//! An attempt either succeeds, or says what has to happen before the next one: a slab has to be
//! mapped, a scope pressed on, a sibling swept. That is done with no lock held. It ends: mapping
//! hands its first block to the one who asked, and under pressure the list of members to sweep only
//! shrinks.

use super::Connection;
use super::shared::Shared;
use crate::arena::{Arena, Block, Mapping};
use crate::error::{BindError, LeaseError, Refused};
use crate::scope::{LevelRef, Pressure, Realm, Unmet};
use crate::sync::Arc;

/// Why an attempt stopped.
pub(super) enum Halt {
    /// For good: a limit.
    Refused(Refused),
    /// For good: the connection is closed.
    Closed,
    /// Until a slab of this class is mapped.
    Grow(usize),
    /// Until this many bytes are mapped for a large lease.
    MapLarge(usize),
    /// Until this connection's own idle memory, which is in the way, is back.
    Flush(Arc<Connection>),
    /// Until the scope that refused is under pressure, so that nobody caches in it any more, and
    /// then until the idle memory of this member of it is swept.
    MakeRoom(LevelRef, Arc<Connection>),
}

impl From<Unmet<Arc<Connection>>> for Halt {
    fn from(unmet: Unmet<Arc<Connection>>) -> Self {
        match unmet {
            Unmet::Flush(me) => Halt::Flush(me),
            Unmet::Sweep(level, member) => Halt::MakeRoom(level, member),
            Unmet::Refused(refused) => Halt::Refused(refused),
        }
    }
}

/// Why a request failed.
pub(super) enum Halted {
    Refused(Refused),
    Closed,
}

impl From<Halted> for BindError {
    fn from(halted: Halted) -> Self {
        match halted {
            Halted::Refused(refused) => BindError::Refused(refused),
            Halted::Closed => BindError::Closed,
        }
    }
}

impl From<Halted> for LeaseError {
    fn from(halted: Halted) -> Self {
        match halted {
            Halted::Refused(refused) => refused.into(),
            Halted::Closed => LeaseError::Closed,
        }
    }
}

impl Shared {
    /// Attempts until it succeeds or is halted for good, and counts a refusal. Call with no lock
    /// held.
    #[inline]
    pub(super) fn run<T>(&self, mut attempt: impl FnMut() -> Result<T, Halt>) -> Result<T, Halted> {
        match attempt() {
            Ok(granted) => Ok(granted),
            Err(halt) => self.run_on(halt, attempt),
        }
    }

    #[cold]
    #[inline(never)]
    fn run_on<T>(
        &self,
        first: Halt,
        mut attempt: impl FnMut() -> Result<T, Halt>,
    ) -> Result<T, Halted> {
        let mut errand = Errand::new(self);
        let mut first = Some(first);
        let granted = errand.run(|_| first.take().map_or_else(&mut attempt, Err));
        granted.inspect_err(|halted| {
            if let Halted::Refused(refused) = halted {
                self.tree.count_refusal(refused);
            }
        })
    }
}

/// What one request has brought along from between its attempts. What is left is given back.
pub(super) struct Errand<'a> {
    shared: &'a Shared,
    block: Option<(usize, Block)>,
    mapping: Option<Mapping>,
    pressures: Vec<Pressure<'a, Arc<Connection>>>,
}

impl<'a> Errand<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self { shared, block: None, mapping: None, pressures: Vec::new() }
    }

    /// Attempts until it succeeds or is halted for good. Call with no lock held.
    pub(super) fn run<T>(
        &mut self,
        mut attempt: impl FnMut(&mut Self) -> Result<T, Halt>,
    ) -> Result<T, Halted> {
        loop {
            match attempt(self) {
                Ok(granted) => return Ok(granted),
                Err(halt) => self.go(halt)?,
            }
        }
    }

    fn go(&mut self, halt: Halt) -> Result<(), Halted> {
        match halt {
            Halt::Refused(refused) => return Err(Halted::Refused(refused)),
            Halt::Closed => return Err(Halted::Closed),
            Halt::Grow(class) => {
                let block = self.ask_arena(|arena| arena.grow(class))?;
                self.block = Some((class, block));
            }
            Halt::MapLarge(bytes) => {
                self.mapping = Some(self.ask_arena(|arena| arena.map_large(bytes))?);
            }
            Halt::Flush(me) => {
                me.trim();
            }
            Halt::MakeRoom(level, sibling) => {
                if self.pressures.iter().any(|pressure| pressure.is_on(level)) {
                    sibling.sweep();
                    self.shared.arena.settle();
                } else {
                    self.pressures.push(self.shared.tree.press(level));
                }
            }
        }
        Ok(())
    }

    /// A block of the class: the one that was brought along, or else one that is mapped already.
    pub(super) fn take_block(&mut self, class: usize) -> Option<Block> {
        match self.block.take() {
            Some((_, block)) => Some(block),
            None => self.shared.arena.take(class),
        }
    }

    /// The mapping that was brought along.
    pub(super) fn take_mapping(&mut self) -> Option<Mapping> {
        self.mapping.take()
    }

    /// Asks the arena for memory. Before it refuses, because too much is resident or the system has
    /// no more, the idle blocks of all connections go back to it: those may be what keeps pages from
    /// being given up.
    fn ask_arena<T>(&self, ask: impl Fn(&Arena) -> Result<T, Refused>) -> Result<T, Halted> {
        let Shared { arena, tree, .. } = self.shared;
        if let Ok(granted) = ask(arena) {
            return Ok(granted);
        }
        for realm in [Realm::Ordinary, Realm::Allowlisted] {
            let _pressure = tree.press(LevelRef::System(realm));
            while let Some(member) = tree.first_caching(realm) {
                member.sweep();
            }
        }
        ask(arena).map_err(Halted::Refused)
    }
}

impl Drop for Errand<'_> {
    fn drop(&mut self) {
        if let Some((class, block)) = self.block.take() {
            self.shared.arena.give(class, block);
        }
        if let Some(mapping) = self.mapping.take() {
            self.shared.arena.unmap_large(mapping);
        }
        self.shared.arena.settle();
    }
}
