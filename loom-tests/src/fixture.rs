//! What models are made of.

use std::ops::Deref;

use bytes::{BufMut, Bytes};
use leasehold::{
    ConnectionGuard, Governor, Lease, LeaseError, Limits, OwnedLease, PinnedLease, Refused, Scope,
    ScopeLimits,
};

/// The size of every block, in bytes.
pub const BLOCK: usize = if cfg!(leasehold_loom) { 256 } else { leasehold::MAX_BLOCK_BYTES };

/// How many blocks a slab has.
pub const SLAB_BLOCKS: usize = if cfg!(leasehold_loom) { 2 } else { (1 << 20) / BLOCK };

/// A scope with room for this many blocks, and no other limit.
pub fn room(blocks: u64) -> ScopeLimits {
    ScopeLimits::unlimited().memory(bytes(blocks))
}

/// The size of this many blocks.
pub fn bytes(blocks: u64) -> u64 {
    blocks * BLOCK as u64
}

/// A governor with one size class, which maps no more than it must.
pub fn governor(limits: Limits) -> Governor {
    let builder = Governor::builder().limits(limits).size_classes(&[BLOCK]).fragmentation(0);
    builder.build().expect("the limits are valid")
}

/// A governor with room for this many blocks, and no other limit.
pub fn governor_with_room(blocks: u64) -> Governor {
    governor(Limits::unlimited().system(room(blocks)))
}

/// A connection without a peer.
#[track_caller]
pub fn admit(governor: &Governor) -> ConnectionGuard {
    governor.inbound().try_admit().expect("admission is not limited")
}

/// A lease where there is room for one.
#[track_caller]
pub fn lease(guard: &ConnectionGuard) -> Lease<'_> {
    guard.try_lease(BLOCK).expect("there is room")
}

/// Leaves the connection with an idle block.
#[track_caller]
pub fn cache(guard: &ConnectionGuard) {
    drop(lease(guard));
    assert_eq!(guard.handle().usage().unwrap().cached_bytes, bytes(1));
}

/// Whether a request was granted, or else refused by this scope.
#[track_caller]
pub fn granted<T>(answer: &Result<T, LeaseError>, or_refused_by: Scope) -> bool {
    let refused = answer.as_ref().err().map(LeaseError::refused);
    if let Some(refused) = refused {
        let scope = refused.map(Refused::scope);
        assert_eq!(scope, Some(or_refused_by), "refused by another scope, or for another reason");
    }
    refused.is_none()
}

/// Bytes that tell which thread wrote them.
pub trait Mark {
    /// Writes a byte, and reads it back.
    fn mark(&mut self, byte: u8);
}

impl<T: BufMut + Deref<Target = [u8]>> Mark for T {
    #[track_caller]
    fn mark(&mut self, byte: u8) {
        self.put_u8(byte);
        assert_eq!(self.last(), Some(&byte), "another user wrote to the block");
    }
}

/// What is left of a lease when its connection has ended.
pub trait Remains {
    /// How many blocks it keeps out of the arena.
    fn blocks(&self) -> u64;
}

impl Remains for () {
    fn blocks(&self) -> u64 {
        0
    }
}

impl Remains for OwnedLease {
    fn blocks(&self) -> u64 {
        0
    }
}

impl Remains for PinnedLease {
    fn blocks(&self) -> u64 {
        1
    }
}

impl Remains for Bytes {
    fn blocks(&self) -> u64 {
        u64::from(!self.is_empty())
    }
}

impl<T: Remains> Remains for Option<T> {
    fn blocks(&self) -> u64 {
        self.as_ref().map_or(0, T::blocks)
    }
}
