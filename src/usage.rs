//! How much of each resource a scope uses: a vector that is added, subtracted and compared as one.

use crate::error::Resource;
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
    /// How much of one resource is in use.
    pub fn of(&self, resource: Resource) -> u64 {
        match resource {
            Resource::Memory => self.memory,
            Resource::Connections => self.connections(),
            Resource::ConnectionsInbound => self.connections_inbound.into(),
            Resource::ConnectionsOutbound => self.connections_outbound.into(),
            Resource::Streams => self.streams(),
            Resource::StreamsInbound => self.streams_inbound.into(),
            Resource::StreamsOutbound => self.streams_outbound.into(),
            Resource::Fds => self.fds.into(),
        }
    }

    /// Connections, on whichever side they were opened.
    pub fn connections(&self) -> u64 {
        u64::from(self.connections_inbound) + u64::from(self.connections_outbound)
    }

    /// Streams, on whichever side they were opened.
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
    Streams,
    StreamsInbound,
    StreamsOutbound,
    Fds,
}

impl Lane {
    /// In the order in which refusals name them.
    pub(crate) const ALL: [(Self, Resource); 7] = [
        (Self::Connections, Resource::Connections),
        (Self::ConnectionsInbound, Resource::ConnectionsInbound),
        (Self::ConnectionsOutbound, Resource::ConnectionsOutbound),
        (Self::Streams, Resource::Streams),
        (Self::StreamsInbound, Resource::StreamsInbound),
        (Self::StreamsOutbound, Resource::StreamsOutbound),
        (Self::Fds, Resource::Fds),
    ];
}

/// Seven lanes, and one to make the vector whole.
pub(crate) const LANES: usize = 8;

/// Each resource that is counted has its lane, in the order of [`Resource`].
const _: () = {
    let (mut resource, mut lane) = (0, 0);
    while resource < Resource::ALL.len() {
        if !Resource::ALL[resource].is_bytes() {
            assert!(Lane::ALL[lane].0 as usize == lane);
            assert!(Lane::ALL[lane].1 as usize == resource);
            lane += 1;
        }
        resource += 1;
    }
    assert!(lane == Lane::ALL.len() && lane <= LANES);
};

/// Counts end here, even where they are unlimited. They are signed because processors compare
/// vectors of signed numbers faster.
pub(crate) const MOST_COUNT: u32 = i32::MAX as u32;

/// A [`Usage`] in the form in which scopes keep it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) memory: u64,
    /// Of `memory`, what lies in blocks that a connection can keep idle: so much at most comes back
    /// when all that is idle is reclaimed.
    pub(crate) cacheable: u64,
    pub(crate) counts: [i32; LANES],
}

impl Tally {
    /// Memory that no connection keeps idle: reservations, and leases with a mapping of their own.
    #[inline]
    pub(crate) const fn of_memory(memory: u64) -> Self {
        Self { memory, cacheable: 0, counts: [0; LANES] }
    }

    /// Blocks, of so many bytes together.
    #[inline]
    pub(crate) const fn of_blocks(bytes: u64) -> Self {
        Self { memory: bytes, cacheable: bytes, counts: [0; LANES] }
    }

    /// What this many streams count for.
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

    /// The same counts with other memory, none of it in blocks.
    #[inline]
    #[must_use]
    pub(crate) fn with_memory(self, memory: u64) -> Self {
        Self { memory, cacheable: 0, ..self }
    }

    /// Adds `more`, which the limits have admitted.
    #[inline]
    pub(crate) fn add(&mut self, more: &Tally) {
        self.memory += more.memory;
        self.cacheable += more.cacheable;
        for (count, more) in self.counts.iter_mut().zip(&more.counts) {
            *count += more;
        }
    }

    /// The sum, if memory can be counted so far. (Counts can: they end at less than half of what a
    /// lane holds.)
    pub(crate) fn checked_add(mut self, more: &Tally) -> Option<Self> {
        self.memory.checked_add(more.memory)?;
        self.add(more);
        Some(self)
    }

    /// Subtracts `less`, which was added before.
    #[inline]
    pub(crate) fn sub(&mut self, less: &Tally) {
        debug_assert!(self.memory >= less.memory, "memory given back that was never charged");
        debug_assert!(self.cacheable >= less.cacheable, "blocks given back that were not charged");
        self.memory -= less.memory;
        self.cacheable -= less.cacheable;
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

/// Which side opened a connection, and whether it takes a file descriptor: one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionKind(u8);

impl ConnectionKind {
    #[inline]
    pub(crate) fn new(direction: Direction, fd: bool) -> Self {
        Self((direction as u8) << 1 | u8::from(fd))
    }

    pub(crate) fn is_inbound(self) -> bool {
        self.0 >> 1 == Direction::Inbound as u8
    }

    /// What such a connection counts for by merely existing.
    #[inline]
    pub(crate) fn tally(self) -> &'static Tally {
        // From a table, so that it is handled as a vector and not lane by lane.
        const fn of(direction: Lane, fd: bool) -> Tally {
            let mut tally = Tally::of_memory(0);
            tally.counts[Lane::Connections as usize] = 1;
            tally.counts[direction as usize] = 1;
            tally.counts[Lane::Fds as usize] = fd as i32;
            tally
        }
        const INBOUND: Lane = Lane::ConnectionsInbound;
        const OUTBOUND: Lane = Lane::ConnectionsOutbound;
        static TALLIES: [Tally; 4] =
            [of(INBOUND, false), of(INBOUND, true), of(OUTBOUND, false), of(OUTBOUND, true)];
        &TALLIES[usize::from(self.0) % TALLIES.len()]
    }
}
