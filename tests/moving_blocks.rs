//! Blocks that move while a request looks for idle ones. Small programs, for Miri to run with many
//! schedules:
//!
//! ```text
//! MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-preemption-rate=0.05 -Zmiri-many-seeds=0..64" \
//!     cargo +nightly miri test -p leasehold --test moving_blocks
//! ```

mod common;

use std::thread;

use common::{KIB, governor, scope};
use leasehold::Limits;

/// One of two blocks lies idle at every moment, so there is room for a few bytes more.
fn blocks_take_turns(limits: Limits) {
    let governor = governor(limits);
    let guard = governor.inbound().try_admit().unwrap();
    drop((guard.try_lease(500).unwrap(), guard.try_lease(60_000).unwrap()));
    thread::scope(|threads| {
        threads.spawn(|| {
            for _ in 0..4 {
                drop(guard.try_lease(60_000).unwrap());
                drop(guard.try_lease(500).unwrap());
            }
        });
        drop(guard.handle().try_reserve(100).unwrap());
    });
}

#[test]
fn own_blocks_in_a_full_scope() {
    blocks_take_turns(Limits::unlimited().transient(scope().memory(64 * KIB + 512)));
}

#[test]
fn own_blocks_in_a_full_connection() {
    blocks_take_turns(Limits::unlimited().connection(scope().memory(64 * KIB + 512)));
}
