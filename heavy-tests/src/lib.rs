//! Tests of leasehold whose tools are too heavy for the crate itself: random sequences against an
//! oracle (proptest), programs that must not compile (trybuild), and threads that collide.
//!
//! They live in a package of their own so that building an example builds none of it.
