//! Time comes in through a trait, so that tests turn it by hand.
//!
//! Ages in reports are coarse: the governor reads its clock when it admits, reports or is
//! [maintained](crate::Governor::maintain), and a lease is stamped with the last reading. A lease
//! itself never asks for the time, which would cost more than the lease.

use std::time::Duration;

/// A monotonic clock.
pub trait Clock: Send + Sync + 'static {
    /// Time since any fixed moment. Never falls.
    fn now(&self) -> Duration;
}

/// The system's monotonic clock, in its coarse form where there is one: on Linux it steps every one
/// to ten milliseconds and costs a sixth of the exact one, which would be a good part of what an
/// admission costs. Ages and rates need no more.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(any(target_os = "linux", target_os = "android"), derive(Default))]
pub struct SystemClock {
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    start: std::time::Instant,
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl Default for SystemClock {
    fn default() -> Self {
        Self { start: std::time::Instant::now() }
    }
}

impl Clock for SystemClock {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn now(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
        // Monotonic time is never negative.
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}
