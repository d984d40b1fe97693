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
mod counters;
pub mod design;
mod error;
pub mod future;
mod governed;
mod governor;
mod guard;
mod handle;
#[cfg(feature = "tokio")]
pub mod io;
mod keyed;
#[allow(unsafe_code, reason = "access to leased bytes")]
mod lease;
mod limit;
mod limits;
mod magazine;
#[cfg(feature = "metrics")]
pub mod metrics;
mod name;
mod priority;
mod ranges;
mod registry;
mod report;
mod request;
mod reservation;
mod scope;
mod stream;
mod subnet;
mod summary;
#[cfg_attr(leasehold_loom, allow(unsafe_code, reason = "loom's cells are reached by pointer"))]
mod sync;
#[cfg(feature = "testing")]
mod testing;
mod try_box;
mod usage;

pub use admission::Admission;
pub use arena::{ArenaReport, SizeClassReport};
pub use clock::{Clock, SystemClock};
pub use error::{
    AdmitError, BindError, Closed, ConfigError, LeaseError, NameTooLong, Reason, Refused, Resource,
    Revoked, Scope,
};
pub use governed::Governed;
pub use governor::{Governor, GovernorBuilder};
pub use guard::ConnectionGuard;
pub use handle::ConnectionHandle;
pub use lease::{Lease, OwnedLease, Pinned, PinnedLease};
pub use limit::Limit;
pub use limits::{
    AllowList, AllowRule, Host, LimitWarning, Limits, NodeType, Observe, PrefixLimits, Rate,
    ScopeLimits, SubnetLimits, UnknownNodeType,
};
#[cfg(feature = "serde")]
pub use limits::{FileError, LimitsFile, Position, Problem, ProblemKind};
pub use name::{ConnectionId, Direction, PeerKey, Source};
pub use priority::Priority;
pub use ranges::{MAX_BLOCK_BYTES, MAX_NAME_BYTES, MAX_SIZE_CLASSES, MIN_BLOCK_BYTES};
pub use report::{
    ConnectionRow, ConnectionUsage, Drained, Orphan, Reclaimed, RefusalRow, ScopeRow, Snapshot,
    StreamUsage, Totals,
};
pub use request::Request;
pub use reservation::Reservation;
pub use stream::StreamGuard;
pub use summary::{
    Group, MemoryUse, Names, NotQuiescent, Report, ReportOptions, ReportedConnection, ScopeUse,
    Site,
};
#[cfg(feature = "testing")]
pub use testing::Faults;
pub use usage::Usage;

#[cfg(all(feature = "__holds", not(leasehold_loom)))]
#[doc(hidden)]
pub use sync::holds as __holds;
