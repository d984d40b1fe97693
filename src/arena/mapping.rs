//! Memory straight from the operating system.

use std::io;
use std::ptr::NonNull;

/// Anonymous private memory, unmapped on drop. The kernel gives zeroed pages as they are touched.
pub(crate) struct Mapping {
    base: NonNull<u8>,
    #[cfg(not(leasehold_loom))]
    map: memmap2::MmapMut,
    #[cfg(leasehold_loom)]
    map: Box<[u64]>,
}

// SAFETY: `base` points into `map`, which is `Send + Sync` and moves nowhere; who may touch the
// bytes is decided by who holds the block.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

#[cfg(not(leasehold_loom))]
impl Mapping {
    /// Maps `bytes`, which must be a positive multiple of [`granule`].
    pub(crate) fn new(bytes: usize) -> io::Result<Self> {
        let mut map = memmap2::MmapMut::map_anon(bytes)?;
        // A huge page would make memory resident that nobody touched. Refused by some kernels,
        // which then have no huge pages.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::NoHugePage);
        let base = NonNull::new(map.as_mut_ptr()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, map })
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// Gives the pages of a range back to the system. They read as zero afterwards. `false`: the
    /// system keeps them, as it does with locked memory.
    ///
    /// # Safety
    ///
    /// Nobody may hold, or be handed, a block in the range before this returns. Both numbers are
    /// multiples of [`granule`].
    pub(crate) unsafe fn discard(&self, offset: usize, bytes: usize) -> bool {
        debug_assert!(offset.is_multiple_of(granule()) && bytes.is_multiple_of(granule()));
        #[cfg(unix)]
        {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the range lies within the map and is page-aligned; the caller promises that
            // nobody reads or writes it, so losing its content is seen by no one.
            unsafe { self.map.unchecked_advise_range(advice, offset, bytes) }.is_ok()
        }
        #[cfg(not(unix))]
        unreachable!("{offset} and {bytes}: nothing is discarded where `CAN_DISCARD` is not");
    }
}

#[cfg(leasehold_loom)]
impl Mapping {
    pub(crate) fn new(bytes: usize) -> io::Result<Self> {
        let mut map = vec![0_u64; bytes.div_ceil(8)].into_boxed_slice();
        let base = NonNull::from(&mut map[0]).cast();
        Ok(Self { base, map })
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len() * 8
    }

    pub(crate) unsafe fn discard(&self, _offset: usize, _bytes: usize) -> bool {
        true
    }
}

impl Mapping {
    /// Whether the system takes back part of a mapping.
    pub(crate) const CAN_DISCARD: bool = cfg!(unix);

    /// How much is mapped for `len` bytes, if that is a number at all.
    pub(crate) fn round_up(len: usize) -> Option<usize> {
        len.max(1).checked_next_multiple_of(granule())
    }

    /// The first byte, aligned to a page.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }
}

/// The smallest amount that can be mapped or given back: a page.
pub(crate) fn granule() -> usize {
    if cfg!(leasehold_loom) { super::MIN_CLASS_BYTES } else { page_size::get() }
}
