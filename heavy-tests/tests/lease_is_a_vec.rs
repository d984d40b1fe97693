//! A lease behaves as a `Vec<u8>` of fixed capacity does, whatever is done to it and whichever way
//! it is held.

use std::io::Write;

use bytes::{Buf, BufMut};
use leasehold::{ConnectionGuard, Governor};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    PutSlice(Vec<u8>),
    PutBytes(u8, usize),
    PutU32(u32),
    Write(Vec<u8>),
    Advance(usize),
    GetU8,
    CopyToBytes(usize),
    Truncate(usize),
    Initialize(usize),
    Overwrite(usize, u8),
    Clear,
    Compact,
    /// Written to where the lease says, and shown after more was consumed.
    WriteConsumeShow(Vec<u8>, usize),
    Grow,
    /// The lease changes hands, or its pin is taken anew.
    Rehold,
    Again,
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![0..40_usize, 0..600_usize];
    let bytes = proptest::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        bytes.clone().prop_map(Op::PutSlice),
        (any::<u8>(), len.clone()).prop_map(|(byte, len)| Op::PutBytes(byte, len)),
        any::<u32>().prop_map(Op::PutU32),
        bytes.clone().prop_map(Op::Write),
        len.clone().prop_map(Op::Advance),
        Just(Op::GetU8),
        len.clone().prop_map(Op::CopyToBytes),
        len.clone().prop_map(Op::Truncate),
        len.clone().prop_map(Op::Initialize),
        (len.clone(), any::<u8>()).prop_map(|(at, byte)| Op::Overwrite(at, byte)),
        (bytes, len).prop_map(|(bytes, len)| Op::WriteConsumeShow(bytes, len)),
        Just(Op::Clear),
        Just(Op::Compact),
        Just(Op::Grow),
        Just(Op::Rehold),
        Just(Op::Again),
    ]
}

/// What was written, how much of it was consumed, and how much fits.
struct Model {
    written: Vec<u8>,
    consumed: usize,
    capacity: usize,
}

impl Model {
    fn new(capacity: usize) -> Self {
        Self { written: Vec::new(), consumed: 0, capacity }
    }

    fn readable(&self) -> &[u8] {
        &self.written[self.consumed..]
    }

    /// Once all is consumed all of the block can be written.
    fn start_over_if_drained(&mut self) {
        if self.readable().is_empty() {
            *self = Self::new(self.capacity);
        }
    }

    fn room(&self) -> usize {
        self.capacity - self.written.len()
    }
}

/// Does to a lease and to the model what `$op` says. `$rehold` and `$again` make the lease change
/// hands, and lease the same block again.
macro_rules! apply {
    ($op:expr, $lease:ident, $model:ident, rehold: $rehold:expr, again: $again:expr) => {
        match $op {
            Op::PutSlice(bytes) => {
                let fits = bytes.len().min($model.room());
                $lease.put_slice(&bytes[..fits]);
                $model.written.extend_from_slice(&bytes[..fits]);
            }
            Op::PutBytes(byte, len) => {
                let fits = len.min($model.room());
                $lease.put_bytes(byte, fits);
                $model.written.extend(std::iter::repeat_n(byte, fits));
            }
            Op::PutU32(number) => {
                if $model.room() >= 4 {
                    $lease.put_u32(number);
                    $model.written.extend(number.to_be_bytes());
                }
            }
            Op::Write(bytes) => {
                let fits = bytes.len().min($model.room());
                prop_assert_eq!($lease.write(&bytes).unwrap(), fits);
                $model.written.extend_from_slice(&bytes[..fits]);
            }
            Op::Advance(len) => {
                let len = len.min($model.readable().len());
                $lease.advance(len);
                $model.consumed += len;
            }
            Op::GetU8 => {
                if let Some(first) = $model.readable().first() {
                    prop_assert_eq!($lease.get_u8(), *first);
                    $model.consumed += 1;
                }
            }
            Op::CopyToBytes(len) => {
                let len = len.min($model.readable().len());
                prop_assert_eq!($lease.copy_to_bytes(len), &$model.readable()[..len]);
                $model.consumed += len;
            }
            Op::Truncate(len) => {
                $lease.truncate(len);
                $model.written.truncate($model.consumed + len);
            }
            Op::Initialize(len) => {
                let missing = len.saturating_sub($model.readable().len()).min($model.room());
                $model.written.extend(std::iter::repeat_n(0, missing));
                prop_assert_eq!(&*$lease.initialize(len), $model.readable());
            }
            Op::Overwrite(at, byte) => {
                let at = $model.consumed + at;
                if let Some(place) = $model.written.get_mut(at) {
                    *place = byte;
                    $lease[at - $model.consumed] = byte;
                }
            }
            Op::Clear => {
                $lease.clear();
                $model = Model::new($model.capacity);
            }
            Op::Compact => {
                $lease.compact();
                $model.written.drain(..$model.consumed);
                $model.consumed = 0;
            }
            Op::WriteConsumeShow(bytes, len) => {
                let fits = bytes.len().min($model.room());
                let len = len.min($model.readable().len());
                $lease.chunk_mut()[..fits].copy_from_slice(&bytes[..fits]);
                $lease.advance(len);
                // SAFETY: so many bytes of the last chunk were written.
                unsafe { $lease.advance_mut(fits) };
                $model.consumed += len;
                $model.written.extend_from_slice(&bytes[..fits]);
            }
            Op::Grow => {
                if $model.capacity < 4096 {
                    $lease.grow().unwrap();
                    let written = $model.readable().to_vec();
                    let capacity = if $model.capacity == 512 { 2048 } else { 4096 };
                    $model = Model { written, consumed: 0, capacity };
                }
            }
            Op::Rehold => $rehold,
            // The same block again, full of old bytes.
            Op::Again => {
                $again;
                $model = Model::new(512);
            }
        }
        $model.start_over_if_drained();
        prop_assert_eq!(&*$lease, $model.readable());
        prop_assert_eq!($lease.chunk(), $model.readable());
        prop_assert_eq!($lease.remaining(), $model.readable().len());
        prop_assert_eq!($lease.remaining_mut(), $model.room());
        prop_assert_eq!($lease.is_full(), $model.room() == 0);
        prop_assert_eq!($lease.capacity(), $model.capacity);
    };
}

fn guard() -> ConnectionGuard {
    let governor = Governor::unlimited();
    governor.inbound().try_admit().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_lease_reads_what_a_vec_would(ops in proptest::collection::vec(op(), 1..100)) {
        let guard = guard();
        let mut lease = guard.try_lease(512).unwrap();
        let mut model = Model::new(512);
        for op in ops {
            apply!(op, lease, model, rehold: {}, again: {
                drop(lease);
                lease = guard.try_lease(512).unwrap();
            });
        }
        let written = model.readable().to_vec();
        prop_assert_eq!(lease.freeze(), written);
    }

    #[test]
    fn a_pinned_lease_reads_what_a_vec_would(ops in proptest::collection::vec(op(), 1..100)) {
        let guard = guard();
        let mut lease = guard.handle().try_lease_owned(512).unwrap().into_pinned().unwrap();
        let mut model = Model::new(512);
        for op in ops {
            apply!(op, lease, model, rehold: {
                lease = lease.into_owned().into_pinned().unwrap();
            }, again: {
                drop(lease);
                lease = guard.handle().try_lease_owned(512).unwrap().into_pinned().unwrap();
            });
        }
        let written = model.readable().to_vec();
        prop_assert_eq!(lease.freeze(), written);
    }

    #[test]
    fn an_owned_lease_reads_what_a_vec_would(ops in proptest::collection::vec(op(), 1..100)) {
        let guard = guard();
        let mut owned = guard.handle().try_lease_owned(512).unwrap();
        let mut model = Model::new(512);
        for op in ops {
            // Each step has a pin of its own.
            if matches!(op, Op::Again) {
                drop(owned);
                owned = guard.handle().try_lease_owned(512).unwrap();
                model = Model::new(512);
                continue;
            }
            let mut lease = owned.pin().unwrap();
            apply!(op, lease, model, rehold: {}, again: {});
        }
        let written = model.readable().to_vec();
        prop_assert_eq!(owned.freeze().unwrap(), written);
    }
}
