//! What a lease becomes: the right size when frozen, the next size when it grows, the same bytes
//! when it changes hands.

mod common;

use std::sync::mpsc;
use std::thread;

use bytes::{Buf, BufMut, Bytes};
use common::{KIB, assert_adds_up, assert_nothing_left};
use leasehold::{ConnectionGuard, ConnectionHandle, Governor, MAX_CLASS_BYTES, Revoked};

fn guard(governor: &Governor) -> ConnectionGuard {
    governor.inbound().peer("alice").try_admit().unwrap()
}

/// The sizes of a frozen lease's block: before, and after.
fn frozen(capacity: usize, len: usize) -> u64 {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let mut lease = guard.try_lease(capacity).unwrap();
    let written: Vec<u8> = (0..len).map(|nth| nth as u8).collect();
    lease.put_slice(&written);
    let bytes = lease.freeze();
    assert_eq!(bytes, written);
    let detached = assert_adds_up(&governor).connections[0].usage.detached_bytes;
    drop(bytes);
    assert_eq!(guard.usage().detached_bytes, 0);
    detached
}

#[test]
fn freeze_keeps_a_block_that_is_used_by_a_quarter_or_more() {
    assert_eq!(frozen(16384, 16384), 16 * KIB);
    assert_eq!(frozen(16384, 4096), 16 * KIB);
    assert_eq!(frozen(512, 512), 512);
}

#[test]
fn freeze_copies_less_into_the_smallest_block_that_fits() {
    assert_eq!(frozen(16384, 4095), 4 * KIB);
    assert_eq!(frozen(65536, 600), 2 * KIB);
    assert_eq!(frozen(65536, 1), 512);
    assert_eq!(frozen(300_000, 70_000), 72 * KIB, "a large one has its own pages");
    assert_eq!(frozen(1 << 20, 5), 512);
    assert_eq!(frozen(512, 1), 512, "there is nothing smaller");
}

#[test]
fn freezing_nothing_keeps_no_block() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let empty = [
        guard.try_lease(65536).unwrap().freeze(),
        guard.try_lease_owned(65536).unwrap().freeze().unwrap(),
        guard.try_lease_owned(65536).unwrap().into_pinned().unwrap().freeze(),
    ];
    assert!(empty.iter().all(Bytes::is_empty));
    assert_eq!(assert_adds_up(&governor).totals.outstanding_bytes, 0);
}

#[test]
fn freeze_shares_only_what_was_not_consumed() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let mut lease = guard.try_lease(512).unwrap();
    lease.put_bytes(1, 200);
    lease.put_bytes(2, 200);
    lease.advance(200);
    assert_eq!(lease.freeze(), vec![2; 200]);
}

#[test]
fn every_kind_of_lease_freezes_to_the_same_bytes() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let write = |buffer: &mut dyn BufMut| buffer.put_slice(&[7; 512]);
    let mut borrowed = guard.try_lease(512).unwrap();
    write(&mut borrowed);
    let mut owned = guard.try_lease_owned(512).unwrap();
    write(&mut owned.pin().unwrap());
    let mut pinned = guard.try_lease_owned(512).unwrap().into_pinned().unwrap();
    write(&mut pinned);
    let loose: Vec<_> = (0..10).map(|_| guard.try_lease(512).unwrap()).collect();
    let mut last = loose.into_iter().last().unwrap();
    write(&mut last);
    let frozen = [borrowed.freeze(), owned.freeze().unwrap(), pinned.freeze(), last.freeze()];
    assert!(frozen.iter().all(|bytes| *bytes == vec![7; 512]));
    assert_eq!(guard.usage().detached_bytes, 4 * 512);
    drop(frozen);
    drop(guard);
    assert_nothing_left(&governor);
}

#[test]
fn an_owned_lease_that_was_revoked_does_not_freeze() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let lease = guard.try_lease_owned(512).unwrap();
    drop(guard);
    assert_eq!(lease.freeze().unwrap_err(), Revoked);
}

#[test]
fn grow_takes_the_next_size_up() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let mut lease = guard.try_lease(1).unwrap();
    for capacity in [512, 2048, 4096, 16384, 65536] {
        assert_eq!(lease.capacity(), capacity);
        lease.put_bytes(7, lease.remaining_mut());
        assert!(lease.is_full());
        lease.grow().unwrap();
        assert_eq!(*lease, vec![7; capacity]);
        assert_eq!(guard.usage().leased_bytes, lease.capacity() as u64);
    }
    assert!(lease.capacity() > 65536);
    drop(lease);
    drop(guard);
    assert_nothing_left(&governor);
}

#[test]
fn into_owned_copies_nothing_and_keeps_the_charge() {
    for len in [512, 300_000] {
        let governor = Governor::unlimited();
        let guard = guard(&governor);
        let mut lease = guard.try_lease(len).unwrap();
        lease.put_slice(b"bytes");
        let place = lease.as_ptr();
        let before = guard.usage();
        let mut owned = lease.into_owned();
        assert_eq!(guard.usage(), before);
        assert_eq!(owned.pin().unwrap().as_ptr(), place);
        assert_eq!(&*owned.pin().unwrap(), b"bytes");
        drop(owned);
        assert_eq!(guard.usage().leased_bytes, 0);
    }
}

#[test]
fn leases_may_be_dropped_on_another_thread() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let owned: Vec<_> = (0..20).map(|_| guard.try_lease_owned(512).unwrap()).collect();
    let borrowed = guard.try_lease(2048).unwrap();
    std::thread::scope(|threads| {
        threads.spawn(|| drop((owned, borrowed)));
    });
    assert_eq!(assert_adds_up(&governor).totals.outstanding_bytes, 0);
}

#[test]
fn size_classes_can_be_chosen() {
    let governor = Governor::builder().size_classes(&[256, 8192]).build().unwrap();
    let guard = guard(&governor);
    let capacities = [1, 256, 257, 8192].map(|len| guard.try_lease(len).unwrap().capacity());
    assert_eq!(capacities, [256, 256, 8192, 8192]);
    assert_eq!(guard.try_lease(8193).unwrap().capacity(), 12288);
    let report = assert_adds_up(&governor).arena.classes;
    assert_eq!(report.iter().map(|c| c.block_bytes).collect::<Vec<_>>(), [256, 8192]);
}

#[test]
fn size_classes_that_cannot_be_are_refused() {
    use leasehold::ConfigError::{ClassCount, ClassOrder, ClassSize};
    let build = |sizes: &[usize]| Governor::builder().size_classes(sizes).build().unwrap_err();
    assert_eq!(build(&[]), ClassCount { count: 0 });
    assert_eq!(build(&[256; 6]), ClassCount { count: 6 });
    assert_eq!(build(&[128]), ClassSize { bytes: 128 });
    assert_eq!(build(&[300]), ClassSize { bytes: 300 });
    assert_eq!(build(&[0]), ClassSize { bytes: 0 });
    assert_eq!(build(&[512 << 10]), ClassSize { bytes: 512 << 10 });
    assert_eq!(build(&[1024, 512]), ClassOrder { bytes: 512 });
    assert_eq!(build(&[512, 512]), ClassOrder { bytes: 512 });
}

/// Owned leases made on one thread while another ends their guard, again and again: those from the
/// magazine, and (with eight others out) those beyond it. Each time slabs go with the blocks. There
/// is nothing to see here; a sanitizer, or the memory's being gone, tells who touched what was taken.
#[test]
fn owned_leases_are_made_while_their_guard_ends() {
    const ROUNDS: usize = 500;
    let governor = Governor::builder().size_classes(&[MAX_CLASS_BYTES]).build().unwrap();
    let (handles, received) = mpsc::sync_channel::<ConnectionHandle>(0);
    let (ready, begun) = mpsc::sync_channel(1);
    let worker = thread::spawn(move || {
        for handle in received {
            drop(handle.try_lease_owned(MAX_CLASS_BYTES).unwrap());
            ready.send(()).unwrap();
            while let Ok(mut lease) = handle.try_lease_owned(MAX_CLASS_BYTES) {
                if let Ok(mut pin) = lease.pin() {
                    pin.put_u8(1);
                    assert_eq!(*pin, [1]);
                }
            }
        }
    });
    for round in 0..ROUNDS {
        let guard = guard(&governor);
        let others = [4, 8][round % 2];
        let kept: Vec<_> =
            (0..others).map(|_| guard.try_lease_owned(MAX_CLASS_BYTES).unwrap()).collect();
        drop(guard.try_lease(MAX_CLASS_BYTES).unwrap());
        handles.send(guard.handle()).unwrap();
        begun.recv().unwrap();
        (0..round % 64 * 8).for_each(|_| std::hint::spin_loop());
        drop(guard);
        drop(kept);
    }
    drop(handles);
    worker.join().unwrap();
    assert_nothing_left(&governor);
}
