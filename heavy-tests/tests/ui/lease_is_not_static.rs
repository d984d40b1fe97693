//! A borrowed lease does not go into a task of its own.

use leasehold::Governor;

fn main() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let lease = guard.try_lease(4096).unwrap();
    std::thread::spawn(move || drop(lease));
}
