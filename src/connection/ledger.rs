//! What a connection is charged for. Guarded by the connection's mutex.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::Connection;
use super::account::StreamAccount;
use super::loose::{Loose, LooseLease};
use super::seat::Seat;
use super::wakers::Wakers;
use crate::name::{Direction, Source};
use crate::scope::{ClassRef, Place, StreamShare};
use crate::sync::Arc;
use crate::usage::Tally;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// Memory is back, but for pins and `Bytes`; the guard may still be alive.
    Closed,
    /// The guard is gone, and its counts with it.
    Gone,
}

pub(super) struct Ledger {
    pub(super) phase: Phase,
    /// Whether the tree still counts it, or what it left behind.
    pub(super) charged: bool,
    /// Whether its address counts it.
    pub(super) counted: bool,
    pub(super) direction: Direction,
    fd: bool,
    pub(super) streams_inbound: u32,
    pub(super) streams_outbound: u32,
    /// Goes on when the tables are gone: a return that comes late must find no other stream.
    next_stream: u32,
    /// Leases that were out when the connection closed and have not dropped since.
    pub(super) stragglers: u32,
    /// Whether the scopes above list it as one that may hold idle memory.
    pub(super) listed: bool,
    /// All bytes charged to the scopes above: blocks and reservations.
    pub(super) memory: u64,
    pub(super) reserved: u64,
    pub(super) place: Place,
    /// Absent while there is nothing in them.
    tables: Option<Box<Tables>>,
    /// Who waits for the connection to be closed.
    pub(super) wakers: Option<Box<Wakers>>,
    /// The record's share in itself, from the first lease on; see the module's docs.
    pub(super) keep: Option<Arc<Connection>>,
}

/// What most connections never need.
#[derive(Default)]
struct Tables {
    /// Leases that the magazines have no place for.
    loose: Option<Box<Loose>>,
    /// The streams, until they are closed and drained, or the guard is gone.
    streams: BTreeMap<u32, Stream>,
    /// The accounts of streams, after the guard is gone, that leases still point to.
    left: Vec<Arc<StreamAccount>>,
    /// Where the connection comes from, if its record has no place for it.
    source: Option<Box<Source>>,
}

/// One stream.
pub(super) struct Stream {
    pub(super) account: Arc<StreamAccount>,
    pub(super) direction: Direction,
    /// Whether its guard is alive.
    pub(super) open: bool,
    /// Whether it was told which class it belongs to.
    pub(super) bound: bool,
    /// That class, if it is not the connection's.
    pub(super) class: Option<StreamClass>,
}

/// What a stream is charged for to a class of its own.
#[derive(Clone, Copy)]
pub(super) struct StreamClass {
    pub(super) class: ClassRef,
    pub(super) memory: u64,
}

impl Stream {
    /// What the stream counts for by merely existing.
    pub(super) fn counts(&self) -> Tally {
        if self.open { Tally::of_stream(self.direction) } else { Tally::default() }
    }
}

impl Ledger {
    /// Of a connection that has just been admitted, with so many bytes reserved.
    pub(super) fn new(place: Place, direction: Direction, fd: bool, reserved: u64) -> Self {
        Self {
            phase: Phase::Open,
            charged: true,
            counted: false,
            direction,
            fd,
            streams_inbound: 0,
            streams_outbound: 0,
            next_stream: 0,
            stragglers: 0,
            listed: false,
            memory: reserved,
            reserved,
            place,
            tables: None,
            wakers: None,
            keep: None,
        }
    }

    /// Everything the connection is charged for.
    pub(super) fn usage(&self) -> Tally {
        match self.phase {
            Phase::Open | Phase::Closed => {
                let mut tally = *Tally::of_connection(self.direction, self.fd);
                tally.add(&Tally::of_streams(self.streams_inbound, self.streams_outbound));
                tally.with_memory(self.memory)
            }
            Phase::Gone => Tally::of_memory(self.memory),
        }
    }

    /// Whether anything was ever leased on the connection.
    #[inline]
    pub(super) fn has_leased(&self) -> bool {
        self.keep.is_some()
    }

    pub(super) fn streams_mut(&mut self, direction: Direction) -> &mut u32 {
        match direction {
            Direction::Inbound => &mut self.streams_inbound,
            Direction::Outbound => &mut self.streams_outbound,
        }
    }

    /// Leases that the magazines have no place for.
    pub(super) fn loose(&self) -> Option<&Loose> {
        self.tables.as_ref()?.loose.as_deref()
    }

    pub(super) fn loose_mut(&mut self) -> Option<&mut Loose> {
        self.tables.as_mut()?.loose.as_deref_mut()
    }

    pub(super) fn loose_or_new(&mut self) -> &mut Loose {
        self.tables.get_or_insert_default().loose.get_or_insert_default()
    }

    pub(super) fn loose_lease_mut(&mut self, key: u32) -> Option<&mut LooseLease> {
        self.loose_mut()?.get_mut(key)
    }

    pub(super) fn open_stream(&mut self, direction: Direction) -> Arc<StreamAccount> {
        let Self { tables, next_stream, .. } = self;
        let streams = &mut tables.get_or_insert_default().streams;
        let open = |key| Stream {
            account: Arc::new(StreamAccount::new(key)),
            direction,
            open: true,
            bound: false,
            class: None,
        };
        let key = insert_in_turn(streams, next_stream, open);
        streams[&key].account.clone()
    }

    pub(super) fn stream_mut(&mut self, key: u32) -> Option<&mut Stream> {
        self.tables.as_mut()?.streams.get_mut(&key)
    }

    pub(super) fn streams(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.tables.iter_mut().flat_map(|tables| tables.streams.values_mut())
    }

    /// What the streams are charged for to classes of their own, class by class.
    pub(super) fn stream_shares(&self) -> Vec<StreamShare> {
        let Some(tables) = &self.tables else { return Vec::new() };
        let mut shares = BTreeMap::new();
        for stream in tables.streams.values() {
            let Some(StreamClass { class, memory }) = stream.class else { continue };
            let nothing = StreamShare { class, usage: Tally::default(), streams: 0 };
            let share: &mut StreamShare = shares.entry(class).or_insert(nothing);
            share.usage.add(&stream.counts().with_memory(memory));
            share.streams += 1;
        }
        shares.into_values().collect()
    }

    /// Takes out the stream under `key`, if it is closed and drained.
    pub(super) fn reap_stream(&mut self, key: u32) -> Option<Stream> {
        let streams = &mut self.tables.as_mut()?.streams;
        let stream = streams.get(&key)?;
        if stream.open || !stream.account.is_drained() {
            return None;
        }
        let reaped = streams.remove(&key);
        self.drop_empty_tables();
        reaped
    }

    /// The guard is gone, and no stream counts any longer. What stays are the accounts that leases
    /// still point to.
    pub(super) fn end_streams(&mut self) {
        let Some(tables) = &mut self.tables else { return };
        let ended = std::mem::take(&mut tables.streams).into_values();
        let pointed_to = ended.map(|stream| stream.account).filter(|account| account.holds_any());
        tables.left = pointed_to.collect();
        tables.left.shrink_to_fit();
        self.drop_empty_tables();
    }

    /// Forgets all accounts of streams, when no lease is left that could point to one.
    pub(super) fn forget_accounts(&mut self) {
        let Some(tables) = &mut self.tables else { return };
        tables.left = Vec::new();
        self.drop_empty_tables();
    }

    pub(super) fn source(&self) -> Option<&Source> {
        self.tables.as_ref()?.source.as_deref()
    }

    pub(super) fn set_source(&mut self, source: Option<Source>) {
        match source {
            Some(source) => {
                self.tables.get_or_insert_default().source = Some(Box::new(source));
            }
            None => {
                let Some(tables) = &mut self.tables else { return };
                tables.source = None;
                self.drop_empty_tables();
            }
        }
    }

    /// Gives the tables' memory back if there is nothing in them.
    pub(super) fn drop_empty_tables(&mut self) {
        self.tables.take_if(|tables| {
            tables.loose.take_if(|loose| loose.is_empty());
            tables.loose.is_none()
                && tables.streams.is_empty()
                && tables.left.is_empty()
                && tables.source.is_none()
        });
    }
}

/// Enters what `make` answers under a key that is not in use, and answers the key. Keys are used in
/// turn, so that nothing has to remember which are free, and one comes back after two billion
/// others.
pub(super) fn insert_in_turn<V>(
    table: &mut BTreeMap<u32, V>,
    next: &mut u32,
    make: impl FnOnce(u32) -> V,
) -> u32 {
    loop {
        let key = *next;
        *next = (key + 1) & Seat::MOST_KEY;
        if let Entry::Vacant(vacant) = table.entry(key) {
            vacant.insert(make(key));
            return key;
        }
    }
}
