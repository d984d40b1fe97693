//! Trying limits out: what would be refused is counted and granted.

use crate::error::Scope;

/// The scopes that refuse nothing and count what they would have refused, so that limits can be
/// tried on live traffic first.
///
/// The counts are in [`Snapshot::observed`](crate::Snapshot::observed). The arena follows the
/// system scopes: while those only observe, it has no bound either.
///
/// What a connection holds while it is being closed counts as in use until the close has taken it off
/// the scopes. So a request that comes in that moment may be counted as one that would be refused,
/// although a limit that is enforced would have let it wait for the close.
///
/// ```
/// use leasehold::{Governor, Limits, Observe, Scope, ScopeLimits};
///
/// let limits = Limits::unlimited()
///     .system(ScopeLimits::unlimited().connections(1))
///     .observe(Observe::none().scope(Scope::System));
/// let governor = Governor::new(limits)?;
/// let _first = governor.inbound().try_admit()?;
/// let _second = governor.inbound().try_admit()?;
/// assert_eq!(governor.snapshot().observed[0].count, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observe {
    /// One bit for each [`Scope`].
    scopes: u16,
}

const _: () = assert!(Scope::ALL.len() <= u16::BITS as usize);

impl Observe {
    /// Every scope enforces its limits.
    pub const fn none() -> Self {
        Self { scopes: 0 }
    }

    /// No scope enforces its limits.
    pub fn everything() -> Self {
        Scope::ALL.into_iter().fold(Self::none(), Self::scope)
    }

    /// This scope only observes. The arena has no choice of its own and is left out.
    #[must_use]
    pub const fn scope(self, scope: Scope) -> Self {
        match scope {
            Scope::Arena => self,
            scope => Self { scopes: self.scopes | 1 << scope as u16 },
        }
    }

    /// Whether this scope only observes.
    #[inline]
    pub const fn contains(self, scope: Scope) -> bool {
        self.scopes & 1 << scope as u16 != 0
    }

    /// Whether every scope enforces its limits.
    #[inline]
    pub const fn is_none(self) -> bool {
        self.scopes == 0
    }

    /// The scopes that only observe, in the order of [`Scope`].
    pub fn scopes(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.contains(*scope))
    }
}
