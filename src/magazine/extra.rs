//! Magazines beside the first ones.

use super::Magazine;
use crate::arena::{Anchored, Mapping, Note};
use crate::ranges::MAX_SIZE_CLASSES;
use crate::sync::Mutex;
use crate::sync::unmodelled::{AtomicU8, AtomicU32, Relaxed};
use crate::try_box::{OutOfMemory, TryBox};

/// A further magazine of a connection, for what its first ones have no slot for: more blocks of a
/// size class, or a large lease, which has a mapping of its own.
///
/// It stays where it is for as long as one of its slots is occupied, or a revoked lease of it is kept.
#[repr(C)]
pub(crate) struct Extra {
    magazine: Magazine,
    /// Its place among the others of its kind. Changes under the connection's mutex.
    place: AtomicU32,
    /// Leases that were out when the connection closed and have not dropped since.
    stragglers: AtomicU8,
    kind: u8,
    /// The memory of a large lease, which has a mapping of its own.
    large: Option<TryBox<LargeCell>>,
}

/// The memory of a large lease until it is unmapped: in a lock of its own, since leases refer to the
/// magazine meanwhile.
struct LargeCell {
    bytes: u64,
    memory: Mutex<Option<Large>>,
}

#[cfg(not(leasehold_loom))]
const _: () = assert!(size_of::<Extra>() == 56);

/// The memory of a large lease, and where it was leased.
pub(crate) struct Large {
    pub(crate) mapping: Mapping,
    pub(crate) note: Note,
}

impl Extra {
    /// For more blocks of a size class.
    pub(crate) fn of_blocks(class: usize) -> Result<Anchored<Self>, OutOfMemory> {
        Self::new(class, None)
    }

    /// For a large lease, in its first slot. It is slow for as long as it exists. `map` is called
    /// when there is memory for all else.
    pub(crate) fn of_large<E: From<OutOfMemory>>(
        bytes: usize,
        map: impl FnOnce() -> Result<Mapping, E>,
    ) -> Result<Anchored<Self>, E> {
        let cell = LargeCell { bytes: bytes as u64, memory: Mutex::new(None) };
        let extra = Self::new(MAX_SIZE_CLASSES, Some(TryBox::new(cell)?))?;
        let large = Large { mapping: map()?, note: Note::default() };
        if let Some(cell) = &extra.large {
            *cell.memory.lock() = Some(large);
        }
        Ok(extra)
    }

    fn new(kind: usize, large: Option<TryBox<LargeCell>>) -> Result<Anchored<Self>, OutOfMemory> {
        Anchored::try_new(Self {
            magazine: Magazine::new(),
            place: AtomicU32::new(0),
            stragglers: AtomicU8::new(0),
            kind: kind as u8,
            large,
        })
    }

    #[inline]
    pub(crate) fn magazine(&self) -> &Magazine {
        &self.magazine
    }

    /// The size class, or [`MAX_SIZE_CLASSES`] for a large lease.
    pub(crate) fn kind(&self) -> usize {
        self.kind.into()
    }

    /// Whether this is for a large lease.
    pub(crate) fn is_large(&self) -> bool {
        self.large.is_some()
    }

    /// The size of a large lease, in bytes.
    pub(crate) fn large_bytes(&self) -> u64 {
        self.large.as_ref().map_or(0, |large| large.bytes)
    }

    /// Does something with the memory of a large lease, if it is still there.
    pub(crate) fn with_large<R>(&self, f: impl FnOnce(&Large) -> R) -> Option<R> {
        self.large.as_ref()?.memory.lock().as_ref().map(f)
    }

    /// Takes out the memory of a large lease that has been returned.
    pub(crate) fn take_returned_large(&self) -> Option<Mapping> {
        if !self.magazine.word().is_vacant() {
            return None;
        }
        self.large.as_ref()?.memory.lock().take().map(|large| large.mapping)
    }

    pub(crate) fn place(&self) -> usize {
        self.place.load(Relaxed) as usize
    }

    pub(crate) fn set_place(&self, place: usize) {
        self.place.store(place as u32, Relaxed);
    }

    /// Whether nothing needs the magazine any more.
    pub(crate) fn is_over(&self) -> bool {
        self.magazine.word().is_vacant()
            && self.stragglers.load(Relaxed) == 0
            && self.with_large(|_| ()).is_none()
    }

    /// Notes how many leases were out when the connection closed.
    pub(crate) fn set_stragglers(&self, count: u32) {
        self.stragglers.store(count as u8, Relaxed);
    }

    pub(crate) fn forget_stragglers(&self, count: u32) {
        self.set_stragglers(u32::from(self.stragglers.load(Relaxed)) - count);
    }
}
