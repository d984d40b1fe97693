//! What a lease costs, beside the least it could cost and what one would use instead.
//!
//! ```text
//! cargo bench -p leasehold-benches --bench ratios    all in turn, one table
//! cargo bench -p leasehold-benches --bench lease     criterion, against the last run
//! cargo bench -p leasehold-benches --bench admission admissions with every check on, one table
//! ```
//!
//! Ratios need all in turn. A machine's speed drifts by more than the differences of interest, so
//! contenders that run one after the other for seconds see different machines.
#![allow(clippy::disallowed_types, reason = "benches are never modelled")]

mod contenders;
mod crew;
pub mod turns;

pub use contenders::{
    ALTERNATIVE, BLOCK, CONNECTIONS, CONTENDERS, Contender, FLOOR, Target, Work, World,
};
pub use crew::{Crew, THREADS};
