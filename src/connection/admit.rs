//! How a connection comes in, and how it turns out to be somebody in particular.

use std::time::Duration;

use super::errand::{Halt, Halted};
use super::ledger::Ledger;
use super::remote::Remote;
use super::{Above, Connection, Shared, Terms};
use crate::error::{AdmitError, BindError};
use crate::magazine::Magazine;
use crate::name::{Direction, Source};
use crate::scope::{Hashed, Place, Realm, Request, Unmet};
use crate::sync::{Arc, Mutex};
use crate::usage::Tally;

/// What the tree has granted.
struct Admitted {
    id: u64,
    place: Place,
    /// Whether its address counts the connection.
    counted: bool,
}

impl Connection {
    /// Charges a connection and enters it in the registry; or charges nothing.
    pub(crate) fn admit(shared: &Arc<Shared>, terms: Terms<'_>) -> Result<Arc<Self>, AdmitError> {
        let peer = terms.peer.map(|key| shared.tree.peer_key(key)).transpose()?;
        let class = terms.class.map(|name| shared.tree.class_name(name)).transpose()?;
        let now = shared.read_clock();
        let admitted = shared.run(|| attempt_admit(shared, &terms, peer, class, now));
        let admitted = admitted.map_err(|halted| match halted {
            Halted::Refused(refused) => refused,
            Halted::Closed => unreachable!("nobody knows the connection, so nobody closed it"),
        })?;
        let connection = Self::new(shared.clone(), terms, admitted);
        shared.registry.insert(connection.clone());
        Ok(connection)
    }

    fn new(shared: Arc<Shared>, terms: Terms<'_>, admitted: Admitted) -> Arc<Self> {
        let Terms { direction, fd, weight_bytes, source, site, .. } = terms;
        let Admitted { id, place, counted } = admitted;
        let mut ledger = Ledger::new(place, direction, fd, weight_bytes);
        ledger.counted = counted;
        let remote = Remote::none();
        if let Some(source) = source
            && !remote.set(&source)
        {
            ledger.set_source(Some(source));
        }
        Arc::new(Self {
            id,
            site,
            admitted_tick: shared.tick(),
            remote,
            shared,
            magazines: std::array::from_fn(|_| Magazine::new()),
            ledger: Mutex::new(ledger),
        })
    }

    /// Moves everything the connection has from the transient scope to a peer's.
    pub(crate) fn bind(&self, key: &[u8]) -> Result<(), BindError> {
        let peer = self.shared.tree.peer_key(key)?;
        // The clock may run anyone's code, so it is read before any lock is had.
        let now = self.shared.read_clock();
        let newly = self.shared.run(|| self.attempt_bind(peer, now))?;
        if newly { Ok(()) } else { Err(BindError::AlreadyBound) }
    }

    fn attempt_bind(&self, peer: Hashed<'_, [u8]>, now: Duration) -> Result<bool, Halt> {
        let mut guard = self.lock_open()?;
        let ledger = &mut *guard;
        if ledger.place.peer().is_some() {
            return Ok(false);
        }
        let own = ledger.usage();
        let streams = ledger.stream_shares();
        // One who was let in on trust may have to go back to where its address counts it.
        let trusted = ledger.place.realm == Realm::Allowlisted;
        let ip = self.ip(ledger).filter(|_| trusted);
        let address = ip
            .filter(|_| !ledger.counted && ledger.direction == Direction::Inbound)
            .map(|ip| self.shared.tree.address(ip));
        let mut line = self.line(ledger);
        if !trusted && streams.is_empty() && line.try_bind_plainly(peer, &own, self.id) {
            ledger.place = line.place();
            return Ok(true);
        }
        let goes_back = trusted && !line.is_peer_allowlisted(ip, peer);
        let realm = if goes_back { Realm::Ordinary } else { ledger.place.realm };
        let visit = address.filter(|_| goes_back).map(|address| line.subnets().visit(address, now));
        let to = line.hold_bound(peer, realm, &streams);
        let bound = line.allow_visit(visit.as_ref()).and_then(|()| {
            line.insist(self.own_idle(ledger), |line, excused| {
                line.check_bind(to, &own, &streams, excused)
            })
        });
        if let Err(unmet) = bound {
            let vacated = line.release_bound(to, &streams);
            drop(line);
            drop(vacated);
            return Err(unmet.into());
        }
        line.bind(to, &own, &streams, self.id);
        let retired = visit.map(|visit| line.admit_visit(&visit));
        ledger.place = to;
        ledger.counted |= retired.is_some();
        drop(line);
        drop(retired);
        Ok(true)
    }
}

fn attempt_admit(
    shared: &Shared,
    terms: &Terms<'_>,
    peer: Option<Hashed<'_, [u8]>>,
    class: Option<Hashed<'_, str>>,
    now: Duration,
) -> Result<Admitted, Halt> {
    let own = Tally::default();
    let request = Request::new(
        Tally::of_connection(terms.direction, terms.fd).with_memory(terms.weight_bytes),
    );
    let ip = terms.source.as_ref().and_then(Source::ip);
    let address = ip
        .filter(|_| terms.direction == Direction::Inbound)
        .map(|address| shared.tree.address(address));
    let mut line = shared.tree.enter(peer, class);
    let mut visit = address.map(|address| line.subnets().visit(address, now));
    let is_welcome = visit.as_ref().is_none_or(|visit| visit.refused().is_none());
    if !is_welcome || !line.try_admit_plainly(&request) {
        let ask = |line: &mut Above<'_>| {
            line.insist(|_| None, |line, excused| line.check(&own, &request, excused))
        };
        // The ordinary scopes first, then, for whom the allow list covers, its own.
        let mut met = line.allow_visit(visit.as_ref()).and_then(|()| ask(&mut line));
        if let Err(Unmet::Refused(refused)) = met
            && line.is_allowlisted(ip)
        {
            visit = None;
            line.enter_allowlisted();
            met = ask(&mut line).map_err(|unmet| unmet.instead(refused.with_fallback(true)));
        }
        if let Err(unmet) = met {
            let vacated = line.vacate();
            drop(line);
            drop(vacated);
            return Err(unmet.into());
        }
        line.charge(&own, &request);
    }
    let retired = visit.as_ref().map(|visit| line.admit_visit(visit));
    let admitted = Admitted { id: line.admit(), place: line.place(), counted: visit.is_some() };
    drop(line);
    drop(retired);
    Ok(admitted)
}
