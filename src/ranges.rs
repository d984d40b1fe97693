//! The least and the most that can be configured. They lie below everything else, since errors name
//! them too.

use std::time::Duration;

/// The longest peer key, class name or opaque source, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// The most size classes a governor can have. A connection's record has a magazine for each, of 40 bytes.
#[cfg(not(leasehold_loom))]
pub const MAX_SIZE_CLASSES: usize = 5;
/// The most size classes a governor can have. A connection's record has a magazine for each, of 40 bytes.
#[cfg(leasehold_loom)]
pub const MAX_SIZE_CLASSES: usize = 2;
/// The smallest block, in bytes.
pub const MIN_BLOCK_BYTES: usize = 256;
/// The largest block, in bytes. Larger leases get a mapping of their own.
pub const MAX_BLOCK_BYTES: usize = 256 << 10;

/// Public as [`Limits::MAX_CLASS_NAMES`](crate::Limits::MAX_CLASS_NAMES).
pub(crate) const MAX_CLASS_NAMES: usize = 10_000;

/// Public as [`Rate::MAX_INTERVAL`](crate::Rate::MAX_INTERVAL).
pub(crate) const MAX_RATE_INTERVAL: Duration = Duration::from_secs(1_000_000_000);
