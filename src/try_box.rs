//! Allocation that may fail: std's own aborts the process.
//!
//! What a lease, a reservation or a bind has to allocate is allocated before anything is charged,
//! and a failure is an error of the call.

use std::collections::TryReserveError;
use std::ops::{Deref, DerefMut};

/// There is no memory for the book-keeping that a request needs, or for what it would map. Nothing has
/// changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfMemory;

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

/// A slice of `len` values on the heap.
pub(crate) fn try_slice<T>(len: usize, make: impl FnMut() -> T) -> Result<Box<[T]>, OutOfMemory> {
    let mut values = Vec::new();
    values.try_reserve_exact(len)?;
    values.resize_with(len, make);
    Ok(values.into_boxed_slice())
}

/// A value on the heap. No pointer but this may lead to it when this moves, as with any `Box`; see
/// [`Anchored`](crate::arena::Anchored) for what is pointed to.
#[derive(Debug)]
pub(crate) struct TryBox<T>(Box<[T; 1]>);

impl<T> TryBox<T> {
    pub(crate) fn new(value: T) -> Result<Self, OutOfMemory> {
        let mut value = Some(value);
        let one = try_slice(1, || value.take().expect("one value is made"))?;
        Ok(Self(one.try_into().ok().expect("one value was made")))
    }
}

impl<T: Default> TryBox<T> {
    /// The value that is there, or else a new one.
    pub(crate) fn or_new(this: &mut Option<Self>) -> Result<&mut T, OutOfMemory> {
        if this.is_none() {
            *this = Some(Self::new(T::default())?);
        }
        Ok(this.as_mut().expect("just made"))
    }
}

impl<T> Deref for TryBox<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0[0]
    }
}

impl<T> DerefMut for TryBox<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0[0]
    }
}

const _: () = assert!(size_of::<Option<TryBox<u64>>>() == size_of::<usize>());
