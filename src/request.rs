//! How something is requested, where the defaults do not do.

use std::fmt;
use std::panic::Location;

use crate::priority::Priority;

/// A request to a [`ConnectionGuard`](crate::ConnectionGuard), a
/// [`ConnectionHandle`](crate::ConnectionHandle) or a [`StreamGuard`](crate::StreamGuard) that says
/// more than the plain call does.
///
/// Made by their `request` methods; what can be requested is what each of them lends, reserves and
/// opens. It costs nothing beside the call that it ends in.
///
/// ```
/// use leasehold::{Governor, Limits, Priority, ScopeLimits};
///
/// let limits = Limits::unlimited().peer(ScopeLimits::unlimited().memory(1 << 20));
/// let governor = Governor::new(limits)?;
/// let guard = governor.inbound().peer("alice").try_admit()?;
///
/// // Low priority fills at most 40 % of a limit.
/// assert!(guard.request().priority(Priority::Low).try_lease(512 << 10).is_err());
/// assert!(guard.try_lease(512 << 10).is_ok());
///
/// // An adapter leases in the name of the line that wrapped the transport.
/// let wrapped_at = std::panic::Location::caller();
/// let _lease = guard.request().site(wrapped_at).try_lease(4096)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a request does nothing until it is tried"]
pub struct Request<'a, T> {
    target: &'a T,
    priority: Priority,
    site: Option<&'static Location<'static>>,
}

impl<'a, T> Request<'a, T> {
    #[inline(always)]
    pub(crate) fn new(target: &'a T) -> Self {
        Self { target, priority: Priority::Critical, site: None }
    }

    /// How much of each memory limit the request may fill; the highest priority unless set. Below
    /// that a lease always takes the locks.
    #[inline(always)]
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// The place in the program that reports name as the one that made the request; the line that
    /// tries it unless set.
    #[inline(always)]
    pub fn site(mut self, site: &'static Location<'static>) -> Self {
        self.site = Some(site);
        self
    }

    /// What is asked, at what priority, and the site that was set or else the caller's.
    #[inline(always)]
    #[track_caller]
    pub(crate) fn parts(self) -> (&'a T, Priority, &'static Location<'static>) {
        let Self { target, priority, site } = self;
        (target, priority, site.unwrap_or(Location::caller()))
    }
}

impl<T> fmt::Debug for Request<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("priority", &self.priority)
            .field("site", &self.site)
            .finish_non_exhaustive()
    }
}
