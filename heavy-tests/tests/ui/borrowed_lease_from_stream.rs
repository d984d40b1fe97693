//! A stream guard yields no borrowed lease.

use leasehold::{Direction, Governor};

fn main() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    let lease = stream.try_lease(4096);
}
