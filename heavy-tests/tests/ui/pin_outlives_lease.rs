//! A pin cannot outlive its lease.

use leasehold::Governor;

fn main() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let pin = {
        let mut lease = guard.handle().try_lease_owned(4096).unwrap();
        lease.pin().unwrap()
    };
    drop(pin);
}
