//! A guard cannot be cloned.

use leasehold::{ConnectionGuard, Governor};

fn main() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let second = ConnectionGuard::clone(&guard);
    drop((guard, second));
}
