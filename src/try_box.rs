//! A box whose allocation may fail: std's own aborts the process.
//!
//! What a lease, a reservation or a bind has to allocate is allocated before anything is charged,
//! and a failure is an error of the call.

use std::ops::{Deref, DerefMut};

/// There is no memory for the book-keeping that a request needs. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfMemory;

/// A value on the heap, at an address that stays.
#[derive(Debug)]
pub(crate) struct TryBox<T>(Box<[T; 1]>);

impl<T> TryBox<T> {
    pub(crate) fn new(value: T) -> Result<Self, OutOfMemory> {
        // `Vec` alone has a stable constructor that reports a failed allocation.
        let mut one = Vec::new();
        one.try_reserve_exact(1).map_err(|_| OutOfMemory)?;
        one.push(value);
        match <Box<[T; 1]>>::try_from(one) {
            Ok(boxed) => Ok(Self(boxed)),
            Err(_) => unreachable!("one value was pushed"),
        }
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
