//! Which requests go first when memory runs short.

use std::fmt;

/// How much of each memory limit a request may fill.
///
/// What matters less leaves room for what matters more: a request is refused where it would raise a
/// scope above its priority's share of the limit. The shares are exact: of a limit of 1,000 bytes
/// the 400th can be had at low priority, the 401st cannot. The idea and the steps are those of
/// go-libp2p's resource manager, whose shares are 39.8, 59.8, 79.7 and 100 %.
///
/// ```
/// use leasehold::{Governor, Limits, Priority, ScopeLimits};
///
/// let limits = Limits::unlimited().system(ScopeLimits::unlimited().memory(1000));
/// let governor = Governor::new(limits)?;
/// let guard = governor.inbound().try_admit()?;
/// assert!(guard.handle().request().priority(Priority::Low).try_reserve(401).is_err());
/// let _low = guard.handle().request().priority(Priority::Low).try_reserve(400)?;
/// let _critical = guard.handle().try_reserve(600)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Priority {
    /// Up to 40 % of each limit.
    Low,
    /// Up to 60 % of each limit.
    Medium,
    /// Up to 80 % of each limit.
    High,
    /// Up to the limits themselves: what every request without a priority has.
    #[default]
    Critical,
}

impl Priority {
    /// The share of each limit, in per cent.
    pub const fn percent(self) -> u64 {
        match self {
            Priority::Low => 40,
            Priority::Medium => 60,
            Priority::High => 80,
            Priority::Critical => 100,
        }
    }

    /// The part of `limit` that may be filled, rounded down.
    #[inline]
    pub(crate) fn share_of(self, limit: u64) -> u64 {
        match self {
            Priority::Critical => limit,
            part => (u128::from(limit) * u128::from(part.percent()) / 100) as u64,
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Priority::Low => "low",
            Priority::Medium => "medium",
            Priority::High => "high",
            Priority::Critical => "critical",
        })
    }
}
