//! The bytes of an owned lease are not to be had without a pin.

use leasehold::Governor;

fn main() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let lease = guard.handle().try_lease_owned(4096).unwrap();
    let first = lease[0];
}
