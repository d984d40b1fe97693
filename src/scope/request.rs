//! What is asked for.

use crate::error::{Refused, Scope};
use crate::limits::ScopeLimits;
use crate::priority::Priority;
use crate::usage::Usage;

/// A request to a scope.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    /// What is asked for.
    pub(crate) usage: Usage,
    /// How much of its memory is charged already, as an idle block of the one who asks.
    pub(crate) idle_bytes: u64,
    /// How much of a memory limit it may fill.
    pub(crate) priority: Priority,
}

impl Request {
    /// For this much more, of what is not charged yet and at the highest priority.
    pub(crate) fn new(usage: Usage) -> Self {
        Self { usage, idle_bytes: 0, priority: Priority::Critical }
    }

    pub(crate) fn at(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }

    /// What is charged if it is granted.
    #[inline]
    pub(super) fn charged(&self) -> Usage {
        Usage { memory: self.usage.memory - self.idle_bytes, ..self.usage }
    }

    /// Whether the request fits on top of `in_use`; if not, the first resource that does not.
    #[inline]
    pub(super) fn check(
        &self,
        scope: Scope,
        limits: &ScopeLimits,
        in_use: &Usage,
    ) -> Result<(), Refused> {
        let memory = in_use.memory.saturating_sub(self.idle_bytes);
        limits.check_memory(scope, memory, self.usage.memory, self.priority)?;
        limits.check_counts(scope, in_use, &self.usage)
    }
}
