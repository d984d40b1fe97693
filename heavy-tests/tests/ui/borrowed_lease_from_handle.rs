//! A handle yields no borrowed lease.

use leasehold::Governor;

fn main() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let lease = guard.handle().try_lease(4096);
}
