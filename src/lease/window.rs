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
/// Bytes in `start..end` were written through this window; the rest of the block holds whatever
/// an earlier user left, and is never shown.
pub(super) struct Window {
    base: NonNull<u8>,
    capacity: usize,
    start: usize,
    end: usize,
    watch: Watch,
}

// SAFETY: the window is the only way to its bytes while the lease that owns it may touch them, and
// everything else in it is plain data.
unsafe impl Send for Window {}
// SAFETY: `&Window` only reads.
unsafe impl Sync for Window {}

impl Window {
    /// A window on `capacity` bytes from `base` on, none of them shown yet. Whoever keeps the
    /// window in a lease vouches that the block is that large and held for as long.
    #[inline]
    pub(super) fn new(base: NonNull<u8>, capacity: usize, watch: Watch) -> Self {
        Self { base, capacity, start: 0, end: 0, watch }
    }

    #[inline]
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    #[inline]
    pub(super) fn room(&self) -> usize {
        self.capacity - self.end
    }

    #[inline]
    pub(super) fn readable(&self) -> &[u8] {
        if self.start < self.end {
            self.watch.read();
        }
        // SAFETY: `start <= end <= capacity`, and every byte in between was written through this
        // window, which borrows its block.
        unsafe {
            std::slice::from_raw_parts(self.base.as_ptr().add(self.start), self.end - self.start)
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
            std::slice::from_raw_parts_mut(first, self.end - self.start)
        }
    }

    /// What may be written next.
    #[inline]
    pub(super) fn writable(&mut self) -> &mut UninitSlice {
        self.watch.write();
        // SAFETY: `end <= capacity`, so the range lies in the block, which `&mut self` borrows
        // alone; `UninitSlice` lets nobody read it.
        unsafe { UninitSlice::from_raw_parts_mut(self.base.as_ptr().add(self.end), self.room()) }
    }

    /// Shows `count` more bytes.
    ///
    /// # Safety
    ///
    /// They were written through [`writable`](Self::writable).
    #[inline]
    pub(super) unsafe fn advance_end(&mut self, count: usize) {
        assert!(count <= self.room(), "advanced {count} bytes with room for {}", self.room());
        self.end += count;
    }

    /// Consumes `count` readable bytes.
    #[inline]
    pub(super) fn advance_start(&mut self, count: usize) {
        let readable = self.end - self.start;
        assert!(count <= readable, "consumed {count} bytes of {readable}");
        self.start += count;
    }

    /// Writes as much of `bytes` as there is room for, and answers how much.
    #[inline]
    pub(super) fn append(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.room());
        self.writable()[..count].copy_from_slice(&bytes[..count]);
        self.end += count;
        count
    }

    /// Fills up with zeroes until `len` bytes are readable, or the block is full.
    pub(super) fn initialize(&mut self, len: usize) -> &mut [u8] {
        let missing = len.saturating_sub(self.end - self.start).min(self.room());
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

    /// Overwrites the whole block with zeroes, whatever was written to it and how.
    #[cold]
    pub(super) fn wipe(&mut self) {
        self.clear();
        let room = self.room();
        // SAFETY: after `clear` all of the block may be written.
        unsafe { self.writable().as_mut_ptr().write_bytes(0, room) };
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let len = self.end - self.start;
        write!(f, "{len} of {} bytes", self.capacity)
    }
}

/// Gives a lease the face of a buffer. The type needs `fn window(&self) -> &Window` and
/// `fn window_mut(&mut self) -> &mut Window`, and may touch its bytes whenever it exists.
macro_rules! buffer {
    ($lease:ty) => {
        impl $lease {
            /// The size of the block, in bytes.
            #[inline]
            pub fn capacity(&self) -> usize {
                self.window().capacity()
            }

            /// Whether nothing more can be written. A full buffer makes a read return 0, as the
            /// end of a stream does.
            #[inline]
            pub fn is_full(&self) -> bool {
                self.window().room() == 0
            }

            /// Forgets what was written; all of the block can be written again.
            #[inline]
            pub fn clear(&mut self) {
                self.window_mut().clear();
            }

            /// Forgets all readable bytes beyond the first `len`.
            #[inline]
            pub fn truncate(&mut self, len: usize) {
                self.window_mut().truncate(len);
            }

            /// Fills up with zeroes until `len` bytes are readable, or the block is full, and
            /// answers all that is readable: for callers that need a `&mut [u8]` to write to.
            /// Costs the zeroing.
            pub fn initialize(&mut self, len: usize) -> &mut [u8] {
                self.window_mut().initialize(len)
            }
        }

        impl std::ops::Deref for $lease {
            type Target = [u8];

            /// What was written and not consumed yet.
            #[inline]
            fn deref(&self) -> &[u8] {
                self.window().readable()
            }
        }

        impl std::ops::DerefMut for $lease {
            #[inline]
            fn deref_mut(&mut self) -> &mut [u8] {
                self.window_mut().readable_mut()
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
                self.window_mut().advance_start(count);
            }
        }

        // SAFETY: `chunk_mut` answers the start of what `remaining_mut` counts, always the same
        // memory until `advance_mut`, and shows bytes only after that.
        unsafe impl bytes::BufMut for $lease {
            #[inline]
            fn remaining_mut(&self) -> usize {
                self.window().room()
            }

            #[inline]
            fn chunk_mut(&mut self) -> &mut bytes::buf::UninitSlice {
                self.window_mut().writable()
            }

            #[inline]
            fn put_slice(&mut self, bytes: &[u8]) {
                let room = self.window().room();
                assert!(bytes.len() <= room, "put {} bytes with room for {room}", bytes.len());
                self.window_mut().append(bytes);
            }

            #[inline]
            unsafe fn advance_mut(&mut self, count: usize) {
                // SAFETY: passed on to the caller.
                unsafe { self.window_mut().advance_end(count) };
            }
        }

        impl std::io::Write for $lease {
            /// Writes as much as there is room for.
            #[inline]
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                Ok(self.window_mut().append(bytes))
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
    };
}

pub(super) use buffer;
