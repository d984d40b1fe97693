//! A borrowed lease cannot outlive its guard.

use leasehold::Governor;

fn main() {
    let governor = Governor::unlimited();
    let lease = {
        let guard = governor.inbound().try_admit().unwrap();
        guard.try_lease(4096).unwrap()
    };
    drop(lease);
}
