//! An owned lease cannot be frozen, moved or dropped while it is pinned.

use leasehold::Governor;

fn main() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let mut lease = guard.handle().try_lease_owned(4096).unwrap();
    let pin = lease.pin().unwrap();
    drop(lease.freeze());
    drop(pin);
}
