//! What is mapped, what of it is resident, and how much may be.

use crossbeam_utils::CachePadded;

use super::slab;
use crate::error::{Refused, Resource, Scope};
use crate::limit::Limit;
use crate::sync::{Condvar, Mutex};

/// How much of the arena may be resident, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Beyond this, empty slabs and idle pages are given up before more becomes resident.
    frugal: u64,
    /// Beyond this, nothing more becomes resident. `u64::MAX` is no bound.
    hard: u64,
}

/// One of the two [`Bounds`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    Frugal,
    Hard,
}

impl Bounds {
    /// A budget of `memory`, one slab for each size class, and a quarter of all that (or what is
    /// configured) for fragmentation.
    pub(crate) fn new(memory: Limit, size_classes: usize, fragmentation: Option<u64>) -> Self {
        let Limit::Max(memory) = memory else {
            return Self { frugal: u64::MAX, hard: u64::MAX };
        };
        let frugal = memory.saturating_add((size_classes * slab::BYTES) as u64);
        let fragmentation = fragmentation.unwrap_or(frugal / 4);
        Self { frugal, hard: frugal.saturating_add(fragmentation) }
    }

    fn get(self, bound: Bound) -> u64 {
        match bound {
            Bound::Frugal => self.frugal,
            Bound::Hard => self.hard,
        }
    }
}

/// The books of one arena. Their lock is the innermost of all.
pub(super) struct Books {
    figures: CachePadded<Mutex<Figures>>,
    /// Notified when the figures fell.
    fell: Condvar,
}

/// What the books say, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figures {
    /// Mapped for slabs.
    pub(super) slabs: u64,
    /// Mapped for large leases.
    pub(super) large: u64,
    /// Of the slabs, idle pages that were given back to the system.
    pub(super) discarded: u64,
    /// Of what is resident, the part that threads are giving back to the system right now.
    giving_up: u64,
    /// Sum of all that was ever in `giving_up` and is so no more.
    given_up: u64,
    bounds: Bounds,
}

impl Figures {
    pub(super) fn mapped(&self) -> u64 {
        self.slabs + self.large
    }

    pub(super) fn resident(&self) -> u64 {
        self.mapped() - self.discarded
    }

    fn admits(&self, bytes: u64, bound: Bound) -> bool {
        let after = self.resident().checked_add(bytes);
        after.is_some_and(|after| after <= self.bounds.get(bound))
    }

    /// Whether `bytes` more fit once all is given up that is being given up.
    fn will_admit(&self, bytes: u64) -> bool {
        let after = (self.resident() - self.giving_up).checked_add(bytes);
        after.is_some_and(|after| after <= self.bounds.hard)
    }

    fn refuse(&self, bytes: u64) -> Refused {
        match self.bounds.hard {
            u64::MAX => Refused::out_of_memory(self.mapped(), bytes),
            hard => {
                let limit = Limit::Max(hard);
                Refused::new(Scope::Arena, Resource::Memory, limit, self.resident(), bytes)
            }
        }
    }
}

impl Books {
    pub(super) fn new(bounds: Bounds) -> Self {
        let figures =
            Figures { slabs: 0, large: 0, discarded: 0, giving_up: 0, given_up: 0, bounds };
        Self { figures: CachePadded::new(Mutex::new(figures)), fell: Condvar::new() }
    }

    pub(super) fn read(&self) -> Figures {
        *self.figures.lock()
    }

    pub(super) fn set_bounds(&self, bounds: Bounds) {
        self.figures.lock().bounds = bounds;
    }

    /// Whether `bytes` more may become resident.
    pub(super) fn admits(&self, bytes: u64, bound: Bound) -> bool {
        self.figures.lock().admits(bytes, bound)
    }

    /// Enters memory before it is mapped, in `of`, if the hard bound allows it. Waits for what other
    /// threads are giving up if it fits with that. Call with no lock held.
    pub(super) fn enter(
        &self,
        bytes: u64,
        of: fn(&mut Figures) -> &mut u64,
    ) -> Result<(), Refused> {
        let mut figures = self.figures.lock();
        while !figures.admits(bytes, Bound::Hard) {
            if !figures.will_admit(bytes) {
                return Err(figures.refuse(bytes));
            }
            figures = self.fell.wait(figures);
        }
        *of(&mut figures) += bytes;
        Ok(())
    }

    /// Strikes memory that was entered and could not be mapped. Returns the refusal.
    #[cold]
    pub(super) fn strike(&self, bytes: u64, of: fn(&mut Figures) -> &mut u64) -> Refused {
        let mut figures = self.figures.lock();
        *of(&mut figures) -= bytes;
        self.fell.notify_all();
        Refused::out_of_memory(figures.mapped(), bytes)
    }

    /// Strikes discarded pages that are about to be used again, if the bound allows it.
    pub(super) fn wake(&self, bytes: u64, bound: Bound) -> bool {
        let mut figures = self.figures.lock();
        let admitted = figures.admits(bytes, bound);
        if admitted {
            figures.discarded -= bytes;
        }
        admitted
    }

    /// Notes that the calling thread is about to give resident memory back to the system, of which
    /// no block can be handed out any more. A call of [`end_giving_up`](Self::end_giving_up) follows.
    pub(super) fn begin_giving_up(&self, bytes: u64) {
        self.figures.lock().giving_up += bytes;
    }

    /// Notes that the system has it, or refused it, which `change` enters in the other figures.
    pub(super) fn end_giving_up(&self, bytes: u64, change: impl FnOnce(&mut Figures)) {
        let mut figures = self.figures.lock();
        figures.giving_up -= bytes;
        figures.given_up += bytes;
        change(&mut figures);
        self.fell.notify_all();
    }

    /// Waits until as much was given up as threads are giving up right now. Call with no lock held.
    pub(super) fn wait_for_others(&self) {
        let mut figures = self.figures.lock();
        let then = figures.given_up + figures.giving_up;
        while figures.given_up < then {
            figures = self.fell.wait(figures);
        }
    }
}
