#![doc = include_str!("../README.md")]
#![deny(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn)]
#![deny(unsafe_code)]
#![deny(clippy::undocumented_unsafe_blocks)]

mod admission;
#[allow(unsafe_code, reason = "addresses of blocks and slabs")]
mod arena;
mod clock;
mod connection;
pub mod design;
mod error;
pub mod future;
mod governor;
mod guard;
mod keyed;
#[allow(unsafe_code, reason = "access to leased bytes")]
mod lease;
mod limit;
mod limits;
mod magazine;
mod name;
mod priority;
mod registry;
mod report;
mod reservation;
mod scope;
mod stream;
#[allow(dead_code, reason = "admission is about to ask it")]
mod subnet;
#[cfg_attr(leasehold_loom, allow(unsafe_code, reason = "loom's cells are reached by pointer"))]
mod sync;
mod usage;

pub use admission::Admission;
pub use arena::{ArenaReport, ClassReport, MAX_CLASS_BYTES, MAX_CLASSES, MIN_CLASS_BYTES};
pub use clock::{Clock, SystemClock};
pub use error::{
    AdmitError, BindError, Closed, ConfigError, LeaseError, NameTooLong, Reason, Refused, Resource,
    Revoked, Scope,
};
pub use governor::{Governor, GovernorBuilder};
pub use guard::{ConnectionGuard, ConnectionHandle};
pub use lease::{Lease, OwnedLease, Pinned, PinnedLease};
pub use limit::Limit;
pub use limits::{
    AllowList, AllowRule, Limits, Observe, PrefixLimits, Rate, ScopeLimits, SubnetLimits,
};
pub use name::{ConnectionId, Direction, MAX_NAME_BYTES, PeerKey, Source};
pub use priority::Priority;
pub use report::{
    ClassRow, ConnectionRow, ConnectionUsage, Drained, Orphan, PeerRow, Reclaimed, RefusalRow,
    ScopeRow, Snapshot, StreamUsage, Totals,
};
pub use reservation::Reservation;
pub use stream::StreamGuard;
pub use usage::Usage;
