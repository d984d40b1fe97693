//! Memory that raw pointers lead to.

use std::ops::Deref;
use std::ptr::NonNull;

use crate::try_box::{OutOfMemory, try_slice};

/// Owns a value that raw pointers lead to as well: they stay valid when this moves, and until it is
/// dropped. A `Box` must not be moved then: it claims to be the only way to its content. For the same
/// reason nothing here lends the content as `&mut`.
#[derive(Debug)]
pub(crate) struct Anchored<T: ?Sized>(NonNull<T>);

// SAFETY: it owns its content as a `Box` does.
unsafe impl<T: ?Sized + Send> Send for Anchored<T> {}
// SAFETY: it lends its content by shared reference only.
unsafe impl<T: ?Sized + Sync> Sync for Anchored<T> {}

impl<T> Anchored<T> {
    pub(crate) fn try_new(value: T) -> Result<Self, OutOfMemory> {
        let mut value = Some(value);
        let one = try_slice(1, || value.take().expect("one value is made"))?;
        // A slice of one value is laid out as that value is, and freed in the same way.
        Ok(Self(NonNull::from(Box::leak(one)).cast()))
    }
}

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

    #[inline(always)]
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
