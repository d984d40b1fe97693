//! The least that any contender does: two locked steps on a cache line of its own, and a look at the
//! buffer.

use std::ops::Deref;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BufMut;

/// A counter on a cache line of its own.
#[repr(align(64))]
pub struct Line(AtomicU64);

impl Line {
    /// A counter from which so many units can be taken.
    pub fn of(units: u64) -> Self {
        Self(AtomicU64::new(units))
    }

    /// Takes a unit, as one must where other threads may look: with a compare-exchange.
    #[inline(always)]
    pub fn take(&self) {
        let units = self.0.load(Ordering::Relaxed);
        let taken =
            self.0.compare_exchange(units, units - 1, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        assert!(taken, "the line has one user");
    }

    /// Gives a unit back.
    #[inline(always)]
    pub fn give(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// Writes the first and the last byte of a buffer as its user would, and reads them back.
#[inline(always)]
pub fn touch(buffer: &mut (impl BufMut + Deref<Target = [u8]>)) {
    buffer.put_u8(1);
    read(&buffer[0]);
    let rest = buffer.chunk_mut();
    let last = rest.len() - 1;
    rest.write_byte(last, 2);
    // SAFETY: within `rest`, and written just now.
    read(unsafe { &*rest.as_mut_ptr().add(last) });
}

/// As [`touch`], for what is initialised.
#[inline(always)]
pub fn touch_slice(buffer: &mut [u8]) {
    let last = buffer.len() - 1;
    for at in [0, last] {
        buffer[at] = 1;
        read(&buffer[at]);
    }
}

/// Writes the first free byte of a buffer and reads it back. The buffer stays as empty as it was, so
/// that the same one can be touched again.
#[inline(always)]
pub fn touch_first(buffer: &mut impl BufMut) {
    let free = buffer.chunk_mut();
    free.write_byte(0, 1);
    // SAFETY: within `free`, and written just now.
    read(unsafe { &*free.as_mut_ptr() });
}

/// Loads a byte from memory, even if the compiler knows what was stored there.
#[inline(always)]
fn read(byte: &u8) {
    // SAFETY: a reference is valid for reads.
    unsafe { ptr::read_volatile(byte) };
}
