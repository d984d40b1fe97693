//! The machine that limits are meant for.

#[cfg(all(feature = "host", any(target_os = "linux", target_os = "android")))]
mod cgroup;
#[cfg(feature = "host")]
mod detect;

/// How much a process may use of its machine: what [`NodeType::limits`](crate::NodeType::limits)
/// scales to.
///
/// ```
/// use leasehold::Host;
///
/// let host = Host::new(16 << 30, 65_536);
/// assert_eq!(host.budget(), 2 << 30);
/// assert_eq!(host.with_budget(4 << 30).budget(), 4 << 30);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    memory: u64,
    fds: u64,
    /// `None` follows the memory.
    budget: Option<u64>,
}

impl Host {
    /// A process that may use `memory` bytes and `fds` file descriptors, however much there is
    /// here.
    pub fn new(memory: u64, fds: u64) -> Self {
        Self { memory, fds, budget: None }
    }

    /// Sets [`memory`](Self::memory), in bytes.
    #[must_use]
    pub fn with_memory(self, bytes: u64) -> Self {
        Self { memory: bytes, ..self }
    }

    /// Sets [`fds`](Self::fds).
    #[must_use]
    pub fn with_fds(self, fds: u64) -> Self {
        Self { fds, ..self }
    }

    /// Sets [`budget`](Self::budget), in bytes, and keeps it whatever the memory becomes.
    #[must_use]
    pub fn with_budget(self, bytes: u64) -> Self {
        Self { budget: Some(bytes), ..self }
    }

    /// How much memory the process may use, in bytes.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// How many file descriptors the process may have open.
    pub fn fds(&self) -> u64 {
        self.fds
    }

    /// How much memory is meant for connections, in bytes: an eighth of all, unless set. Limits
    /// grow with it.
    pub fn budget(&self) -> u64 {
        self.budget.unwrap_or(self.memory / 8)
    }
}
