//! What a connection is charged for, and all else that its mutex guards.

use std::panic::Location;
use std::task::Waker;

use hashbrown::HashTable;

use super::account::StreamAccount;
use super::depot::Depot;
use super::marks::Marks;
use super::wakers::Wakers;
use super::{Connection, Shared};
use crate::keyed::{shrink, spread};
use crate::name::{Direction, Source};
use crate::scope::{NameRef, Parents, StreamShare};
use crate::sync::Arc;
use crate::try_box::{OutOfMemory, TryBox};
use crate::usage::{ConnectionKind, Tally};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// Memory is back, but for pins and `Bytes`; the guard may still be alive.
    Closed,
    /// The guard is gone, and its counts with it.
    Gone,
}

/// What the mutex of a connection guards.
pub(super) struct State {
    /// The governor's side, until nothing of the connection is charged any more.
    pub(super) shared: Option<Arc<Shared>>,
    pub(super) ledger: Ledger,
}

/// The connection's side of what is charged.
pub(super) struct Ledger {
    pub(super) phase: Phase,
    pub(super) kind: ConnectionKind,
    pub(super) marks: Marks,
    /// Whether the scopes above list it as one that may keep idle blocks.
    pub(super) caching: bool,
    /// Leases that were out when the connection closed and have not dropped since.
    pub(super) stragglers: u32,
    /// All bytes charged to the scopes above: blocks, large leases and reservations.
    pub(super) memory: u64,
    pub(super) reserved: u64,
    pub(super) parents: Parents,
    /// What most connections never need.
    pub(super) tables: Option<TryBox<Tables>>,
    /// The first of those that wait for the close.
    pub(super) waker: Option<Waker>,
    /// The record's share in itself, from the first lease on; see the module's docs.
    pub(super) keep: Option<Arc<Connection>>,
}

/// What most connections never need.
#[derive(Default)]
pub(super) struct Tables {
    pub(super) depot: Option<TryBox<Depot>>,
    pub(super) streams: Option<TryBox<Streams>>,
    /// The accounts of streams, after the guard is gone, that leases still point to.
    left: Box<[Arc<StreamAccount>]>,
    /// Where the connection comes from, if its record has no room for it.
    pub(super) source: Option<TryBox<Source>>,
    /// Those that wait for the close, but for the first.
    pub(super) wakers: Option<TryBox<Wakers>>,
}

/// The streams of a connection, until they are closed and drained.
#[derive(Default)]
pub(super) struct Streams {
    by_key: HashTable<Stream>,
    pub(super) inbound: u32,
    pub(super) outbound: u32,
}

/// One stream.
pub(super) struct Stream {
    pub(super) account: Arc<StreamAccount>,
    pub(super) direction: Direction,
    /// The line that opened it, and when.
    pub(super) opened: (&'static Location<'static>, u32),
    /// Whether its guard is alive, and counts.
    pub(super) open: bool,
    /// Whether it was told which class it belongs to.
    pub(super) bound: bool,
    /// That class, if it is not the connection's.
    pub(super) class: Option<StreamClass>,
}

/// What a stream is charged for to a class of its own.
#[derive(Clone, Copy)]
pub(super) struct StreamClass {
    pub(super) class: NameRef,
    pub(super) memory: u64,
}

impl Ledger {
    /// Of a connection that has just been admitted, with this many bytes reserved.
    pub(super) fn new(
        parents: Parents,
        kind: ConnectionKind,
        reserved: u64,
        counted: bool,
    ) -> Self {
        Self {
            phase: Phase::Open,
            kind,
            marks: Marks::new(counted, reserved),
            caching: false,
            stragglers: 0,
            memory: reserved,
            reserved,
            parents,
            tables: None,
            waker: None,
            keep: None,
        }
    }

    /// Everything the connection is charged for.
    #[inline]
    pub(super) fn usage(&self) -> Tally {
        let mut usage = Tally::default();
        if self.phase != Phase::Gone {
            usage = *self.kind.tally();
            if let Some(Streams { inbound, outbound, .. }) = self.streams() {
                usage.add(&Tally::of_streams(*inbound, *outbound));
            }
        }
        usage.memory = self.memory;
        usage.cacheable = self.memory - self.reserved - self.large_bytes();
        usage
    }

    /// How many streams are open, inbound and outbound.
    pub(super) fn stream_counts(&self) -> [u32; 2] {
        self.streams().map_or([0; 2], |streams| [streams.inbound, streams.outbound])
    }

    pub(super) fn large_bytes(&self) -> u64 {
        self.depot().map_or(0, |depot| depot.large_bytes)
    }

    pub(super) fn tables_or_new(&mut self) -> Result<&mut Tables, OutOfMemory> {
        TryBox::or_new(&mut self.tables)
    }

    pub(super) fn depot_or_new(&mut self) -> Result<&mut Depot, OutOfMemory> {
        TryBox::or_new(&mut self.tables_or_new()?.depot)
    }

    pub(super) fn streams_or_new(&mut self) -> Result<&mut Streams, OutOfMemory> {
        TryBox::or_new(&mut self.tables_or_new()?.streams)
    }

    pub(super) fn depot(&self) -> Option<&Depot> {
        self.tables.as_ref()?.depot.as_deref()
    }

    pub(super) fn depot_mut(&mut self) -> Option<&mut Depot> {
        self.tables.as_mut()?.depot.as_deref_mut()
    }

    pub(super) fn streams(&self) -> Option<&Streams> {
        self.tables.as_ref()?.streams.as_deref()
    }

    pub(super) fn streams_mut(&mut self) -> Option<&mut Streams> {
        self.tables.as_mut()?.streams.as_deref_mut()
    }

    pub(super) fn stream_mut(&mut self, key: u64) -> Option<&mut Stream> {
        self.streams_mut()?.get_mut(key)
    }

    /// Drops tables that are empty, which runs no code of a user's.
    #[inline]
    pub(super) fn drop_empty_tables(&mut self) {
        self.tables.take_if(|tables| tables.drop_empty());
    }

    /// The guard is gone, and no stream counts any longer. What stays are the accounts that leases
    /// still point to.
    pub(super) fn end_streams(&mut self) {
        let Some(tables) = &mut self.tables else { return };
        let Some(streams) = &mut tables.streams else { return };
        streams.by_key.retain(|stream| stream.account.close() > 0);
        let mut left = Vec::new();
        // Where there is no memory for a list of them, the table stays.
        if left.try_reserve_exact(streams.by_key.len()).is_ok() {
            left.extend(streams.by_key.drain().map(|stream| stream.account));
            (tables.left, tables.streams) = (left.into(), None);
        }
    }

    /// No lease is left that could point to an account.
    pub(super) fn forget_accounts(&mut self) {
        if let Some(tables) = &mut self.tables {
            (tables.left, tables.streams) = (Box::default(), None);
        }
        self.drop_empty_tables();
    }
}

impl Tables {
    /// Drops those that are empty. Returns whether none is left.
    fn drop_empty(&mut self) -> bool {
        let Self { depot, streams, left, source, wakers } = self;
        depot.take_if(|depot| depot.is_empty());
        streams.take_if(|streams| streams.by_key.is_empty());
        wakers.take_if(|wakers| wakers.is_empty());
        let has_none = depot.is_none() && streams.is_none() && wakers.is_none();
        has_none && left.is_empty() && source.is_none()
    }
}

impl Streams {
    /// Makes room for one more stream.
    pub(super) fn reserve(&mut self) -> Result<(), OutOfMemory> {
        let reserved = self.by_key.try_reserve(1, hash);
        reserved.map_err(|_| OutOfMemory)
    }

    /// Enters a stream, for which there is room, and counts it.
    pub(super) fn open(
        &mut self,
        key: u64,
        direction: Direction,
        opened: (&'static Location<'static>, u32),
    ) -> Arc<StreamAccount> {
        let account = Arc::new(StreamAccount::new(key));
        let stream = Stream {
            account: account.clone(),
            direction,
            opened,
            open: true,
            bound: false,
            class: None,
        };
        self.by_key.insert_unique(spread(key), stream, hash);
        *self.count_mut(direction) += 1;
        account
    }

    pub(super) fn count_mut(&mut self, direction: Direction) -> &mut u32 {
        match direction {
            Direction::Inbound => &mut self.inbound,
            Direction::Outbound => &mut self.outbound,
        }
    }

    pub(super) fn get_mut(&mut self, key: u64) -> Option<&mut Stream> {
        self.by_key.find_mut(spread(key), |stream| stream.account.key() == key)
    }

    /// Those whose guard is alive.
    pub(super) fn iter_open(&self) -> impl Iterator<Item = &Stream> {
        self.by_key.iter().filter(|stream| stream.open)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.by_key.iter_mut()
    }

    /// Takes out the stream under `key`, if it is closed and drained.
    pub(super) fn reap(&mut self, key: u64) -> Option<Stream> {
        let found = self.by_key.find_entry(spread(key), |stream| stream.account.key() == key);
        let found = found.ok()?;
        if found.get().open || !found.get().account.is_drained() {
            return None;
        }
        let (reaped, _) = found.remove();
        shrink(&mut self.by_key, hash);
        Some(reaped)
    }

    /// What the streams are charged for to classes of their own, class by class.
    pub(super) fn shares(&self) -> Result<Vec<StreamShare>, OutOfMemory> {
        let classed = || self.by_key.iter().filter_map(|stream| Some((stream, stream.class?)));
        let mut shares = Vec::new();
        let count = classed().count();
        shares.try_reserve_exact(count).map_err(|_| OutOfMemory)?;
        shares.extend(classed().map(|(stream, StreamClass { class, memory })| StreamShare {
            class,
            usage: stream.counts().with_memory(memory),
            streams: 1,
            first: stream.account.key(),
        }));
        shares.sort_unstable_by_key(|share| (share.class, share.first));
        shares.dedup_by(|next, share| {
            let same = next.class == share.class;
            if same {
                share.usage.add(&next.usage);
                share.streams += next.streams;
            }
            same
        });
        // In the order in which they were opened, for a refusal names the first that has no room.
        shares.sort_unstable_by_key(|share| share.first);
        Ok(shares)
    }
}

impl Stream {
    /// What the stream counts for by merely existing.
    pub(super) fn counts(&self) -> Tally {
        if self.open { Tally::of_stream(self.direction) } else { Tally::default() }
    }
}

fn hash(stream: &Stream) -> u64 {
    spread(stream.account.key())
}
