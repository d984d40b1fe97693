//! A guard cannot be moved while something of it is borrowed.

use leasehold::Governor;

fn main() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let lease = guard.try_lease(4096).unwrap();
    let moved = guard;
    drop(lease);
    drop(moved);
}
