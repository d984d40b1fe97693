//! Allocation that can fail, and that raw pointers may lead to.

use std::collections::TryReserveError;
use std::ops::Deref;
use std::ptr::NonNull;

/// The system has no memory for the arena's own records, or for what it would map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutOfMemory;

impl From<TryReserveError> for OutOfMemory {
    fn from(_: TryReserveError) -> Self {
        Self
    }
}

impl From<hashbrown::TryReserveError> for OutOfMemory {
    fn from(_: hashbrown::TryReserveError) -> Self {
        Self
    }
}

/// A slice of `len` values in memory of its own.
pub(super) fn try_slice<T>(len: usize, make: impl FnMut() -> T) -> Result<Box<[T]>, OutOfMemory> {
    let mut values = Vec::new();
    values.try_reserve_exact(len)?;
    values.resize_with(len, make);
    Ok(values.into_boxed_slice())
}

/// A value in memory of its own.
pub(super) fn try_box<T>(value: T) -> Result<Box<T>, OutOfMemory> {
    let mut one = Vec::new();
    one.try_reserve_exact(1)?;
    one.push(value);
    let one = Box::into_raw(one.into_boxed_slice());
    // SAFETY: a slice of one value is laid out as that value is.
    Ok(unsafe { Box::from_raw(one.cast()) })
}

/// Owns an allocation that raw pointers lead to as well. A `Box` must not be moved then: it claims to
/// be the only way to its content.
pub(super) struct Anchored<T: ?Sized>(NonNull<T>);

// SAFETY: it owns its content as a `Box` does.
unsafe impl<T: ?Sized + Send> Send for Anchored<T> {}
// SAFETY: it lends its content by shared reference only.
unsafe impl<T: ?Sized + Sync> Sync for Anchored<T> {}

impl<T: ?Sized> Anchored<T> {
    pub(super) fn new(content: Box<T>) -> Self {
        Self(NonNull::from(Box::leak(content)))
    }

    /// A pointer to the content, valid for shared references until this value is dropped.
    pub(super) fn as_ptr(&self) -> NonNull<T> {
        self.0
    }
}

impl<T: ?Sized> Deref for Anchored<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: `new` took it out of a `Box`, and only `drop` frees it.
        unsafe { self.0.as_ref() }
    }
}

impl<T: ?Sized> Drop for Anchored<T> {
    fn drop(&mut self) {
        // SAFETY: it came out of a `Box` in `new`, and goes once. The holders of other pointers do
        // not use them any more, as they promised where they got them.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}
