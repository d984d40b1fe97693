//! How much of each resource a scope uses: a vector that is added and subtracted as one.

/// How much of each resource is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Bytes of leased, cached and reserved memory.
    pub memory: u64,
    /// Connections that the remote side opened.
    pub connections_inbound: u32,
    /// Connections that this side opened.
    pub connections_outbound: u32,
    /// Streams that the remote side opened.
    pub streams_inbound: u32,
    /// Streams that this side opened.
    pub streams_outbound: u32,
    /// File descriptors.
    pub fds: u32,
}

impl Usage {
    /// Connections, whoever opened them.
    pub fn connections(&self) -> u64 {
        u64::from(self.connections_inbound) + u64::from(self.connections_outbound)
    }

    /// Streams, whoever opened them.
    pub fn streams(&self) -> u64 {
        u64::from(self.streams_inbound) + u64::from(self.streams_outbound)
    }

    pub(crate) fn of_memory(memory: u64) -> Self {
        Self { memory, ..Self::default() }
    }

    /// Adds `more`, which the limits have admitted.
    #[inline]
    pub(crate) fn add(&mut self, more: &Usage) {
        self.memory += more.memory;
        self.connections_inbound += more.connections_inbound;
        self.connections_outbound += more.connections_outbound;
        self.streams_inbound += more.streams_inbound;
        self.streams_outbound += more.streams_outbound;
        self.fds += more.fds;
    }

    /// Subtracts `less`, which was added before.
    #[inline]
    pub(crate) fn sub(&mut self, less: &Usage) {
        debug_assert!(self.memory >= less.memory, "memory given back that was never charged");
        self.memory -= less.memory;
        self.connections_inbound -= less.connections_inbound;
        self.connections_outbound -= less.connections_outbound;
        self.streams_inbound -= less.streams_inbound;
        self.streams_outbound -= less.streams_outbound;
        self.fds -= less.fds;
    }
}
