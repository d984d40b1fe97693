//! What is counted for ever, and what is added up in one walk over the connections.
//!
//! Leases and returns count in their magazine's own word; everything here is added where a connection's
//! lock is held anyway, or at its close. So no lease writes a line that others write.

use std::time::Duration;

use crate::ranges::MAX_SIZE_CLASSES;

/// One figure for each size class, and one for large leases, which have mappings of their own.
pub(crate) type BySize = [u64; MAX_SIZE_CLASSES + 1];

/// The place of large leases, after those of the size classes.
pub(crate) const LARGE: usize = MAX_SIZE_CLASSES;

/// Counters that only rise.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) leased_bytes: BySize,
    pub(crate) returned_bytes: BySize,
    /// Owned leases that a close took from their holders.
    pub(crate) revoked_leases: u64,
    /// Borrowed leases that were forgotten and that the guard's end took back.
    pub(crate) leaked_bytes: u64,
}

/// Connections that ended and were not published yet: by age, and by the most memory that they had at once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ended {
    pub(crate) by_seconds: [u64; SECONDS_BUCKETS.len() + 1],
    pub(crate) by_peak: [u64; PEAK_BYTES_BUCKETS.len() + 1],
}

impl Ended {
    pub(crate) fn count(&mut self, age: Duration, peak_bucket: usize) {
        let seconds = age.as_secs_f64();
        self.by_seconds[SECONDS_BUCKETS.partition_point(|bound| *bound < seconds)] += 1;
        self.by_peak[peak_bucket] += 1;
    }
}

/// What connections hold, added up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Holdings {
    /// Leased and returned since each connection's counts were last folded.
    pub(crate) leased_bytes: BySize,
    pub(crate) returned_bytes: BySize,
    pub(crate) outstanding_bytes: BySize,
    pub(crate) idle_bytes: BySize,
    pub(crate) detached_bytes: u64,
    pub(crate) reserved_bytes: u64,
    pub(crate) pinned_leases: u64,
    /// Of what is outstanding, what outlives its connection's guard.
    pub(crate) orphaned_bytes: u64,
    pub(crate) orphans: u64,
    /// Connections whose guard is alive.
    pub(crate) connections: u64,
}

/// The upper bounds of the buckets in which ages of connections are counted, in seconds.
pub const SECONDS_BUCKETS: [f64; 12] =
    [0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 86400.0];

/// The upper bounds of the buckets in which the most memory of connections is counted, in bytes.
pub const PEAK_BYTES_BUCKETS: [f64; 10] = [
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262144.0,
    1048576.0,
    4194304.0,
    16777216.0,
    67108864.0,
    268435456.0,
];

/// The bucket of so much memory.
#[inline]
pub(crate) fn peak_bucket(bytes: u64) -> usize {
    let bits = u64::BITS - bytes.saturating_sub(1).leading_zeros();
    (bits.saturating_sub(9) as usize / 2).min(PEAK_BYTES_BUCKETS.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_lies_in_the_first_bucket_that_it_does_not_exceed() {
        for bytes in (0..40).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit, (1 << bit) + 1]) {
            let sought = PEAK_BYTES_BUCKETS.partition_point(|bound| *bound < bytes as f64);
            assert_eq!(peak_bucket(bytes), sought, "{bytes}");
        }
        assert_eq!(peak_bucket(u64::MAX), PEAK_BYTES_BUCKETS.len());
    }
}
