//! What a lease becomes: the right size when frozen, the next size when it grows, the same bytes
//! when it changes hands.

mod common;

use std::sync::mpsc;
use std::thread;

use bytes::{Buf, BufMut, Bytes};
use common::{KIB, assert_adds_up, assert_nothing_left};
use leasehold::{
    ConnectionGuard, ConnectionHandle, Direction, Governor, LeaseError, Limits, MAX_BLOCK_BYTES,
    OwnedLease, Revoked, Scope,
};

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
    assert_eq!(guard.handle().usage().unwrap().detached_bytes, 0);
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
        guard.handle().try_lease_owned(65536).unwrap().freeze().unwrap(),
        guard.handle().try_lease_owned(65536).unwrap().into_pinned().unwrap().freeze(),
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
    let mut owned = guard.handle().try_lease_owned(512).unwrap();
    write(&mut owned.pin().unwrap());
    let mut pinned = guard.handle().try_lease_owned(512).unwrap().into_pinned().unwrap();
    write(&mut pinned);
    let loose: Vec<_> = (0..10).map(|_| guard.try_lease(512).unwrap()).collect();
    let mut last = loose.into_iter().last().unwrap();
    write(&mut last);
    let frozen = [borrowed.freeze(), owned.freeze().unwrap(), pinned.freeze(), last.freeze()];
    assert!(frozen.iter().all(|bytes| *bytes == vec![7; 512]));
    assert_eq!(guard.handle().usage().unwrap().detached_bytes, 4 * 512);
    drop(frozen);
    drop(guard);
    assert_nothing_left(&governor);
}

#[test]
fn an_owned_lease_that_was_revoked_does_not_freeze() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let lease = guard.handle().try_lease_owned(512).unwrap();
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
        assert_eq!(guard.handle().usage().unwrap().leased_bytes, lease.capacity() as u64);
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
        let before = guard.handle().usage().unwrap();
        let mut owned = lease.into_owned();
        assert_eq!(guard.handle().usage().unwrap(), before);
        assert_eq!(owned.pin().unwrap().as_ptr(), place);
        assert_eq!(&*owned.pin().unwrap(), b"bytes");
        drop(owned);
        assert_eq!(guard.handle().usage().unwrap().leased_bytes, 0);
    }
}

/// An owned lease of each kind: a block of the magazine, one beyond it, and a mapping of its own.
/// The second value keeps the magazine full.
fn of_each_kind(guard: &ConnectionGuard) -> (Vec<OwnedLease>, Vec<OwnedLease>) {
    let lease = |len| guard.handle().try_lease_owned(len).unwrap();
    let first = lease(512);
    let others: Vec<_> = (0..8).map(|_| lease(512)).collect();
    (vec![first, lease(512), lease(300_000)], others)
}

#[test]
fn a_pinned_lease_becomes_owned_again_and_keeps_its_bytes_and_its_charge() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let (leases, _others) = of_each_kind(&guard);
    for lease in leases {
        let before = guard.handle().usage().unwrap();
        let mut pinned = lease.into_pinned().unwrap();
        pinned.put_slice(b"--bytes");
        pinned.advance(2);
        let place = pinned.as_ptr();
        let mut owned = pinned.into_owned();
        assert_eq!(guard.handle().usage().unwrap(), before);
        assert_eq!(&*owned.pin().unwrap(), b"bytes");
        owned.pin().unwrap().put_slice(b"!");
        let pinned = owned.into_pinned().unwrap();
        assert_eq!((&*pinned, pinned.as_ptr()), (&b"bytes!"[..], place));
        drop(pinned.into_owned());
        assert!(guard.handle().usage().unwrap().leased_bytes < before.leased_bytes);
    }
    assert_adds_up(&governor);
}

#[test]
fn a_close_takes_a_pinned_lease_that_became_owned_again() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let (leases, _others) = of_each_kind(&guard);
    let leases: Vec<_> =
        leases.into_iter().map(|lease| lease.into_pinned().unwrap().into_owned()).collect();
    drop(guard);
    assert_nothing_left(&governor);
    for mut lease in leases {
        assert_eq!(lease.pin().unwrap_err(), Revoked);
    }
    assert_nothing_left(&governor);
}

#[test]
fn a_pinned_lease_of_a_closed_connection_gives_its_block_back_as_it_becomes_owned() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let (leases, _others) = of_each_kind(&guard);
    let pinned: Vec<_> = leases.into_iter().map(|lease| lease.into_pinned().unwrap()).collect();
    drop(guard);
    assert_eq!(assert_adds_up(&governor).orphans.len(), 3);
    let mut owned: Vec<_> = pinned.into_iter().map(|pinned| pinned.into_owned()).collect();
    assert_nothing_left(&governor);
    assert!(owned.iter_mut().all(|lease| lease.pin().is_err()));
    drop(owned);
    assert_nothing_left(&governor);
}

/// Runs the same statements on every lease whose bytes can be touched.
macro_rules! on_each_face {
    ($guard:ident, |$buffer:ident| $steps:block) => {{
        let mut $buffer = $guard.try_lease(512).unwrap();
        $steps
    }
    {
        let mut owned = $guard.handle().try_lease_owned(512).unwrap();
        let mut $buffer = owned.pin().unwrap();
        $steps
    }
    {
        let mut $buffer = $guard.handle().try_lease_owned(512).unwrap().into_pinned().unwrap();
        $steps
    }};
}

#[test]
fn a_drained_buffer_is_empty_again() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    on_each_face!(guard, |buffer| {
        for filled in [512, 1, 511] {
            buffer.put_bytes(7, filled);
            assert_eq!(buffer.is_full(), filled == 512);
            buffer.advance(filled);
            assert_eq!((buffer.len(), buffer.is_full()), (0, false));
            assert_eq!((buffer.remaining_mut(), buffer.chunk_mut().len()), (512, 512));
        }
        buffer.put_bytes(7, 512);
        buffer.advance(511);
        assert!(buffer.is_full(), "one byte is still unread");
        buffer.truncate(0);
        assert_eq!((buffer.is_full(), buffer.remaining_mut()), (false, 512));
    });
}

#[test]
fn compact_moves_what_is_readable_to_the_front() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    on_each_face!(guard, |buffer| {
        let written: Vec<u8> = (0..512).map(|nth| nth as u8).collect();
        buffer.compact();
        buffer.put_slice(&written);
        let front = buffer.as_ptr();
        buffer.compact();
        assert!(buffer.is_full(), "nothing was consumed");
        // First the two ranges overlap, then they do not.
        for (consumed, rest) in [(100, 412), (300, 112)] {
            buffer.advance(consumed);
            buffer.compact();
            assert_eq!((&*buffer, buffer.as_ptr()), (&written[512 - rest..], front));
            assert_eq!(buffer.remaining_mut(), 512 - rest);
        }
        buffer.put_bytes(9, 400);
        assert_eq!((&buffer[..112], &buffer[112..]), (&written[400..], &[9; 400][..]));
    });
    assert_eq!(guard.handle().usage().unwrap().leased_bytes, 0);
}

#[test]
fn every_kind_of_lease_grows() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    on_each_face!(guard, |buffer| {
        buffer.put_slice(b"--bytes");
        buffer.advance(2);
        buffer.grow().unwrap();
        assert_eq!(
            (&*buffer, buffer.capacity(), buffer.remaining_mut()),
            (&b"bytes"[..], 2048, 2043)
        );
        assert_eq!(guard.handle().usage().unwrap().leased_bytes, 2048);
    });
    assert_eq!(guard.handle().usage().unwrap().leased_bytes, 0);
}

#[test]
fn a_pinned_lease_grows_past_the_largest_class() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let mut lease = guard.handle().try_lease_owned(1).unwrap();
    for capacity in [512, 2048, 4096, 16384, 65536, 131_072] {
        assert_eq!(lease.capacity(), capacity);
        let mut pin = lease.pin().unwrap();
        pin.put_bytes(7, pin.remaining_mut());
        drop(pin);
        lease.grow().unwrap();
        assert_eq!(*lease.pin().unwrap(), vec![7; capacity]);
        assert_eq!(guard.handle().usage().unwrap().leased_bytes, lease.capacity() as u64);
    }
    drop(lease);
    drop(guard);
    assert_nothing_left(&governor);
}

#[test]
fn growth_is_charged_to_the_stream_and_noted_for_the_caller() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    let mut lease = stream.try_lease_owned(512).unwrap();
    lease.grow().unwrap();
    assert_eq!(stream.usage().memory, 2048);
    lease.pin().unwrap().grow().unwrap();
    assert_eq!(stream.usage().memory, 4096);
    let mut pinned = lease.into_pinned().unwrap();
    let line = line!() + 1;
    pinned.grow().unwrap();
    assert_eq!(stream.usage().memory, 16384);
    drop(guard);
    let orphans = assert_adds_up(&governor).orphans;
    let orphans: Vec<_> = orphans.iter().map(|orphan| (orphan.bytes, orphan.site.line())).collect();
    assert_eq!(orphans, [(16384, line)]);
    drop(pinned);
    assert_eq!(stream.usage().memory, 0);
    assert_nothing_left(&governor);
}

#[test]
fn growth_that_is_refused_changes_nothing() {
    let limits = Limits::unlimited().stream(common::scope().memory(2048));
    let governor = common::governor(limits);
    let guard = guard(&governor);
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    let mut lease = stream.try_lease_owned(512).unwrap();
    lease.pin().unwrap().put_slice(b"bytes");
    // Until the bytes are copied both blocks are charged.
    let refused = lease.grow().unwrap_err();
    assert_eq!(refused.refused().unwrap().scope(), Scope::Stream);
    assert_eq!((stream.usage().memory, lease.capacity()), (512, 512));
    let mut pinned = lease.into_pinned().unwrap();
    pinned.grow().unwrap_err();
    assert_eq!((&*pinned, pinned.capacity()), (&b"bytes"[..], 512));
    assert_eq!(assert_adds_up(&governor).totals.outstanding_bytes, 512);
}

#[test]
fn leases_of_a_closed_connection_do_not_grow() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let mut owned = guard.handle().try_lease_owned(512).unwrap();
    let mut pinned = guard.handle().try_lease_owned(512).unwrap().into_pinned().unwrap();
    let mut borrowed = guard.try_lease(512).unwrap();
    pinned.put_slice(b"bytes");
    guard.handle().close().unwrap();
    assert_eq!(borrowed.grow(), Err(LeaseError::Closed));
    drop(borrowed);
    for _ in 0..2 {
        assert_eq!(owned.grow(), Err(LeaseError::Closed));
        assert_eq!(pinned.grow(), Err(LeaseError::Closed));
    }
    drop(guard);
    assert_eq!(pinned.grow(), Err(LeaseError::Closed));
    assert_eq!((&*pinned, assert_adds_up(&governor).orphans.len()), (&b"bytes"[..], 1));
    drop(pinned);
    assert_nothing_left(&governor);
}

#[test]
fn leases_may_be_dropped_on_another_thread() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let owned: Vec<_> = (0..20).map(|_| guard.handle().try_lease_owned(512).unwrap()).collect();
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
    let report = assert_adds_up(&governor).arena.size_classes;
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
    let governor = Governor::builder().size_classes(&[MAX_BLOCK_BYTES]).build().unwrap();
    let (handles, received) = mpsc::sync_channel::<ConnectionHandle>(0);
    let (ready, begun) = mpsc::sync_channel(1);
    let worker = thread::spawn(move || {
        for handle in received {
            drop(handle.try_lease_owned(MAX_BLOCK_BYTES).unwrap());
            ready.send(()).unwrap();
            while let Ok(mut lease) = handle.try_lease_owned(MAX_BLOCK_BYTES) {
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
            (0..others).map(|_| guard.handle().try_lease_owned(MAX_BLOCK_BYTES).unwrap()).collect();
        drop(guard.try_lease(MAX_BLOCK_BYTES).unwrap());
        handles.send(guard.handle().clone()).unwrap();
        begun.recv().unwrap();
        (0..round % 64 * 8).for_each(|_| std::hint::spin_loop());
        drop(guard);
        drop(kept);
    }
    drop(handles);
    worker.join().unwrap();
    assert_nothing_left(&governor);
}
