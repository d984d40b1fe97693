//! The root: limits, memory and connections of one node.

#[cfg(feature = "metrics")]
mod metrics;
mod report;
mod snapshot;

use std::fmt;
use std::net::IpAddr;

use crate::admission::Admission;
use crate::arena::{Arena, Bounds, DEFAULT_SIZE_CLASSES};
use crate::clock::{Clock, SystemClock};
use crate::connection::Shared;
use crate::error::{Closed, ConfigError};
use crate::handle::ConnectionHandle;
use crate::limits::{Limits, ScopeLimits};
use crate::name::{ConnectionId, Direction, PeerKey};
use crate::report::Drained;
use crate::sync::Arc;
use crate::sync::unmodelled::{AtomicU64, Relaxed};

/// Governs the connections of one node: one budget, one arena, one registry.
///
/// Clones are the same governor. A process can have several, which know nothing of each other. It
/// starts no thread and no task; call [`maintain`](Self::maintain) now and then.
///
/// ```
/// use leasehold::{Governor, Limits, ScopeLimits};
///
/// let governor = Governor::new(
///     Limits::unlimited()
///         .system(ScopeLimits::unlimited().memory(64 << 20).connections(500))
///         .peer(ScopeLimits::unlimited().connections(8)),
/// )?;
/// let guard = governor.inbound().peer("alice").try_admit()?;
/// assert_eq!(governor.snapshot().totals.connections, 1);
/// drop(guard);
/// assert_eq!(governor.snapshot().totals.connections, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Governor {
    shared: Arc<Shared>,
}

impl Governor {
    /// A governor with these limits, and everything else as [`builder`](Self::builder) has it.
    ///
    /// # Errors
    ///
    /// If a class's name in the limits is too long ([`ConfigError::NameTooLong`]), too many are named
    /// ([`ConfigError::ClassNames`]), or a prefix is longer than an address
    /// ([`ConfigError::PrefixLength`]).
    pub fn new(limits: Limits) -> Result<Self, ConfigError> {
        Self::builder().limits(limits).build()
    }

    /// A governor that refuses nothing, so that a library can always wrap its connections.
    pub fn unlimited() -> Self {
        Self::new(Limits::unlimited()).expect("the defaults are valid")
    }

    /// Builds a governor from parts.
    pub fn builder() -> GovernorBuilder {
        GovernorBuilder {
            limits: Limits::unlimited(),
            classes: DEFAULT_SIZE_CLASSES.into(),
            zero_on_return: false,
            fragmentation_bytes: None,
            clock: Box::new(SystemClock::default()),
            name: None,
            #[cfg(feature = "tracing")]
            old_orphans: std::time::Duration::from_secs(60),
            #[cfg(feature = "testing")]
            faults: crate::testing::Faults::default(),
        }
    }

    /// What metrics and reports call it.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Asks to admit a connection that the remote side opened.
    pub fn inbound(&self) -> Admission<'_> {
        Admission::new(&self.shared, Direction::Inbound)
    }

    /// Asks to admit a connection that this side opens.
    pub fn outbound(&self) -> Admission<'_> {
        Admission::new(&self.shared, Direction::Outbound)
    }

    /// The connection with this id.
    ///
    /// # Errors
    ///
    /// If it is closed. Ids are never used again.
    pub fn connection(&self, id: ConnectionId) -> Result<ConnectionHandle, Closed> {
        let connection = self.shared.registry.get(id).ok_or(Closed)?;
        if connection.is_closed() { Err(Closed) } else { Ok(ConnectionHandle::new(connection)) }
    }

    /// Every open connection, in the order in which they were admitted. One that is open throughout
    /// the call is among them.
    pub fn connections(&self) -> Vec<ConnectionHandle> {
        let mut open = Vec::new();
        self.shared.registry.for_each(|connection| {
            if !connection.is_closed() {
                open.push(ConnectionHandle::new(connection.clone()));
            }
        });
        open.sort_unstable_by_key(ConnectionHandle::id);
        open.dedup_by_key(|handle| handle.id());
        open
    }

    /// Closes every open connection that `filter` picks, as [`ConnectionHandle::close`] does, so
    /// that the program needs no list of connections to end them. It does not wait for their
    /// guards.
    pub fn drain(&self, mut filter: impl FnMut(&ConnectionHandle) -> bool) -> Drained {
        let mut drained = Drained::default();
        for handle in self.connections() {
            if filter(&handle)
                && let Ok(reclaimed) = handle.close()
            {
                drained.connections += 1;
                drained.reclaimed.add(&reclaimed);
            }
        }
        drained
    }

    /// Replaces all limits in one step, those of single peers too. A limit lowered below what is in
    /// use revokes nothing; use then only falls.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new). The old limits stay in force then.
    pub fn set_limits(&self, limits: Limits) -> Result<(), ConfigError> {
        limits.validate()?;
        self.shared.set_limits(limits);
        Ok(())
    }

    /// The limits in force.
    pub fn limits(&self) -> Limits {
        self.shared.tree.limits()
    }

    /// Gives one peer limits of its own, and returns those it had. They stay until they are removed
    /// or all limits are [replaced](Self::set_limits), whether the peer is connected or not.
    pub fn set_peer_limits(&self, peer: &PeerKey, limits: ScopeLimits) -> Option<ScopeLimits> {
        self.shared.set_peer_limits(peer, Some(limits))
    }

    /// Takes a peer's own limits away, and returns them: those of every peer apply to it again.
    pub fn remove_peer_limits(&self, peer: &PeerKey) -> Option<ScopeLimits> {
        self.shared.set_peer_limits(peer, None)
    }

    /// Whether a client at `address` should prove that the address is its own before a connection
    /// is admitted: a QUIC server sends a Retry then.
    ///
    /// Each call spends from a budget of the address's subnets of its own, with the interval of the
    /// [rates](crate::Rate) for new connections and half their burst. So an ordinary client is let in
    /// at once, and a flood from forged addresses has to show that it can receive.
    pub fn should_validate(&self, address: IpAddr) -> bool {
        self.shared.tree.should_validate(address, self.shared.read_clock())
    }

    /// Does periodic work; call it about once a second. It
    ///
    /// - advances the coarse clock by which leases and connections age;
    /// - gives back the idle blocks of each magazine (eight blocks of one size) from which its connection
    ///   leased nothing since the call before. Each connection that may keep idle blocks is locked for a
    ///   moment;
    /// - gives back what the limits by subnet no longer need;
    /// - publishes metrics (feature `metrics`), if a recorder is installed.
    ///
    /// How much a connection keeps idle depends on these calls. Without any, it keeps at most 16 idle
    /// blocks of a size: those in its first magazine, and in one further. For ten seconds after a call
    /// it may begin to keep blocks in any number of further ones. Later it begins to only while none of
    /// that size has any. Those that have some keep them, and take what is returned to them, as long as
    /// one is left. What is kept goes back at a later call, when a request needs the room, at
    /// [`trim`](ConnectionHandle::trim) and at the close.
    pub fn maintain(&self) {
        self.shared.maintain();
        #[cfg(feature = "metrics")]
        self.publish_metrics();
    }
}

impl fmt::Debug for Governor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usage = self.shared.tree.system_usage();
        f.debug_struct("Governor").field("usage", &usage).finish_non_exhaustive()
    }
}

/// The parts of a [`Governor`].
#[must_use = "a builder does nothing until it builds"]
pub struct GovernorBuilder {
    limits: Limits,
    classes: Box<[usize]>,
    zero_on_return: bool,
    fragmentation_bytes: Option<u64>,
    clock: Box<dyn Clock>,
    name: Option<String>,
    #[cfg(feature = "tracing")]
    old_orphans: std::time::Duration,
    #[cfg(feature = "testing")]
    faults: crate::testing::Faults,
}

impl GovernorBuilder {
    /// From which age on [`maintain`](Governor::maintain) tells `tracing` of a lease that outlives its
    /// connection's guard. A minute unless set.
    #[cfg(feature = "tracing")]
    pub fn warn_of_orphans_older_than(mut self, age: std::time::Duration) -> Self {
        self.old_orphans = age;
        self
    }

    /// Faults on purpose, for tests. None unless set.
    #[cfg(feature = "testing")]
    pub fn faults(mut self, faults: crate::testing::Faults) -> Self {
        self.faults = faults;
        self
    }

    /// What metrics and reports call the governor, to tell it from others of the process. A number that
    /// no other governor of the process was given, unless set.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// What each scope may use. Unlimited unless set.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The sizes that blocks come in, ascending powers of two, in bytes. 512 B, 2, 4, 16 and
    /// 64 KiB unless set.
    pub fn size_classes(mut self, bytes: &[usize]) -> Self {
        self.classes = bytes.into();
        self
    }

    /// Overwrites every block with zeroes as it comes back, for memory that holds secrets. Costs
    /// the writing. Off unless set: even so no lease shows what another one wrote.
    pub fn zero_on_return(mut self, zero: bool) -> Self {
        self.zero_on_return = zero;
        self
    }

    /// How much more than the system's memory limit (and one slab of 1 MiB for each size class) may
    /// be resident because free blocks lie between used ones. A quarter of that sum unless set.
    /// Beyond it a lease is refused by [`Scope::Arena`](crate::Scope::Arena).
    pub fn fragmentation(mut self, bytes: u64) -> Self {
        self.fragmentation_bytes = Some(bytes);
        self
    }

    /// Where time comes from. The system's monotonic clock unless set.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Box::new(clock);
        self
    }

    /// Makes the governor. It maps no memory yet.
    ///
    /// # Errors
    ///
    /// If the size classes are not as [`size_classes`](Self::size_classes) says, or the limits are none
    /// that [`Governor::new`] takes.
    pub fn build(self) -> Result<Governor, ConfigError> {
        static UNNAMED: AtomicU64 = AtomicU64::new(1);
        let Self { limits, classes, zero_on_return, fragmentation_bytes, clock, name, .. } = self;
        limits.validate()?;
        let bounds = Bounds::new(limits.mapped_memory(false), classes.len(), fragmentation_bytes);
        let arena = Arena::new(&classes, bounds, zero_on_return)?;
        let name = name.unwrap_or_else(|| UNNAMED.fetch_add(1, Relaxed).to_string());
        #[cfg_attr(not(any(feature = "tracing", feature = "testing")), expect(unused_mut))]
        let mut shared = Shared::new(name, arena, limits, clock, fragmentation_bytes);
        #[cfg(feature = "tracing")]
        {
            shared.events.old = self.old_orphans;
        }
        #[cfg(feature = "testing")]
        {
            shared.tree.lock().bars_idle = self.faults.are_any();
            shared.faults = self.faults;
        }
        Ok(Governor { shared: Arc::new(shared) })
    }
}

impl fmt::Debug for GovernorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GovernorBuilder")
            .field("limits", &self.limits)
            .field("classes", &self.classes)
            .field("zero_on_return", &self.zero_on_return)
            .finish_non_exhaustive()
    }
}
