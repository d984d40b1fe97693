//! An owned lease has one pin at a time.

use leasehold::Governor;

fn main() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let mut lease = guard.handle().try_lease_owned(4096).unwrap();
    let first = lease.pin().unwrap();
    let second = lease.pin().unwrap();
    drop((first, second));
}
