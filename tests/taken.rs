//! What a request leaves behind that took an idle block of another connection.

mod common;

use common::counting::{Counting, live_bytes};
use common::{KIB, MIB, governor, make_idle, scope, usage};
use leasehold::Limits;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Its peer is short of memory that lies idle with the connection, and then the system of memory that
/// lies idle with another.
#[test]
fn own_magazines_that_were_emptied_go_although_another_gave_the_rest() {
    /// What the lists of the scopes take for a connection, at most; less than a magazine and what
    /// leads to it.
    const LISTED_BYTES: isize = 256;
    let limits =
        Limits::unlimited().system(scope().memory(128 * KIB)).peer(scope().memory(100 * KIB));
    let governor = governor(limits);
    let other = governor.inbound().peer("other").try_admit().unwrap();
    let guard = governor.inbound().peer("mine").try_admit().unwrap();
    make_idle(&guard, 4096, 16);
    make_idle(&other, 16384, 4);
    drop(guard.handle().try_reserve(90 * KIB).unwrap());
    assert_eq!(usage(&guard).cached_bytes, 0);
    let before = live_bytes();
    guard.handle().trim();
    assert!(before - live_bytes() < LISTED_BYTES, "{} bytes", before - live_bytes());
}

/// A reservation needs the room that the block takes, and not the block.
#[test]
fn slab_that_is_emptied_is_unmapped() {
    let governor = governor(Limits::unlimited().system(scope().memory(2 * MIB)));
    let guard = governor.inbound().try_admit().unwrap();
    let other = governor.inbound().try_admit().unwrap();
    let full_slab: Vec<_> = (0..16).map(|_| guard.try_lease(65536).unwrap()).collect();
    make_idle(&other, 65536, 1);
    drop(full_slab);
    guard.handle().trim();
    assert_eq!(governor.snapshot().arena.mapped_bytes, 2 * MIB);
    let _all = guard.handle().try_reserve(2 * MIB).unwrap();
    assert_eq!(usage(&other).cached_bytes, 0);
    assert_eq!(governor.snapshot().arena.mapped_bytes, MIB);
}
