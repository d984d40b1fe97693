//! Tests of leasehold whose tools are too heavy for the crate itself: random sequences against an
//! oracle (proptest), programs that must not compile (trybuild), and threads that collide.
//!
//! They live in a package of their own so that building an example builds none of it. What they
//! share they share with the crate's own tests too.

#[path = "../../tests/common/mod.rs"]
#[allow(missing_docs, reason = "a module of tests")]
pub mod common;
