//! Every call that the benches make of the library, each for a request that the limits allow.
//!
//! To measure a version of the library whose interface differs, change this file and no other one:
//! `compare` then finds the same contenders in both versions.

use std::num::NonZeroU32;
use std::time::Duration;

use leasehold::{Admission, Direction, Pinned, Priority};

pub use leasehold::{
    AllowList, ConnectionGuard, Governor, Lease, Limits, OwnedLease, PeerKey, PrefixLimits, Rate,
    Reservation, ScopeLimits, StreamGuard, SubnetLimits,
};

/// Why the calls below cannot fail.
const AMPLE: &str = "the limits are ample";

/// A billion new connections a second.
pub fn rate_of_a_billion() -> Rate {
    Rate::new(Duration::from_nanos(1), NonZeroU32::new(1_000_000).expect("not zero"))
}

/// Bytes leased and returned so far, by the governor's own count.
pub fn counted(governor: &Governor) -> [u64; 2] {
    let totals = governor.snapshot().totals;
    [totals.leased_bytes, totals.returned_bytes]
}

/// Admits a connection.
#[inline(always)]
pub fn admit(admission: Admission<'_>) -> ConnectionGuard {
    admission.try_admit().expect(AMPLE)
}

/// Binds a connection to its peer.
#[inline(always)]
pub fn bind_peer(guard: &ConnectionGuard, peer: impl AsRef<[u8]>) {
    guard.handle().bind_peer(peer.as_ref()).expect(AMPLE);
}

/// Closes a connection whose guard cannot be dropped.
pub fn close(guard: &ConnectionGuard) {
    guard.handle().close().expect("nothing else closes it");
}

/// Leases a buffer.
#[inline(always)]
pub fn lease(guard: &ConnectionGuard, len: usize) -> Lease<'_> {
    guard.try_lease(len).expect(AMPLE)
}

/// Leases a buffer that may outlive the guard.
#[inline(always)]
pub fn lease_owned(guard: &ConnectionGuard, len: usize) -> OwnedLease {
    guard.handle().try_lease_owned(len).expect(AMPLE)
}

/// Pins an owned lease.
#[inline(always)]
pub fn pin(lease: &mut OwnedLease) -> Pinned<'_> {
    lease.pin().expect("the connection is open")
}

/// Reserves bytes.
#[inline(always)]
pub fn reserve(guard: &ConnectionGuard, bytes: u64) -> Reservation {
    guard.handle().try_reserve(bytes).expect(AMPLE)
}

/// Opens a stream.
pub fn open_stream(guard: &ConnectionGuard) -> StreamGuard {
    guard.handle().try_open_stream(Direction::Inbound).expect(AMPLE)
}

/// Leases a buffer on a stream.
#[inline(always)]
pub fn lease_on_stream(stream: &StreamGuard, len: usize) -> OwnedLease {
    stream.try_lease_owned(len).expect(AMPLE)
}

/// Asks for a lease that a limit must refuse.
#[inline(always)]
pub fn lease_in_vain(guard: &ConnectionGuard, len: usize) {
    assert!(guard.try_lease(len).is_err(), "a limit was exceeded");
}

/// Asks for a reservation at low priority, of which this priority's share of a limit must refuse
/// even one byte.
pub fn reserve_low_in_vain(guard: &ConnectionGuard) {
    assert!(
        guard.handle().request().priority(Priority::Low).try_reserve(1).is_err(),
        "a share of a limit was exceeded"
    );
}
