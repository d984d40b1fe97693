//! Faults on purpose, so that a library's tests walk every path on which a request is refused.

use crate::error::{Refused, Resource, Scope};
use crate::limit::Limit;
use crate::sync::unmodelled::{AtomicU64, Relaxed};

/// Faults that a governor has on purpose: see [`GovernorBuilder::faults`](crate::GovernorBuilder::faults).
///
/// While it has some, connections keep no idle blocks, so that each lease is a request that can be
/// refused. Where one thread makes the requests, the same faults come at the same requests.
///
/// ```
/// use leasehold::{Faults, Governor};
///
/// let governor = Governor::builder().faults(Faults::seeded(1).refuse_every(3)).build()?;
/// let guard = governor.inbound().try_admit()?;
/// let leases = [guard.try_lease(512), guard.try_lease(512), guard.try_lease(512)];
/// assert_eq!(leases.iter().filter(|lease| lease.is_err()).count(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct Faults {
    seed: u64,
    refuse_every: Option<u64>,
    revoke_lease: Option<u64>,
    refuse_admissions_at: Option<Scope>,
    requests: AtomicU64,
    leases: AtomicU64,
}

impl Faults {
    /// None yet. The seed says where a series of faults begins, so that a loop over seeds has each
    /// request refused once.
    pub fn seeded(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Refuses every `n`-th admission, lease, reservation, stream and bind, all counted together. With
    /// the seed *s* the first refused is the one after *s* modulo `n` others.
    #[must_use]
    pub fn refuse_every(self, n: u64) -> Self {
        Self { refuse_every: Some(n.max(1)), ..self }
    }

    /// Closes the connection of the `k`-th lease right after that lease is granted, the first being 1.
    #[must_use]
    pub fn revoke_lease(self, k: u64) -> Self {
        Self { revoke_lease: Some(k), ..self }
    }

    /// Refuses all admissions, as this scope does when it is full of connections.
    #[must_use]
    pub fn refuse_admissions_at(self, scope: Scope) -> Self {
        Self { refuse_admissions_at: Some(scope), ..self }
    }

    pub(crate) fn are_any(&self) -> bool {
        self.refuse_every.is_some() || self.revoke_lease.is_some()
    }

    /// A request is made.
    pub(crate) fn request(&self) -> Result<(), Refused> {
        let Some(n) = self.refuse_every else { return Ok(()) };
        let nth = self.requests.fetch_add(1, Relaxed);
        if nth % n == self.seed % n { Err(full(Scope::System, Resource::Memory)) } else { Ok(()) }
    }

    /// An admission is asked for.
    pub(crate) fn admission(&self) -> Result<(), Refused> {
        let scope = self.refuse_admissions_at;
        scope.map_or(Ok(()), |scope| Err(full(scope, Resource::Connections)))?;
        self.request()
    }

    /// Whether the lease that was granted just now is to be revoked.
    pub(crate) fn revokes(&self) -> bool {
        self.revoke_lease == Some(self.leases.fetch_add(1, Relaxed) + 1)
    }
}

fn full(scope: Scope, resource: Resource) -> Refused {
    Refused::new(scope, resource, Limit::Max(1), 1, 1)
}
