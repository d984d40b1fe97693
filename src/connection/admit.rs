//! How a connection comes in, and how its peer and its address become known.

use std::net::IpAddr;
use std::panic::Location;
use std::time::Duration;

use super::attempt::{Attempts, Spare, Stop};
use super::locked::{LockedScopes, Sides};
use super::remote::Remote;
use super::state::{Ledger, Streams};
use super::{Closer, Connection, Shared, State, Terms};
use crate::error::{AdmitError, BindError, Refused};
use crate::magazine::Magazine;
use crate::name::Source;
use crate::scope::{Charge, Demand, Named, OwnBlocks, OwnIdle, Partition, Shortfall};
use crate::subnet::Visit;
use crate::sync::unmodelled::AtomicU32;
use crate::sync::{Arc, Mutex};
use crate::try_box::TryBox;
use crate::usage::{ConnectionKind, Tally};

/// Admission.
impl Connection {
    /// Charges a connection and enters it in the registry; or charges nothing.
    pub(crate) fn admit(
        shared: &Arc<Shared>,
        terms: Terms<'_>,
        peer: Option<&[u8]>,
        site: &'static Location<'static>,
    ) -> Result<Arc<Self>, AdmitError> {
        let peer = peer.map(|key| Named::new(key, &shared.hot.hasher)).transpose()?;
        let class =
            terms.class.map(|name| Named::new(name.as_bytes(), &shared.hot.hasher)).transpose()?;
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
        let (serial, mut ledger) = match admitted {
            Ok(admitted) => admitted,
            Err(Stop::Refused(refused)) => return Err(refuse(refused)),
            Err(_) => unreachable!("an admission is refused or granted"),
        };
        let remote = Remote::none();
        if let Some(source) = terms.source
            && !remote.set(&source)
            && let Ok(tables) = ledger.tables_or_new()
        {
            tables.source = TryBox::new(source).ok();
        }
        let connection = Arc::new(Self {
            serial,
            site,
            admitted_tick: shared.hot.tick(),
            remote,
            hot: shared.hot.clone(),
            magazines: std::array::from_fn(|_| Magazine::new()),
            slot: AtomicU32::new(0),
            state: Mutex::new(State { shared: Some(shared.clone()), ledger }),
        });
        shared.registry.insert(&connection).map_err(|error| {
            connection.close(Closer::Guard);
            refuse(error.into())
        })?;
        Ok(connection)
    }
}

/// Returns the connection's serial number, and its ledger.
fn attempt_admit(
    shared: &Shared,
    terms: &Terms<'_>,
    peer: Option<Named<'_>>,
    class: Option<Named<'_>>,
    now: Duration,
    attempts: &Attempts,
) -> Result<(u64, Ledger), Stop> {
    let kind = ConnectionKind::new(terms.direction, terms.fd);
    let ip = terms.source.as_ref().and_then(Source::ip);
    let address = ip.filter(|_| kind.is_inbound()).map(|address| shared.tree.address(address));
    let mut scopes = shared.tree.lock();
    let mut parents = scopes.hold(peer, class, Partition::Ordinary)?;
    let ask = |scopes: &mut LockedScopes<'_>, parents| {
        let request = &Demand::new(kind.tally().with_memory(terms.weight_bytes));
        let own = Tally::default();
        let charge = Charge { idle: OwnIdle::default(), parents, own, request, stream: None };
        scopes.charge(&charge, parents, &[], || Some(())).map(drop)
    };
    let mut visit = Visit::new(address);
    scopes.subnets.check(&mut visit, now);
    // The ordinary scopes first, then, where the allow list covers the connection, its own.
    let spare = Spare::none(&shared.arena);
    let stop = |scopes: &mut LockedScopes<'_>, shortfall: Shortfall| {
        attempts.stop(scopes, &shortfall, OwnBlocks::default(), &spare)
    };
    let asked = scopes.allow_visit(&visit).and_then(|()| ask(&mut scopes, parents));
    let mut asked = asked.map_err(|shortfall| stop(&mut scopes, shortfall));
    if let Err(Stop::Refused(refused)) = asked
        && scopes.is_allowlisted(parents, ip)
    {
        visit = Visit::new(None);
        parents = parents.within(Partition::Allowlisted);
        asked = ask(&mut scopes, parents)
            .map_err(|shortfall| stop(&mut scopes, shortfall).instead(refused.with_fallback(true)));
    }
    if let Err(stop) = asked {
        scopes.release(parents);
        return Err(stop);
    }
    let retired = scopes.admit_visit(&visit);
    let serial = scopes.admit();
    drop(scopes);
    drop(retired);
    Ok((serial, Ledger::new(parents, kind, terms.weight_bytes, visit.counts())))
}

/// Peers.
impl Connection {
    /// Moves everything the connection has from the transient scope to a peer's.
    pub(crate) fn bind(&self, key: &[u8]) -> Result<(), BindError> {
        let peer = Named::new(key, &self.hot.hasher)?;
        self.attempt_and_count(|attempts| self.attempt_bind(peer, attempts))
    }

    fn attempt_bind(&self, peer: Named<'_>, attempts: &Attempts) -> Result<(), Stop> {
        let mut locked = self.lock_open()?;
        let from = locked.ledger().parents;
        if from.peer().is_some() {
            return Err(Stop::AlreadyBound);
        }
        let streams = locked.ledger().streams().map(Streams::shares).transpose()?;
        let streams = streams.unwrap_or_default();
        let mut sides = locked.sides(self)?;
        // A connection that was let in on trust may have to go back to where its address counts it.
        let mut partition = from.partition();
        let mut visit = None;
        if partition == Partition::Allowlisted
            && let ip = self.ip(sides.ledger)
            && !sides.scopes.is_peer_allowlisted(ip, peer)
        {
            partition = Partition::Ordinary;
            let new = visit.insert(sides.visit(ip));
            if new.counts() {
                sides.scopes.subnets.check(new, attempts.now.ok_or(Stop::Time)?);
            }
            sides.allow(new)?;
        }
        let to = sides.scopes.hold_bound(from, peer, partition, &streams)?;
        if let Err(stop) = sides.move_to(to, &streams, attempts) {
            sides.scopes.release_bound(to, &streams);
            return Err(stop);
        }
        if let Some(visit) = visit {
            sides.arrive(&visit);
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
            let mut kept = None;
            if !Remote::none().set(&source) {
                locked.ledger().tables_or_new()?;
                kept = Some(TryBox::new(source.clone())?);
            }
            self.move_source(&mut locked.sides(self)?, source.ip(), now, attempts)?;
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
        sides: &mut Sides<'_>,
        ip: Option<IpAddr>,
        now: Duration,
        attempts: &Attempts,
    ) -> Result<(), Stop> {
        let parents = sides.ledger.parents;
        let goes_back = parents.partition() == Partition::Allowlisted;
        if goes_back && sides.scopes.is_allowlisted(parents, ip) {
            return Ok(());
        }
        let from = self.ip(sides.ledger).filter(|_| sides.ledger.marks.is_counted());
        let from = from.map(|from| sides.shared.tree.address(from));
        let mut visit = sides.visit(ip).instead_of(from);
        sides.scopes.subnets.check(&mut visit, now);
        let mut moved = sides.allow(&visit);
        if moved.is_ok() && goes_back {
            let to = parents.within(Partition::Ordinary);
            moved = sides.move_to(to, &[], attempts).map(drop);
        }
        match moved {
            Ok(()) => {
                sides.ledger.marks.set_counted(false);
                sides.arrive(&visit);
                from.into_iter().for_each(|from| sides.scopes.subnets.leave(from));
                Ok(())
            }
            Err(Stop::Refused(refused)) => {
                let enter = |sides: &mut Sides<'_>, to| sides.move_to(to, &[], attempts);
                sides.or_allowlisted(refused, ip, enter).map(drop)
            }
            Err(stop) => Err(stop),
        }
    }
}

impl Sides<'_> {
    /// A visit from an address, if it counts the connection.
    fn visit(&self, ip: Option<IpAddr>) -> Visit {
        let ip = ip.filter(|_| self.ledger.kind.is_inbound());
        Visit::new(ip.map(|ip| self.shared.tree.address(ip)))
    }

    /// Asks the limits by address.
    fn allow(&mut self, visit: &Visit) -> Result<(), Stop> {
        let allowed = self.scopes.allow_visit(visit);
        allowed.map_err(|shortfall| Stop::Refused(shortfall.refused))
    }
}
