//! A connection whose address cannot be counted, because there is no memory for that, is refused,
//! and nothing has changed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::ptr::null_mut;
use std::time::Duration;

use leasehold::{
    AdmitError, ConnectionGuard, Governor, Limits, PrefixLimits, Rate, Reason, Refused, Scope,
    SubnetLimits,
};

#[global_allocator]
static ALLOCATOR: Failing = Failing;

/// An allocator that has no memory for what the calling thread names.
struct Failing;

thread_local! {
    static FAILS: Cell<fn(Layout) -> bool> = const { Cell::new(|_| false) };
}

// SAFETY: every call is passed on to the system's allocator as it came, or fails.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if FAILS.get()(layout) {
            return null_mut();
        }
        // SAFETY: passed on to the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: passed on to the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn without_memory<T>(fails: fn(Layout) -> bool, act: impl FnOnce() -> T) -> T {
    FAILS.set(fails);
    let done = act();
    FAILS.set(|_| false);
    done
}

/// The table of some prefixes: entries of 20 bytes, a byte for each, and sixteen bytes more.
fn is_table(layout: Layout) -> bool {
    let size_of = |buckets: usize| (buckets * 20).next_multiple_of(16) + buckets + 16;
    layout.align() == 16 && (2..30).any(|exponent| layout.size() == size_of(1 << exponent))
}

/// Cells of rates, in cache lines.
fn is_cells(layout: Layout) -> bool {
    layout.align() == 64 && layout.size() >= 2048
}

fn governor() -> Governor {
    // So large a burst that no address is refused for what others with the same cells spent.
    let rate = Rate::new(Duration::from_secs(1_000_000), NonZeroU32::new(64).unwrap());
    let each = PrefixLimits::unlimited().connections(1).rate(rate);
    let subnets = SubnetLimits::unlimited().ipv6(56, each);
    Governor::new(Limits::unlimited().subnets(subnets)).unwrap()
}

fn address(n: u32) -> IpAddr {
    Ipv6Addr::from_bits(u128::from(n) << 72).into()
}

fn admit(governor: &Governor, n: u32) -> Result<ConnectionGuard, AdmitError> {
    governor.inbound().remote(address(n)).try_admit()
}

#[track_caller]
fn assert_no_memory(refused: &Refused) {
    assert_eq!(refused.reason(), Reason::OutOfMemory, "{refused}");
    assert!(refused.requested() > 0);
}

#[test]
fn an_admission_is_refused_and_changes_nothing() {
    let governor = governor();
    let mut guards = Vec::new();
    for fails in [is_table, is_cells, is_table] {
        let mut refused = 0;
        for _ in 0..1000 {
            let n = guards.len() as u32;
            let before = governor.snapshot().scope(Scope::System).usage;
            match without_memory(fails, || admit(&governor, n)) {
                Ok(guard) => guards.push(guard),
                Err(error) => {
                    assert_no_memory(error.refused().unwrap());
                    assert_eq!(governor.snapshot().scope(Scope::System).usage, before);
                    refused += 1;
                    // It did not take the only place.
                    guards.push(admit(&governor, n).unwrap());
                }
            }
            let full = admit(&governor, n).unwrap_err();
            assert_eq!(full.refused().unwrap().reason(), Reason::Limit);
        }
        assert!(refused > 0);
    }
    drop(guards);
    assert_eq!(governor.snapshot().scope(Scope::System).usage.connections(), 0);
}

#[test]
fn a_rebind_is_refused_and_changes_nothing() {
    let governor = governor();
    let guard = admit(&governor, 0).unwrap();
    let mut guards = Vec::new();
    let (mut at, mut refused) = (0, 0);
    for n in 1..1000 {
        match without_memory(is_table, || guard.handle().rebind_source(address(n))) {
            Ok(()) => {
                guards.push(admit(&governor, at).unwrap());
                at = n;
            }
            Err(error) => {
                assert_no_memory(error.refused().unwrap());
                guards.push(admit(&governor, n).unwrap());
                refused += 1;
            }
        }
        let full = admit(&governor, at).unwrap_err();
        assert_eq!(full.refused().unwrap().reason(), Reason::Limit);
    }
    assert!(refused > 0);
    drop((guard, guards));
    assert_eq!(governor.snapshot().scope(Scope::System).usage.connections(), 0);
}

#[test]
fn an_address_is_validated_where_there_is_no_memory_to_know() {
    let governor = governor();
    assert!(without_memory(is_cells, || governor.should_validate(address(0))));
    assert!(!governor.should_validate(address(0)));
}
