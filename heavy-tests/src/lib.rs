//! Tests of leasehold whose tools are too heavy for the crate itself: random sequences against an
//! oracle (proptest), programs that must not compile (trybuild), and threads that collide.
//!
//! They live in a package of their own so that building an example builds none of it. What they
//! share they share with the crate's own tests too.

#[path = "../../tests/common/mod.rs"]
#[allow(missing_docs, reason = "a module of tests")]
pub mod common;

/// A small generator of its own, so that a failing seed fails again.
pub struct Dice(pub u64);

impl Dice {
    /// A number below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}
