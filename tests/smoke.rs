//! Smoke.
use bytes::BufMut;
use leasehold::*;
#[test]
fn basics() {
    let g = Governor::new(
        Limits::unlimited()
            .system(ScopeLimits::unlimited().memory(1u64 << 20))
            .connection(ScopeLimits::unlimited().memory(512u64 << 10)),
    )
    .unwrap();
    let guard = g.inbound().try_admit().unwrap();
    guard.bind_peer("alice").unwrap();
    let mut l = guard.try_lease(16384).unwrap();
    l.put_slice(b"hi");
    assert_eq!(&*l, b"hi");
    let b = l.freeze();
    assert_eq!(&b[..], b"hi");
    let mut many = Vec::new();
    for _ in 0..20 {
        many.push(guard.try_lease(4096).unwrap());
    }
    let owned: Vec<_> = many.into_iter().map(|l| l.into_owned()).collect();
    let big = guard.try_lease_owned(100_000).unwrap();
    println!("{:#?}", guard.usage());
    let s = g.snapshot();
    println!("{:#?}", s.totals);
    assert_eq!(s.arena.in_use_bytes, s.totals.cached_bytes + s.totals.outstanding_bytes);
    assert_eq!(s.system.usage.memory, s.arena.in_use_bytes);
    println!("{:?}", guard.close());
    for mut o in owned {
        assert_eq!(o.pin().unwrap_err(), Revoked);
    }
    drop(big);
    println!("{:#?}", g.snapshot());
    drop(b);
    let s = g.snapshot();
    println!("{:#?}", s);
    assert_eq!(s.totals.leased_bytes, s.totals.returned_bytes);
    assert_eq!(s.system.usage, Usage::default());
    assert!(guard_err(&g));
    println!("conn {} lease {} owned {}", 0, size_of::<Lease>(), size_of::<OwnedLease>());
}
fn guard_err(g: &Governor) -> bool {
    let guard = g.inbound().try_admit().unwrap();
    matches!(guard.try_lease(usize::MAX), Err(LeaseError::NeverFits(_)))
        && matches!(guard.try_reserve(u64::MAX), Err(LeaseError::NeverFits(_)))
        && Governor::unlimited()
            .inbound()
            .try_admit()
            .unwrap()
            .try_lease(usize::MAX - 5000)
            .inspect_err(|e| println!("{e}"))
            .is_err()
}
