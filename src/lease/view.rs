//! A view of a block that shows only what was written through it.

use std::fmt;
use std::ptr::NonNull;

use bytes::buf::UninitSlice;

use crate::sync::Watch;

/// ```text
/// 0        start          end            capacity
/// ├consumed─┼──readable────┼──writable────┤
/// ```
///
/// Bytes in `start..end` were written through this view. The rest of the block holds what its
/// earlier users left, and is never shown. Once every readable byte is consumed (`start == end`) all
/// of the block is writable.
pub(super) struct BufferView {
    base: NonNull<u8>,
    capacity: usize,
    start: usize,
    end: usize,
    watch: Watch,
}

// SAFETY: the view is the only way to its bytes while the lease that owns it may touch them, which
// the maker of the view promised (`new`). Everything else in it is plain data.
unsafe impl Send for BufferView {}
// SAFETY: `&BufferView` only reads.
unsafe impl Sync for BufferView {}

impl BufferView {
    /// A view of the `capacity` bytes from `base` on. It shows none of them yet.
    ///
    /// # Safety
    ///
    /// Whenever a method of the view other than [`capacity`](Self::capacity) is called, and as long
    /// as a reference that it returned lives, the caller holds the block that these bytes are: they
    /// are mapped, and nothing else reads or writes them. `watch` is that block's, or none.
    #[inline]
    pub(super) unsafe fn new(base: NonNull<u8>, capacity: usize, watch: Watch) -> Self {
        Self { base, capacity, start: 0, end: 0, watch }
    }

    #[inline]
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many bytes may be written.
    #[inline]
    pub(super) fn room(&self) -> usize {
        if self.is_drained() { self.capacity } else { self.capacity - self.end }
    }

    #[inline]
    fn is_drained(&self) -> bool {
        self.start == self.end
    }

    #[inline]
    fn readable_len(&self) -> usize {
        self.end - self.start
    }

    #[inline]
    pub(super) fn readable(&self) -> &[u8] {
        if self.start < self.end {
            self.watch.read();
        }
        // SAFETY: `start <= end <= capacity`, and every byte in between was written through this
        // view. The caller holds the block, as `new` demands.
        unsafe {
            std::slice::from_raw_parts(self.base.as_ptr().add(self.start), self.readable_len())
        }
    }

    #[inline]
    pub(super) fn readable_mut(&mut self) -> &mut [u8] {
        if self.start < self.end {
            self.watch.write();
        }
        // SAFETY: as in `readable`, and `&mut self` makes this the only reference.
        unsafe {
            let first = self.base.as_ptr().add(self.start);
            std::slice::from_raw_parts_mut(first, self.readable_len())
        }
    }

    /// What may be written next.
    ///
    /// A drained view starts over here, and not when its last byte is consumed: a caller may have
    /// written to an earlier slice by then, and show those bytes only afterwards.
    #[inline]
    pub(super) fn writable(&mut self) -> &mut UninitSlice {
        if self.is_drained() {
            self.clear();
        }
        self.watch.write();
        // SAFETY: `end <= capacity`, so the range lies in the block, which the caller holds, as
        // `new` demands, and `&mut self` makes this the only reference. `UninitSlice` has no safe
        // way to read it.
        unsafe { UninitSlice::from_raw_parts_mut(self.base.as_ptr().add(self.end), self.room()) }
    }

    /// Shows `count` more bytes.
    ///
    /// # Safety
    ///
    /// They were written to the slice that the latest [`writable`](Self::writable) returned, behind
    /// those shown of it already. Since then only [`advance_start`](Self::advance_start) and this
    /// have changed the view.
    #[inline]
    pub(super) unsafe fn advance_end(&mut self, count: usize) {
        let room = self.capacity - self.end;
        assert!(count <= room, "advanced {count} bytes with room for {room}");
        self.end += count;
    }

    /// Consumes `count` readable bytes.
    #[inline]
    pub(super) fn advance_start(&mut self, count: usize) {
        let readable = self.readable_len();
        assert!(count <= readable, "consumed {count} bytes of {readable}");
        self.start += count;
    }

    /// Writes as much of `bytes` as there is room for, and returns how much.
    #[inline]
    pub(super) fn append(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.room());
        self.writable()[..count].copy_from_slice(&bytes[..count]);
        self.end += count;
        count
    }

    /// Fills up with zeroes until `len` bytes are readable, or the block is full.
    pub(super) fn initialize(&mut self, len: usize) -> &mut [u8] {
        let missing = len.saturating_sub(self.readable_len()).min(self.room());
        let first = self.writable().as_mut_ptr();
        // SAFETY: `missing <= room`, so the range is the start of what may be written.
        unsafe { first.write_bytes(0, missing) };
        self.end += missing;
        self.readable_mut()
    }

    #[inline]
    pub(super) fn truncate(&mut self, len: usize) {
        self.end = self.end.min(self.start.saturating_add(len));
    }

    #[inline]
    pub(super) fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Moves the readable bytes to the front of the block.
    pub(super) fn compact(&mut self) {
        if self.start == 0 {
            return;
        }
        let readable = self.readable_len();
        let front = self.readable_mut().as_mut_ptr();
        // SAFETY: `front` is `start` bytes behind `base`, and `start + readable <= capacity`: both
        // ranges lie in the block, which the caller holds, as `new` demands. They may overlap.
        unsafe { self.base.as_ptr().copy_from(front, readable) };
        (self.start, self.end) = (0, readable);
    }

    /// Overwrites the whole block with zeroes, whatever was written to it and how.
    #[cold]
    pub(super) fn wipe(&mut self) {
        self.clear();
        let room = self.room();
        // SAFETY: after `clear` all of the block may be written.
        unsafe { self.writable().as_mut_ptr().write_bytes(0, room) };
    }
}

impl fmt::Debug for BufferView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes", self.readable_len(), self.capacity)
    }
}

/// Gives a lease the face of a buffer. The type needs `fn view(&self) -> &BufferView` and
/// `fn view_mut(&mut self) -> &mut BufferView`, and may touch its bytes whenever it exists.
macro_rules! buffer {
    ($lease:ty) => {
        impl $lease {
            /// The size of the block, in bytes.
            #[inline]
            pub fn capacity(&self) -> usize {
                self.view().capacity()
            }

            /// Whether nothing more can be written before something is consumed, or the buffer
            /// [compacted](Self::compact) or [grown](Self::grow). A read into a full buffer returns
            /// 0, as it does at the end of a stream.
            ///
            /// Once every readable byte is consumed the buffer is empty: all of the block can be
            /// written.
            #[inline]
            pub fn is_full(&self) -> bool {
                self.view().room() == 0
            }

            /// Forgets what was written; all of the block can be written again.
            #[inline]
            pub fn clear(&mut self) {
                self.view_mut().clear();
            }

            /// Forgets all readable bytes beyond the first `len`.
            #[inline]
            pub fn truncate(&mut self, len: usize) {
                self.view_mut().truncate(len);
            }

            /// Moves the readable bytes to the front of the block, so that as much can be written
            /// as was consumed. Costs the copy; nothing if nothing was consumed.
            ///
            /// ```
            /// use bytes::{Buf, BufMut};
            ///
            /// let governor = leasehold::Governor::unlimited();
            /// let guard = governor.inbound().try_admit()?;
            /// let mut buf = guard.try_lease(512)?;
            /// buf.put_bytes(7, 512);
            /// buf.advance(500);
            /// assert!(buf.is_full());
            /// buf.compact();
            /// assert_eq!((buf.len(), buf.remaining_mut()), (12, 500));
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            pub fn compact(&mut self) {
                self.view_mut().compact();
            }

            /// Fills up with zeroes until `len` bytes are readable, or the block is full, and
            /// returns all that is readable: for callers that need a `&mut [u8]` to write to.
            /// Costs the zeroing.
            pub fn initialize(&mut self, len: usize) -> &mut [u8] {
                self.view_mut().initialize(len)
            }
        }

        impl std::ops::Deref for $lease {
            type Target = [u8];

            /// What was written and not consumed yet.
            #[inline]
            fn deref(&self) -> &[u8] {
                self.view().readable()
            }
        }

        impl std::ops::DerefMut for $lease {
            #[inline]
            fn deref_mut(&mut self) -> &mut [u8] {
                self.view_mut().readable_mut()
            }
        }

        impl AsRef<[u8]> for $lease {
            #[inline]
            fn as_ref(&self) -> &[u8] {
                self
            }
        }

        impl AsMut<[u8]> for $lease {
            #[inline]
            fn as_mut(&mut self) -> &mut [u8] {
                self
            }
        }

        impl bytes::Buf for $lease {
            #[inline]
            fn remaining(&self) -> usize {
                self.len()
            }

            #[inline]
            fn chunk(&self) -> &[u8] {
                self
            }

            #[inline]
            fn advance(&mut self, count: usize) {
                self.view_mut().advance_start(count);
            }
        }

        // SAFETY: `chunk_mut` returns all that `remaining_mut` counts, and the same memory until
        // `advance_mut`, unless all bytes before it were consumed and so may be written again.
        unsafe impl bytes::BufMut for $lease {
            #[inline]
            fn remaining_mut(&self) -> usize {
                self.view().room()
            }

            #[inline]
            fn chunk_mut(&mut self) -> &mut bytes::buf::UninitSlice {
                self.view_mut().writable()
            }

            #[inline]
            fn put_slice(&mut self, bytes: &[u8]) {
                let room = self.view().room();
                assert!(bytes.len() <= room, "put {} bytes with room for {room}", bytes.len());
                self.view_mut().append(bytes);
            }

            #[inline]
            unsafe fn advance_mut(&mut self, count: usize) {
                // SAFETY: passed on to the caller.
                unsafe { self.view_mut().advance_end(count) };
            }
        }

        impl std::io::Write for $lease {
            /// Writes as much as there is room for.
            #[inline]
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                Ok(self.view_mut().append(bytes))
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
    };
}

pub(super) use buffer;
