//! A request fills each limit up to the share of its priority, to the byte, and no further.

mod common;
#[path = "limits_table/stage.rs"]
mod stage;

use common::{KIB, governor, scope};
use leasehold::{
    Direction, LeaseError, Limit, Limits, OwnedLease, Priority, Reason, Reservation, Resource,
};
use stage::{No, Reserve, SPOTS, Stage, Stream, name, only, share_of};

const PRIORITIES: [Priority; 4] =
    [Priority::Low, Priority::Medium, Priority::High, Priority::Critical];

impl Stage {
    fn reserve_at(&self, bytes: u64, priority: Priority) -> Result<Reservation, No> {
        Ok(match &self.stream {
            Some(stream) => stream.request().priority(priority).try_reserve(bytes)?,
            None => self.guard().handle().request().priority(priority).try_reserve(bytes)?,
        })
    }

    fn lease_at(&self, len: usize, priority: Priority) -> Result<OwnedLease, No> {
        Ok(match &self.stream {
            Some(stream) => stream.request().priority(priority).try_lease_owned(len)?,
            None => self.guard().handle().request().priority(priority).try_lease_owned(len)?,
        })
    }

    #[track_caller]
    fn assert_refuses_at(&self, priority: Priority, limit: u64, in_use: u64, requested: u64) {
        let before = self.rows();
        let counted = self.governor.snapshot().totals.refused;
        let Err(no) = self.reserve_at(requested, priority) else {
            panic!("{self}: {requested} on top of {in_use} of {limit} granted at {priority}");
        };
        assert_eq!(self.rows(), before, "{self}");
        assert_eq!(self.governor.snapshot().totals.refused, counted + 1, "{self}");
        let No { refused, message, .. } = no;
        assert_eq!(
            (refused.scope(), refused.resource(), refused.priority(), refused.reason()),
            (self.spot.scope(), Resource::Memory, priority, Reason::Limit),
            "{self}"
        );
        let numbers = (refused.limit(), refused.in_use(), refused.requested());
        assert_eq!(numbers, (Limit::Max(limit), in_use, requested), "{self}");
        let (name, never) = (name(self.spot.scope()), requested > share_of(limit, priority));
        let never = if never { ", which can never fit" } else { "" };
        let numbers = format!("{in_use} in use, {requested} requested{never}");
        let sentence = match priority {
            Priority::Critical => {
                format!("{name} limit of {limit} bytes of memory reached: {numbers}")
            }
            _ => format!(
                "{percent} % of the {name} limit of {limit} bytes of memory reached, all that \
                 {priority} priority may fill: {numbers}",
                percent = priority.percent(),
            ),
        };
        assert_eq!(message, sentence, "{self}");
    }
}

#[test]
fn each_priority_fills_its_share_to_the_byte_and_no_further() {
    let limits = [1, 2, 3, 7, 999, 1000, 1001, (1 << 53) + 1, u64::MAX / 100 + 1, u64::MAX - 1];
    for spot in SPOTS {
        // A stream's account counts to 2^62 bytes.
        let most = if spot == Stream || spot.is_of_stream_class() { 1 << 61 } else { u64::MAX };
        for limit in limits.into_iter().filter(|limit| *limit < most) {
            let stage = Stage::new(spot, Reserve, spot.limits(only(Resource::Memory, limit)));
            for priority in PRIORITIES {
                let share = share_of(limit, priority);
                stage.assert_refuses_at(priority, limit, 0, share + 1);
                let mut all = stage.reserve_at(share, priority).unwrap_or_else(|no| {
                    panic!("{stage}: {share} of {limit} at {priority}: {}", no.message)
                });
                stage.assert_refuses_at(priority, limit, share, 1);
                // It stays as important as it was made.
                if share > 0 {
                    all.resize(share - 1).unwrap();
                    all.resize(share).unwrap();
                }
                let error = all.resize(share + 1).unwrap_err();
                assert_eq!(error.refused().unwrap().priority(), priority);
                // The rest is for those that matter more.
                let rest = limit - share;
                let _rest = stage.reserve_at(rest, Priority::Critical).unwrap_or_else(|no| {
                    panic!("{stage}: the rest of {limit} after {share}: {}", no.message)
                });
                stage.assert_refuses_at(Priority::Critical, limit, limit, 1);
                if priority < Priority::Critical {
                    stage.assert_refuses_at(priority, limit, limit, 1);
                }
            }
        }
    }
}

#[test]
fn a_lease_at_a_priority_fills_its_share_to_the_block() {
    for spot in SPOTS {
        for (len, bytes) in [(512, 512), (128 << 10, 128 * KIB)] {
            let limit = 10 * bytes;
            for (priority, most) in PRIORITIES.into_iter().zip([4, 6, 8, 10]) {
                let limits = spot.limits(only(Resource::Memory, limit));
                let stage = Stage::new(spot, Reserve, limits);
                let mut leases: Vec<_> =
                    (0..most).map(|_| stage.lease_at(len, priority).ok().unwrap()).collect();
                let before = stage.rows();
                let no = stage.lease_at(len, priority).expect_err("beyond its share");
                assert_eq!(
                    (no.refused.scope(), no.refused.priority(), no.refused.in_use()),
                    (spot.scope(), priority, most * bytes),
                    "{stage}"
                );
                assert_eq!(stage.rows(), before, "{stage}");
                leases.pop();
                leases.push(stage.lease_at(len, priority).ok().expect("one came back"));
                assert!(stage.lease_at(len, priority).is_err(), "{stage}");
            }
        }
    }
}

#[test]
fn an_idle_block_is_no_way_around_a_priority() {
    let governor = governor(Limits::unlimited().system(scope().memory(10 * 512)));
    let guard = governor.inbound().try_admit().unwrap();
    let mut blocks: Vec<_> = (0..8).map(|_| guard.try_lease(512).unwrap()).collect();
    blocks.truncate(4);
    assert_eq!(guard.handle().usage().unwrap().cached_bytes, 4 * 512);
    let error = guard.request().priority(Priority::Low).try_lease(512).unwrap_err();
    let refused = error.refused().unwrap();
    // The idle block that it asked for does not count, and the others would not have helped.
    assert_eq!((refused.in_use(), refused.priority()), (7 * 512, Priority::Low));
    assert_eq!(guard.handle().usage().unwrap().cached_bytes, 4 * 512);
    blocks.pop();
    blocks.push(guard.request().priority(Priority::Low).try_lease(512).unwrap());
    let _ordinary = guard.try_lease(512).unwrap();
}

#[test]
fn what_siblings_keep_idle_gives_way_to_a_request_at_any_priority() {
    for (priority, share) in PRIORITIES.into_iter().zip([4, 6, 8, 10]) {
        let governor = governor(Limits::unlimited().system(scope().memory(10 * 4 * KIB)));
        let sibling = governor.inbound().try_admit().unwrap();
        let idle: Vec<_> = (0..8).map(|_| sibling.try_lease(4096).unwrap()).collect();
        drop(idle);
        let guard = governor.inbound().try_admit().unwrap();
        let leases: Vec<_> = (0..share)
            .map(|_| guard.handle().request().priority(priority).try_lease_owned(4096).unwrap())
            .collect();
        assert!(
            guard.handle().request().priority(priority).try_lease_owned(4096).is_err(),
            "{priority}"
        );
        drop(leases);
    }
}

#[test]
fn a_handle_asks_at_a_priority_as_its_guard_does() {
    let governor = governor(Limits::unlimited().connection(scope().memory(10 * 512)));
    let guard = governor.inbound().try_admit().unwrap();
    let handle = guard.handle().clone();
    let _reserved = handle.request().priority(Priority::Low).try_reserve(4 * 512).unwrap();
    for error in [
        handle.request().priority(Priority::Low).try_reserve(1).unwrap_err(),
        handle.request().priority(Priority::Low).try_lease_owned(1).unwrap_err(),
        guard.handle().request().priority(Priority::Low).try_lease_owned(1).unwrap_err(),
        guard.request().priority(Priority::Low).try_lease(1).unwrap_err(),
    ] {
        assert_eq!(error.refused().unwrap().priority(), Priority::Low);
    }
    let _lease = handle.request().priority(Priority::Medium).try_lease_owned(512).unwrap();
    drop(guard);
    assert_eq!(
        handle.request().priority(Priority::Low).try_reserve(1).unwrap_err(),
        LeaseError::Closed
    );
    assert_eq!(
        handle.request().priority(Priority::Low).try_lease_owned(1).unwrap_err(),
        LeaseError::Closed
    );
}

#[test]
fn the_largest_limit_of_all_has_shares_like_any() {
    for spot in SPOTS {
        let stage = Stage::new(spot, Reserve, spot.limits(only(Resource::Memory, u64::MAX)));
        let low = share_of(u64::MAX, Priority::Low);
        assert!(stage.reserve_at(low + 1, Priority::Low).is_err(), "{stage}");
    }
}

#[test]
fn more_than_a_stream_can_count_is_refused_at_the_priority_it_was_asked_for() {
    let governor = governor(Limits::unlimited());
    let guard = governor.inbound().try_admit().unwrap();
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    let error = stream.request().priority(Priority::Low).try_reserve(u64::MAX).unwrap_err();
    assert_eq!(error.refused().unwrap().priority(), Priority::Low);
}
