//! Time comes in through a trait, so that tests turn it by hand.
//!
//! Ages in reports are coarse: the governor reads its clock when it admits, reports or is
//! [maintained](crate::Governor::maintain), and a lease is stamped with the last reading. A lease
//! itself never asks for the time, which would cost more than the lease.

use std::time::{Duration, Instant};

/// A monotonic clock.
pub trait Clock: Send + Sync + 'static {
    /// Time since any fixed moment. Never falls.
    fn now(&self) -> Duration;
}

/// The system's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}
