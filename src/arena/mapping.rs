//! Memory straight from the operating system.

use std::ptr::NonNull;

use crate::try_box::OutOfMemory;

/// Anonymous private memory, unmapped on drop. The kernel gives zeroed pages as they are touched.
///
/// What it holds is raw: no method makes a reference to the memory, parts of which are lent as
/// `&mut [u8]` while this value is measured.
pub(crate) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    #[cfg(not(leasehold_loom))]
    map: memmap2::MmapRaw,
    #[cfg(leasehold_loom)]
    _map: Box<[u64]>,
}

// SAFETY: `base` points into the map, which is `Send + Sync` and moves nowhere. Which thread may
// touch the bytes is decided by which one holds the block.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

#[cfg(not(leasehold_loom))]
impl Mapping {
    /// Maps `bytes`, which must be a positive multiple of [`granule`].
    pub(super) fn new(bytes: usize) -> Result<Self, OutOfMemory> {
        let map = memmap2::MmapMut::map_anon(bytes).map_err(|_| OutOfMemory)?;
        let map = memmap2::MmapRaw::from(map);
        // A huge page would make memory resident that no lease touched. Refused by some kernels,
        // which then have no huge pages.
        #[cfg(all(target_os = "linux", not(miri)))]
        let _ = map.advise(memmap2::Advice::NoHugePage);
        let base = NonNull::new(map.as_mut_ptr()).ok_or(OutOfMemory)?;
        Ok(Self { base, bytes, map })
    }

    /// Gives the pages of a range back to the system. They read as zero afterwards. `false`: the
    /// system keeps them, as it does with locked memory.
    ///
    /// # Safety
    ///
    /// No block in the range is out, or is handed out before this returns. Both numbers are
    /// multiples of [`granule`].
    pub(super) unsafe fn discard(&self, offset: usize, bytes: usize) -> bool {
        debug_assert!(offset.is_multiple_of(granule()) && bytes.is_multiple_of(granule()));
        #[cfg(unix)]
        {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the range lies within the map and is page-aligned; the caller promises that
            // no thread reads or writes it, so losing its content is seen by none.
            unsafe { self.map.unchecked_advise_range(advice, offset, bytes) }.is_ok()
        }
        #[cfg(not(unix))]
        unreachable!("{offset} and {bytes}: nothing is discarded where `CAN_DISCARD` is not");
    }
}

#[cfg(leasehold_loom)]
impl Mapping {
    pub(super) fn new(bytes: usize) -> Result<Self, OutOfMemory> {
        let mut map = vec![0_u64; bytes.div_ceil(8)].into_boxed_slice();
        let base = NonNull::from(&mut map[0]).cast();
        Ok(Self { base, bytes, _map: map })
    }

    pub(super) unsafe fn discard(&self, _offset: usize, _bytes: usize) -> bool {
        true
    }
}

impl Mapping {
    /// Whether the system takes back part of a mapping.
    pub(super) const CAN_DISCARD: bool = cfg!(unix);

    /// How much is mapped for `len` bytes. `None`: more than there can be.
    pub(crate) fn round_up(len: usize) -> Option<usize> {
        let bytes = len.max(1).checked_next_multiple_of(granule())?;
        (bytes <= isize::MAX as usize).then_some(bytes)
    }

    /// How many bytes are mapped.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// The first byte, aligned to a page.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }
}

/// The smallest amount that can be mapped or given back: a page.
pub(super) fn granule() -> usize {
    if cfg!(leasehold_loom) { super::MIN_BLOCK_BYTES } else { page_size::get() }
}

#[cfg(all(test, not(leasehold_loom)))]
mod tests {
    use super::*;

    /// Under Miri this fails if either method makes a reference to the bytes.
    #[test]
    fn it_is_measured_while_its_bytes_are_lent() {
        let mapping = Mapping::new(granule()).unwrap();
        // SAFETY: all of the mapping, which no other reference leads to.
        let lent = unsafe { std::slice::from_raw_parts_mut(mapping.base().as_ptr(), granule()) };
        lent[0] = 1;
        assert_eq!(mapping.len(), granule());
        assert_eq!(mapping.base().as_ptr().addr(), lent.as_ptr().addr());
        assert_eq!(lent[0], 1);
    }

    #[test]
    fn what_is_mapped_for_a_length_never_overflows() {
        assert_eq!(Mapping::round_up(0), Some(granule()));
        assert_eq!(Mapping::round_up(granule() + 1), Some(2 * granule()));
        let most = isize::MAX as usize + 1 - granule();
        assert_eq!(Mapping::round_up(most), Some(most));
        for len in [most + 1, isize::MAX as usize, usize::MAX - granule(), usize::MAX] {
            assert_eq!(Mapping::round_up(len), None);
        }
    }
}
