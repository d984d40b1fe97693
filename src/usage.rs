//! How much of each resource a scope uses: a vector that is added, subtracted and compared as one.

use crate::limit::Limit;
use crate::name::Direction;

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
}

/// What is counted besides memory, each in a lane of its own: sums too, so that all lanes are added
/// and compared alike, which compilers turn into a few vector instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Lane {
    Connections,
    ConnectionsInbound,
    ConnectionsOutbound,
    Fds,
    Streams,
    StreamsInbound,
    StreamsOutbound,
}

/// Seven lanes, and one to make the vector whole.
const LANES: usize = 8;

/// Counts end here, even where they are unlimited. They are signed because processors compare
/// vectors of signed numbers faster.
pub(crate) const MOST_COUNT: u32 = i32::MAX as u32;

/// A [`Usage`] in the form in which scopes keep it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) memory: u64,
    counts: [i32; LANES],
}

impl Tally {
    #[inline]
    pub(crate) const fn of_memory(memory: u64) -> Self {
        Self { memory, counts: [0; LANES] }
    }

    /// What a connection counts for by merely existing.
    #[inline]
    pub(crate) fn of_connection(direction: Direction, fd: bool) -> &'static Self {
        // From a table, so that it is handled as a vector and not lane by lane.
        const fn of(direction: Lane, fd: bool) -> Tally {
            let mut tally = Tally::of_memory(0);
            tally.counts[Lane::Connections as usize] = 1;
            tally.counts[direction as usize] = 1;
            tally.counts[Lane::Fds as usize] = fd as i32;
            tally
        }
        static INBOUND: [Tally; 2] =
            [of(Lane::ConnectionsInbound, false), of(Lane::ConnectionsInbound, true)];
        static OUTBOUND: [Tally; 2] =
            [of(Lane::ConnectionsOutbound, false), of(Lane::ConnectionsOutbound, true)];
        match direction {
            Direction::Inbound => &INBOUND[usize::from(fd)],
            Direction::Outbound => &OUTBOUND[usize::from(fd)],
        }
    }

    /// What so many streams count for.
    #[inline]
    pub(crate) fn of_streams(inbound: u32, outbound: u32) -> Self {
        let mut tally = Self::default();
        // Every stream is charged to the system, which counts no more than there are numbers.
        tally.counts[Lane::Streams as usize] = (inbound + outbound) as i32;
        tally.counts[Lane::StreamsInbound as usize] = inbound as i32;
        tally.counts[Lane::StreamsOutbound as usize] = outbound as i32;
        tally
    }

    /// What one stream counts for.
    pub(crate) fn of_stream(direction: Direction) -> Self {
        match direction {
            Direction::Inbound => Self::of_streams(1, 0),
            Direction::Outbound => Self::of_streams(0, 1),
        }
    }

    pub(crate) fn count(&self, lane: Lane) -> u32 {
        self.counts[lane as usize] as u32
    }

    #[inline]
    #[must_use]
    pub(crate) fn with_memory(self, memory: u64) -> Self {
        Self { memory, ..self }
    }

    /// Adds `more`, which the limits have admitted.
    #[inline]
    pub(crate) fn add(&mut self, more: &Tally) {
        self.memory += more.memory;
        for (count, more) in self.counts.iter_mut().zip(&more.counts) {
            *count += more;
        }
    }

    /// The sum, if memory can be counted so far. (Counts can: they end at less than half of what a
    /// lane holds.)
    pub(crate) fn checked_add(mut self, more: &Tally) -> Option<Self> {
        let memory = self.memory.checked_add(more.memory)?;
        self.add(&more.with_memory(0));
        Some(self.with_memory(memory))
    }

    /// Subtracts `less`, which was added before.
    #[inline]
    pub(crate) fn sub(&mut self, less: &Tally) {
        debug_assert!(self.memory >= less.memory, "memory given back that was never charged");
        self.memory -= less.memory;
        for (count, less) in self.counts.iter_mut().zip(&less.counts) {
            *count -= less;
        }
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage {
            memory: self.memory,
            connections_inbound: self.count(Lane::ConnectionsInbound),
            connections_outbound: self.count(Lane::ConnectionsOutbound),
            streams_inbound: self.count(Lane::StreamsInbound),
            streams_outbound: self.count(Lane::StreamsOutbound),
            fds: self.count(Lane::Fds),
        }
    }
}

/// The limits of a scope in the form in which they are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ceilings {
    memory: Limit,
    counts: [i32; LANES],
}

impl Ceilings {
    /// Only what can be counted at all is in the way.
    pub(crate) const NONE: Self = Self { memory: Limit::Unlimited, counts: [i32::MAX; LANES] };

    pub(crate) fn new(memory: Limit, count: impl Fn(Lane) -> Limit) -> Self {
        let lanes = [
            Lane::Connections,
            Lane::ConnectionsInbound,
            Lane::ConnectionsOutbound,
            Lane::Fds,
            Lane::Streams,
            Lane::StreamsInbound,
            Lane::StreamsOutbound,
        ];
        let mut ceilings = Self { memory, ..Self::NONE };
        for lane in lanes {
            ceilings.counts[lane as usize] = count(lane).max().min(MOST_COUNT.into()) as i32;
        }
        ceilings
    }

    /// Whether `more` fits on top of `in_use`, of which `idle_bytes` are to be used again, with
    /// `share` of the memory limit to fill.
    #[inline(always)]
    pub(crate) fn fit(
        &self,
        in_use: &Tally,
        more: &Tally,
        idle_bytes: u64,
        share: impl FnOnce(u64) -> u64,
    ) -> bool {
        let memory = in_use.memory.saturating_sub(idle_bytes).checked_add(more.memory);
        let memory = more.memory == 0
            || match (memory, self.memory) {
                (Some(memory), Limit::Max(max)) => memory <= share(max),
                (Some(_), Limit::Unlimited) => true,
                (Some(_), Limit::Blocked) | (None, _) => false,
            };
        let mut over = false;
        for lane in 0..LANES {
            // Below zero where a limit was lowered below what is in use.
            let headroom = self.counts[lane] - in_use.counts[lane];
            over |= (more.counts[lane] > headroom) & (more.counts[lane] > 0);
        }
        memory & !over
    }
}
