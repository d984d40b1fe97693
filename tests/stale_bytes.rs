//! P4, no stale bytes: a lease shows what was written through it and nothing else.

mod common;

use std::io::Write;

use bytes::{Buf, BufMut};
use leasehold::{ConnectionGuard, Governor, Lease};

/// Reads the whole block behind a fresh lease, whatever anyone wrote to it.
fn whole_block(lease: &mut Lease<'_>) -> Vec<u8> {
    assert!(lease.is_empty());
    let chunk = lease.chunk_mut();
    let (first, len) = (chunk.as_mut_ptr(), chunk.len());
    // SAFETY: the chunk is memory that the arena mapped, so all of it is initialised, if only by
    // the system; the lease is borrowed for as long as it is read.
    unsafe { std::slice::from_raw_parts(first, len) }.to_vec()
}

fn address(lease: &mut Lease<'_>) -> usize {
    lease.chunk_mut().as_mut_ptr().addr()
}

/// Leases a block, fills it with a pattern, returns it, and leases it again.
fn again(guard: &ConnectionGuard, len: usize) -> Lease<'_> {
    let mut first = guard.try_lease(len).unwrap();
    let place = address(&mut first);
    first.put_bytes(0xa5, first.capacity());
    drop(first);
    let mut second = guard.try_lease(len).unwrap();
    assert_eq!(address(&mut second), place, "the test wants the same block");
    second
}

#[test]
fn a_block_keeps_its_bytes_and_a_new_lease_shows_none_of_them() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let mut lease = again(&guard, 4096);
    // Otherwise nothing below would mean anything.
    assert_eq!(whole_block(&mut lease), vec![0xa5; 4096]);
    assert_eq!((lease.len(), lease.remaining(), lease.chunk()), (0, 0, &[][..]));
    lease.put_slice(b"new");
    assert_eq!(&*lease, b"new");
    assert_eq!(&mut *lease, b"new");
    assert_eq!(lease.as_ref(), b"new");
    assert_eq!(lease.chunk(), b"new");
}

#[test]
fn initialize_fills_with_zeroes() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let mut lease = again(&guard, 4096);
    lease.put_slice(b"new");
    assert_eq!(lease.initialize(8), b"new\0\0\0\0\0");
    assert_eq!(lease.initialize(2), b"new\0\0\0\0\0", "shows no less than there was");
    let all = lease.initialize(usize::MAX);
    assert_eq!(all.len(), 4096);
    assert!(all[3..].iter().all(|byte| *byte == 0));
    assert!(lease.is_full());
}

#[test]
fn initialize_counts_from_what_was_not_consumed() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let mut lease = again(&guard, 512);
    lease.put_slice(b"abcdef");
    lease.advance(4);
    assert_eq!(lease.initialize(5), b"ef\0\0\0");
    assert_eq!(lease.initialize(1000).len(), 508);
}

#[test]
fn clear_and_truncate_show_nothing_old() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let mut lease = again(&guard, 512);
    lease.put_slice(b"secret");
    lease.truncate(2);
    assert_eq!(&*lease, b"se");
    assert_eq!(lease.initialize(6), b"se\0\0\0\0");
    lease.clear();
    assert!(lease.is_empty());
    assert_eq!(lease.initialize(4), b"\0\0\0\0");
    lease.truncate(100);
    assert_eq!(lease.len(), 4);
}

#[test]
fn a_drained_lease_starts_over_and_shows_nothing_old() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let mut lease = again(&guard, 512);
    lease.put_slice(b"secret");
    lease.advance(6);
    lease.put_slice(b"ab");
    assert_eq!(&*lease, b"ab");
    assert_eq!(lease.initialize(6), b"ab\0\0\0\0");
    lease.advance(6);
    assert_eq!(lease.initialize(3), b"\0\0\0");
}

#[test]
fn compact_and_grow_show_nothing_old() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    drop(again(&guard, 2048));
    let mut lease = again(&guard, 512);
    lease.put_slice(b"--secret");
    lease.advance(2);
    lease.truncate(2);
    lease.compact();
    assert_eq!(&*lease, b"se");
    assert_eq!(lease.initialize(6), b"se\0\0\0\0");
    lease.truncate(1);
    lease.grow().unwrap();
    assert_eq!(&*lease, b"s");
    assert_eq!(lease.initialize(4), b"s\0\0\0");
}

/// Writes to what may be written and does not show it yet.
fn write_unshown(lease: &mut Lease<'_>, bytes: &[u8]) {
    lease.chunk_mut()[..bytes.len()].copy_from_slice(bytes);
}

/// What was written before the last readable byte was consumed may be shown after: a lease starts
/// over only when it is next asked where to write.
#[test]
fn bytes_are_shown_where_they_were_written_whatever_was_consumed_meanwhile() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let mut lease = again(&guard, 512);
    lease.put_slice(b"read");
    write_unshown(&mut lease, b"written");
    lease.advance(4);
    assert_eq!((lease.len(), lease.remaining_mut()), (0, 512));
    // SAFETY: the chunk's first seven bytes were written above.
    unsafe { lease.advance_mut(3) };
    assert_eq!(&*lease, b"wri");
    lease.advance(3);
    // SAFETY: as above; three of the seven are shown already.
    unsafe { lease.advance_mut(4) };
    assert_eq!(&*lease, b"tten");
    lease.advance(4);
    write_unshown(&mut lease, b"new");
    // SAFETY: the chunk's first three bytes were written above.
    unsafe { lease.advance_mut(3) };
    assert_eq!((&*lease, lease.remaining_mut()), (&b"new"[..], 509));
}

#[test]
#[should_panic(expected = "advanced")]
fn showing_more_than_is_behind_the_last_byte_panics_even_when_drained() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let mut lease = again(&guard, 512);
    lease.put_bytes(1, 500);
    lease.advance(500);
    // SAFETY: never shown, since this panics.
    unsafe { lease.advance_mut(13) };
}

#[test]
fn a_full_lease_writes_no_more_than_it_has_room_for() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let mut lease = again(&guard, 512);
    assert_eq!(lease.write(&[1; 500]).unwrap(), 500);
    assert_eq!(lease.write(&[2; 500]).unwrap(), 12);
    assert_eq!(lease.write(&[3; 500]).unwrap(), 0);
    assert!(lease.is_full());
    assert_eq!(lease.remaining_mut(), 0);
    assert_eq!((&lease[..500], &lease[500..]), (&[1; 500][..], &[2; 12][..]));
}

#[test]
#[should_panic(expected = "advanced")]
fn showing_more_than_the_block_has_panics() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let mut lease = again(&guard, 512);
    // SAFETY: never shown, since this panics.
    unsafe { lease.advance_mut(513) };
}

#[test]
#[should_panic(expected = "consumed")]
fn consuming_more_than_was_written_panics() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let mut lease = again(&guard, 512);
    lease.put_slice(b"abc");
    lease.advance(4);
}

#[test]
fn every_kind_of_lease_starts_empty() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    drop(again(&guard, 512));
    let mut owned = guard.handle().try_lease_owned(512).unwrap();
    assert!(owned.pin().unwrap().is_empty());
    owned.pin().unwrap().put_slice(b"one");
    assert_eq!(&*owned.pin().unwrap(), b"one", "a pin shows what an earlier one wrote");
    drop(owned);
    let pinned = guard.handle().try_lease_owned(512).unwrap().into_pinned().unwrap();
    assert!(pinned.is_empty());
    assert!(pinned.freeze().is_empty());
    assert!(guard.try_lease(512).unwrap().freeze().is_empty());
}

#[test]
fn grow_and_into_owned_and_freeze_carry_what_was_written() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    drop((again(&guard, 512), again(&guard, 2048)));
    let mut lease = guard.try_lease(512).unwrap();
    lease.put_slice(b"--bytes");
    lease.advance(2);
    lease.grow().unwrap();
    assert_eq!((&*lease, lease.capacity(), lease.remaining_mut()), (&b"bytes"[..], 2048, 2043));
    let mut owned = lease.into_owned();
    owned.pin().unwrap().put_slice(b"!");
    let pinned = owned.into_pinned().unwrap();
    assert_eq!(&*pinned, b"bytes!");
    assert_eq!(pinned.freeze(), &b"bytes!"[..]);
}

#[test]
fn secrets_are_wiped_before_anyone_else_has_the_block() {
    for len in [512, 4096, 65536] {
        let governor = Governor::builder().zero_on_return(true).build().unwrap();
        let guard = governor.inbound().try_admit().unwrap();
        let mut lease = again(&guard, len);
        assert_eq!(whole_block(&mut lease), vec![0; len]);
    }
}

/// A way for a block to come back, with a secret in it.
type Way = (&'static str, fn(&Governor));

fn returns() -> Vec<Way> {
    fn secret(governor: &Governor) -> ConnectionGuard {
        governor.inbound().try_admit().unwrap()
    }
    vec![
        ("borrowed", |governor| {
            secret(governor).try_lease(512).unwrap().put_bytes(0xa5, 512);
        }),
        ("written beyond what is shown", |governor| {
            let guard = secret(governor);
            let mut lease = guard.try_lease(512).unwrap();
            lease.put_bytes(0xa5, 512);
            lease.truncate(1);
        }),
        ("forgotten", |governor| {
            let guard = secret(governor);
            let mut lease = guard.try_lease(512).unwrap();
            lease.put_bytes(0xa5, 512);
            std::mem::forget(lease);
        }),
        ("owned", |governor| {
            let guard = secret(governor);
            let mut owned = guard.handle().try_lease_owned(512).unwrap();
            owned.pin().unwrap().put_bytes(0xa5, 512);
        }),
        ("revoked", |governor| {
            let guard = secret(governor);
            let mut owned = guard.handle().try_lease_owned(512).unwrap();
            owned.pin().unwrap().put_bytes(0xa5, 512);
            drop(guard);
        }),
        ("unpinned after the close", |governor| {
            let guard = secret(governor);
            let mut owned = guard.handle().try_lease_owned(512).unwrap();
            let mut pin = owned.pin().unwrap();
            drop(guard);
            pin.put_bytes(0xa5, 512);
        }),
        ("pinned", |governor| {
            let guard = secret(governor);
            let mut pinned = guard.handle().try_lease_owned(512).unwrap().into_pinned().unwrap();
            drop(guard);
            pinned.put_bytes(0xa5, 512);
        }),
        ("detached", |governor| {
            let guard = secret(governor);
            let mut lease = guard.try_lease(512).unwrap();
            lease.put_bytes(0xa5, 512);
            let bytes = lease.freeze();
            drop(guard);
            drop(bytes);
        }),
        ("cached, then trimmed", |governor| {
            let guard = secret(governor);
            guard.try_lease(512).unwrap().put_bytes(0xa5, 512);
            guard.handle().trim();
        }),
    ]
}

/// What the lowest block of the class holds after `leave`, which used it alone.
fn left_behind(governor: &Governor, leave: fn(&Governor)) -> Vec<u8> {
    // Keeps the slab mapped, and is the second block of it.
    let keeper = governor.inbound().try_admit().unwrap();
    let (mut first, _second) = (keeper.try_lease(512).unwrap(), keeper.try_lease(512).unwrap());
    let place = address(&mut first);
    drop(first);
    keeper.handle().trim();
    leave(governor);
    let reader = governor.inbound().try_admit().unwrap();
    let mut lease = reader.try_lease(512).unwrap();
    assert_eq!(address(&mut lease), place, "the test wants the same block");
    whole_block(&mut lease)
}

#[test]
fn secrets_are_wiped_whichever_way_the_block_comes_back() {
    for (way, leave) in returns() {
        let governor = Governor::unlimited();
        assert!(left_behind(&governor, leave).contains(&0xa5), "{way}: nothing to wipe");
        let governor = Governor::builder().zero_on_return(true).build().unwrap();
        assert_eq!(left_behind(&governor, leave), vec![0; 512], "{way}");
    }
}

#[test]
fn blocks_are_aligned_for_direct_input_and_output() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    for len in [1, 512, 2048, 4096, 16384, 65536, 300_000] {
        let mut leases: Vec<_> = (0..10).map(|_| guard.try_lease(len).unwrap()).collect();
        for lease in &mut leases {
            assert_eq!(address(lease) % 64, 0, "{len}");
        }
    }
}

#[test]
fn leases_of_the_same_class_do_not_overlap() {
    let governor = Governor::unlimited();
    let guards: Vec<_> = (0..3).map(|_| governor.inbound().try_admit().unwrap()).collect();
    let mut leases = Vec::new();
    for round in 0..40 {
        for guard in &guards {
            let mut lease = guard.try_lease(512).unwrap();
            lease.put_bytes(leases.len() as u8, 512);
            leases.push((leases.len() as u8, lease));
            if round % 3 == 0 {
                drop(guard.try_lease(512).unwrap());
            }
        }
    }
    for (pattern, lease) in &leases {
        assert!(lease.iter().all(|byte| byte == pattern));
    }
}
