//! What the machine has.

/// What the machine has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Host {
    memory: u64,
    fds: u64,
    budget: u64,
}

impl Host {
    /// A host given by hand.
    pub fn new(memory: u64, fds: u64) -> Self {
        Self { memory, fds, budget: memory / 8 }
    }

    /// With this much memory.
    #[must_use]
    pub fn with_memory(self, bytes: u64) -> Self {
        Self { memory: bytes, ..self }
    }

    /// With so many descriptors.
    #[must_use]
    pub fn with_fds(self, n: u64) -> Self {
        Self { fds: n, ..self }
    }

    /// With this budget.
    #[must_use]
    pub fn with_budget(self, bytes: u64) -> Self {
        Self { budget: bytes, ..self }
    }

    /// Bytes of memory.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// File descriptors.
    pub fn fds(&self) -> u64 {
        self.fds
    }

    /// Bytes for connections.
    pub fn budget(&self) -> u64 {
        self.budget
    }
}
