//! What a connection is charged for. Guarded by the connection's mutex.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::Connection;
use super::account::StreamAccount;
use super::loose::{Loose, LooseLease};
use super::seat::Seat;
use crate::name::Direction;
use crate::scope::Place;
use crate::sync::Arc;
use crate::usage::Usage;

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
    /// Whether the connection was ever charged to the tree.
    pub(super) admitted: bool,
    direction: Direction,
    fd: bool,
    pub(super) streams_inbound: u32,
    pub(super) streams_outbound: u32,
    /// Leases that were out when the connection closed and have not dropped since.
    pub(super) stragglers: u32,
    /// Whether the scopes above list it as one that may hold idle memory.
    pub(super) listed: bool,
    /// All bytes charged to the scopes above: blocks and reservations.
    pub(super) memory: u64,
    pub(super) reserved: u64,
    pub(super) place: Place<Arc<Connection>>,
    /// Absent while there is nothing in them.
    tables: Option<Box<Tables>>,
    /// The record's share in itself; see the module's docs.
    pub(super) keep: Option<Arc<Connection>>,
}

/// What most connections never need.
#[derive(Default)]
struct Tables {
    /// Leases that the magazines have no place for.
    loose: Loose,
    /// The accounts of streams, until they are closed and drained.
    accounts: BTreeMap<u32, Arc<StreamAccount>>,
    next_account: u32,
}

impl Ledger {
    pub(super) fn new(place: Place<Arc<Connection>>, direction: Direction, fd: bool) -> Self {
        Self {
            phase: Phase::Open,
            admitted: false,
            direction,
            fd,
            streams_inbound: 0,
            streams_outbound: 0,
            stragglers: 0,
            listed: false,
            memory: 0,
            reserved: 0,
            place,
            tables: None,
            keep: None,
        }
    }

    /// What the connection counts for by merely existing.
    pub(super) fn counts(&self) -> Usage {
        let mut counts = Usage { fds: u32::from(self.fd), ..Usage::default() };
        match self.direction {
            Direction::Inbound => counts.connections_inbound = 1,
            Direction::Outbound => counts.connections_outbound = 1,
        }
        counts
    }

    /// Everything the connection is charged for.
    pub(super) fn usage(&self) -> Usage {
        if !self.admitted {
            return Usage::default();
        }
        Usage {
            memory: self.memory,
            streams_inbound: self.streams_inbound,
            streams_outbound: self.streams_outbound,
            ..self.counts()
        }
    }

    pub(super) fn streams_mut(&mut self, direction: Direction) -> &mut u32 {
        match direction {
            Direction::Inbound => &mut self.streams_inbound,
            Direction::Outbound => &mut self.streams_outbound,
        }
    }

    /// Leases that the magazines have no place for.
    pub(super) fn loose(&self) -> Option<&Loose> {
        self.tables.as_ref().map(|tables| &tables.loose)
    }

    pub(super) fn loose_mut(&mut self) -> Option<&mut Loose> {
        self.tables.as_mut().map(|tables| &mut tables.loose)
    }

    pub(super) fn loose_or_new(&mut self) -> &mut Loose {
        &mut self.tables.get_or_insert_default().loose
    }

    pub(super) fn loose_lease_mut(&mut self, key: u32) -> Option<&mut LooseLease> {
        self.loose_mut()?.get_mut(key)
    }

    pub(super) fn open_account(&mut self) -> Arc<StreamAccount> {
        let Tables { accounts, next_account, .. } = &mut **self.tables.get_or_insert_default();
        let open = |key| Arc::new(StreamAccount::new(key));
        let key = insert_in_turn(accounts, next_account, open);
        accounts[&key].clone()
    }

    /// Takes out the account under `key`, if it is closed and drained.
    pub(super) fn reap_account(&mut self, key: u32) -> Option<Arc<StreamAccount>> {
        let accounts = &mut self.tables.as_mut()?.accounts;
        if !accounts.get(&key)?.is_drained() {
            return None;
        }
        let reaped = accounts.remove(&key);
        self.drop_empty_tables();
        reaped
    }

    /// Forgets all accounts, when no lease is left that could point to one.
    pub(super) fn forget_accounts(&mut self) {
        if let Some(tables) = &mut self.tables {
            tables.accounts.clear();
        }
        self.drop_empty_tables();
    }

    /// Gives the tables' memory back if there is nothing in them.
    pub(super) fn drop_empty_tables(&mut self) {
        self.tables.take_if(|tables| tables.accounts.is_empty() && tables.loose.is_empty());
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
