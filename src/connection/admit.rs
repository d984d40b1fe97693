//! How a connection comes in, and how its peer and its address become known.

use std::time::Duration;

use super::attempt::{Attempts, Stop};
use super::locked::{Locked, LockedScopes};
use super::remote::Remote;
use super::state::Ledger;
use super::{Closer, Connection, Shared, State, Terms};
use crate::error::{AdmitError, BindError, Refused};
use crate::magazine::Magazine;
use crate::name::Source;
use crate::scope::{Charge, Demand, Named, OwnIdle, Parents, Partition};
use crate::subnet::Visit;
use crate::sync::unmodelled::AtomicU32;
use crate::sync::{Arc, Mutex};
use crate::try_box::TryBox;
use crate::usage::Tally;

/// What the tree has granted.
struct Admitted {
    serial: u64,
    parents: Parents,
    /// Whether its address counts the connection.
    counted: bool,
}

/// Admission.
impl Connection {
    /// Charges a connection and enters it in the registry; or charges nothing.
    pub(crate) fn admit(shared: &Arc<Shared>, terms: Terms<'_>) -> Result<Arc<Self>, AdmitError> {
        let peer = terms.peer.map(|key| Named::peer(key, &shared.hot.hasher)).transpose()?;
        let class = terms.class.map(|name| Named::class(name, &shared.hot.hasher)).transpose()?;
        let now = shared.read_clock();
        let refuse = |refused: Refused| {
            shared.count_refusal(&refused);
            AdmitError::from(refused)
        };
        #[cfg(feature = "testing")]
        shared.faults.admission().map_err(refuse)?;
        let admitted = Attempts::default().run(
            || Some(shared.clone()),
            |attempts| attempt_admit(shared, &terms, peer, class, now, attempts),
        );
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(Stop::Refused(refused)) => return Err(refuse(refused)),
            Err(_) => unreachable!("an admission is refused or granted"),
        };
        let connection = Self::new(shared.clone(), terms, admitted);
        shared.registry.insert(&connection).map_err(|error| {
            connection.close(Closer::Guard);
            refuse(error.into())
        })?;
        Ok(connection)
    }

    fn new(shared: Arc<Shared>, terms: Terms<'_>, admitted: Admitted) -> Arc<Self> {
        let Terms { kind, weight_bytes, source, site, .. } = terms;
        let Admitted { serial, parents, counted } = admitted;
        let mut ledger = Ledger::new(parents, kind, weight_bytes);
        ledger.marks.set_counted(counted);
        let remote = Remote::none();
        if let Some(source) = source
            && !remote.set(&source)
            && let Ok(tables) = ledger.tables_or_new()
        {
            tables.source = TryBox::new(source).ok();
        }
        Arc::new(Self {
            serial,
            site,
            admitted_tick: shared.hot.tick(),
            remote,
            hot: shared.hot.clone(),
            magazines: std::array::from_fn(|_| Magazine::new()),
            slot: AtomicU32::new(0),
            stock: AtomicU32::new(0),
            state: Mutex::new(State { shared: Some(shared), ledger }),
        })
    }
}

impl Terms<'_> {
    fn usage(&self) -> Tally {
        self.kind.tally().with_memory(self.weight_bytes)
    }
}

fn attempt_admit(
    shared: &Shared,
    terms: &Terms<'_>,
    peer: Option<Named<'_, [u8]>>,
    class: Option<Named<'_, str>>,
    now: Duration,
    attempts: &Attempts,
) -> Result<Admitted, Stop> {
    let ip = terms.source.as_ref().and_then(Source::ip);
    let address =
        ip.filter(|_| terms.kind.is_inbound()).map(|address| shared.tree.address(address));
    let mut scopes = shared.tree.lock();
    let mut parents = scopes.hold(peer, class, Partition::Ordinary)?;
    let ask = |scopes: &mut LockedScopes<'_>, parents| {
        let (own, request) = (Tally::default(), &Demand::new(terms.usage()));
        let charge = Charge { idle: OwnIdle::default(), parents, own, request, stream: None };
        scopes.charge(&charge, || Some(())).map(drop)
    };
    let mut visit = Visit::new(address);
    scopes.subnets.check(&mut visit, now);
    // The ordinary scopes first, then, where the allow list covers the connection, its own.
    let asked = scopes.allow_visit(&visit).and_then(|()| ask(&mut scopes, parents));
    let mut asked = asked.map_err(|shortfall| attempts.stop(&mut scopes, &shortfall, 0));
    if let Err(Stop::Refused(refused)) = asked
        && scopes.is_allowlisted(parents, ip)
    {
        visit = Visit::new(None);
        parents.partition = Partition::Allowlisted;
        asked = ask(&mut scopes, parents)
            .map_err(|shortfall| attempts.stop(&mut scopes, &shortfall, 0))
            .map_err(|stop| stop.instead(refused.with_fallback(true)));
    }
    if let Err(stop) = asked {
        scopes.release(parents);
        return Err(stop);
    }
    let retired = scopes.admit_visit(&visit);
    let admitted = Admitted { serial: scopes.admit(), parents, counted: visit.counts() };
    drop(scopes);
    drop(retired);
    Ok(admitted)
}

/// Peers.
impl Connection {
    /// Moves everything the connection has from the transient scope to a peer's.
    pub(crate) fn bind(&self, key: &[u8]) -> Result<(), BindError> {
        let peer = Named::peer(key, &self.hot.hasher)?;
        self.attempt_and_count(|attempts| self.attempt_bind(peer, attempts))
    }

    fn attempt_bind(&self, peer: Named<'_, [u8]>, attempts: &Attempts) -> Result<(), Stop> {
        let mut locked = self.lock_open()?;
        let Locked { state, leftovers } = &mut locked;
        let State { shared, ledger } = &mut **state;
        let shared = shared.as_deref().ok_or(Stop::Closed)?;
        let from = ledger.parents;
        if from.peer().is_some() {
            return Err(Stop::AlreadyBound);
        }
        let streams = ledger.streams().map(|streams| streams.shares()).transpose()?;
        let streams = streams.unwrap_or_default();
        // A connection that was let in on trust may have to go back to where its address counts it.
        let trusted = from.partition == Partition::Allowlisted;
        let ip = self.ip(ledger).filter(|_| trusted);
        let address = ip
            .filter(|_| !ledger.marks.is_counted() && ledger.kind.is_inbound())
            .map(|ip| shared.tree.address(ip));
        let mut scopes = shared.tree.lock();
        let mut partition = from.partition;
        if trusted && !scopes.is_peer_allowlisted(ip, peer) {
            partition = Partition::Ordinary;
        }
        let mut visit = Visit::new(address.filter(|_| partition != from.partition));
        if visit.counts() {
            scopes.subnets.check(&mut visit, attempts.now.ok_or(Stop::Time)?);
        }
        scopes.allow_visit(&visit).map_err(|shortfall| Stop::Refused(shortfall.refused))?;
        let to = scopes.hold_bound(from, peer, partition, &streams)?;
        let nothing = Demand::new(Tally::default());
        let bound = self.insist(shared, ledger, &mut scopes, attempts, 0, |scopes, ledger| {
            let charge = self.charge_of(ledger, &nothing, None, scopes.is_observing());
            scopes.relocate(to, &charge, &streams, || Some(()))
        });
        if let Err(stop) = bound {
            scopes.release_bound(to, &streams);
            return Err(stop);
        }
        ledger.parents = to;
        leftovers.retired = Some(scopes.admit_visit(&visit));
        if visit.counts() {
            ledger.marks.set_counted(true);
        }
        Ok(())
    }
}

/// Addresses.
impl Connection {
    /// The connection turns out to come from elsewhere: it counts there from now on.
    pub(crate) fn rebind_source(&self, source: Source) -> Result<(), BindError> {
        self.attempt_and_count(|attempts| {
            let mut locked = self.lock_open()?;
            let now = attempts.now.ok_or(Stop::Time)?;
            let fits = Remote::none().set(&source);
            let mut kept = None;
            if !fits {
                locked.ledger().tables_or_new()?;
                kept = Some(TryBox::new(source.clone())?);
            }
            self.move_source(&mut locked, &source, now, attempts)?;
            // In the record, if it has room for it.
            self.remote.set(&source);
            if let Some(tables) = &mut locked.ledger().tables {
                tables.source = kept;
            }
            locked.ledger().drop_empty_tables();
            Ok(())
        })
    }

    /// Counts the connection at its new address. A connection that is allow-listed is not counted, but
    /// is tried among the ordinary ones first; one that no longer is goes back to them, or is refused.
    fn move_source(
        &self,
        locked: &mut Locked<'_>,
        source: &Source,
        now: Duration,
        attempts: &Attempts,
    ) -> Result<(), Stop> {
        let Locked { state, leftovers } = locked;
        let State { shared, ledger } = &mut **state;
        let shared = shared.as_deref().ok_or(Stop::Closed)?;
        let address = |ip| shared.tree.address(ip);
        let from = self.ip(ledger).filter(|_| ledger.marks.is_counted()).map(address);
        let to = source.ip().filter(|_| ledger.kind.is_inbound()).map(address);
        let mut scopes = shared.tree.lock();
        let is_allowlisted = scopes.is_allowlisted(ledger.parents, source.ip());
        let goes_back = ledger.parents.partition == Partition::Allowlisted;
        if goes_back && is_allowlisted {
            return Ok(());
        }
        let mut visit = Visit::new(to).instead_of(from);
        scopes.subnets.check(&mut visit, now);
        let mut moved =
            scopes.allow_visit(&visit).map_err(|shortfall| Stop::Refused(shortfall.refused));
        if moved.is_ok() && goes_back {
            moved = self.move_to(Partition::Ordinary, shared, ledger, &mut scopes, attempts);
        }
        let Err(stop) = moved else {
            leftovers.retired = Some(scopes.admit_visit(&visit));
            ledger.marks.set_counted(visit.counts());
            if let Some(from) = from {
                scopes.subnets.leave(from);
            }
            return Ok(());
        };
        match stop {
            Stop::Refused(refused) if is_allowlisted => {
                self.move_to(Partition::Allowlisted, shared, ledger, &mut scopes, attempts)
                    .map_err(|stop| stop.instead(refused))?;
                self.leave_address(shared, ledger, &mut scopes);
                Ok(())
            }
            stop => Err(stop),
        }
    }

    /// Moves the connection to the scopes of another partition, if they have room for it.
    fn move_to(
        &self,
        partition: Partition,
        shared: &Shared,
        ledger: &mut Ledger,
        scopes: &mut LockedScopes<'_>,
        attempts: &Attempts,
    ) -> Result<(), Stop> {
        let nothing = Demand::new(Tally::default());
        self.insist(shared, ledger, scopes, attempts, 0, |scopes, ledger| {
            let to = ledger.parents.within(partition);
            let charge = self.charge_of(ledger, &nothing, None, scopes.is_observing());
            scopes.relocate(to, &charge, &[], || Some(()))?;
            ledger.parents = to;
            Ok(())
        })
    }
}
