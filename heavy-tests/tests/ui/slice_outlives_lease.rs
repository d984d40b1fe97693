//! What is read from a lease cannot outlive it.

use leasehold::Governor;

fn main() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let lease = guard.try_lease(4096).unwrap();
    let bytes: &[u8] = &lease;
    drop(lease);
    assert!(bytes.is_empty());
}
