//! What the library costs, beside the least that it could cost and what one would use instead.
//!
//! ```text
//! cargo bench -p leasehold-benches --bench ratios        a lease, and what comes with it
//! cargo bench -p leasehold-benches --bench outstanding   many leases of one connection
//! cargo bench -p leasehold-benches --bench pressure      leases while limits refuse others
//! cargo bench -p leasehold-benches --bench admission     admissions with every check on
//! cargo bench -p leasehold-benches --bench lease         criterion, against the last run
//! ```
//!
//! In all but the last one contenders take turns. A machine's speed drifts by more than the
//! differences of interest, so contenders that run one after the other for seconds see different
//! machines. For the same reason `compare` runs the benches of two versions of the library in turn:
//! see `src/bin/compare.rs`.
#![allow(clippy::disallowed_types, reason = "benches are never modelled")]

mod contenders;
mod crew;
pub mod floor;
pub mod library;
mod target;
pub mod turns;

pub use contenders::{BLOCK, CONNECTIONS, CONTENDERS, Contender, World, prepare_in};
pub use crew::{Crew, Prepare, THREADS, Work};
pub use target::Target;
