//! How a connection comes in, and how it turns out to be somebody in particular.

use std::time::Duration;

use super::errand::{Halt, Halted};
use super::ledger::{Ledger, Phase};
use super::remote::Remote;
use super::{Connection, Shared, Terms};
use crate::error::{AdmitError, BindError, Scope};
use crate::limits::Observe;
use crate::magazine::Magazine;
use crate::name::{Direction, Source};
use crate::scope::{Hashed, Place, Realm, Request, Shortfall};
use crate::subnet::Entrance;
use crate::sync::{Arc, Mutex};
use crate::usage::Tally;

/// What the tree and the subnets have granted.
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
        let bound = self.shared.run(|| self.attempt_bind(peer, now));
        match bound {
            Ok(true) => Ok(()),
            Ok(false) => Err(BindError::AlreadyBound),
            Err(Halted::Refused(refused)) => Err(BindError::Refused(refused)),
            Err(Halted::Closed) => Err(BindError::Closed),
        }
    }

    fn attempt_bind(&self, peer: Hashed<'_, [u8]>, now: Duration) -> Result<bool, Halt> {
        let mut guard = self.ledger.lock();
        let ledger = &mut *guard;
        if ledger.phase != Phase::Open {
            return Err(Halt::Closed);
        }
        if ledger.place.peer().is_some() {
            return Ok(false);
        }
        if !ledger.has_streams() && ledger.place.realm == Realm::Ordinary {
            let own = ledger.usage();
            let mut line = self.line(ledger);
            if line.try_bind_plainly(peer, &own, self.id) {
                ledger.place = line.place();
                return Ok(true);
            }
        }
        let shares = ledger.stream_shares();
        let mut excused = Observe::none();
        loop {
            let own = ledger.usage();
            // One who was let in on trust may have to go back to where its address counts it.
            let entrance = self.entrance(ledger, now);
            let mut line = self.line(ledger);
            let realm = match ledger.place.realm {
                Realm::Allowlisted if line.is_peer_allowlisted(self.ip(ledger), peer) => {
                    Realm::Allowlisted
                }
                _ => Realm::Ordinary,
            };
            let goes_back = realm != ledger.place.realm;
            let entrance = entrance.filter(|_| goes_back);
            let by_subnet = entrance.as_ref().and_then(|entrance| entrance.check().err());
            if let Some(refused) = by_subnet
                && !line.observes(Scope::Subnet)
            {
                return Err(Halt::Refused(refused));
            }
            let bound = line.bind(peer, realm, &own, &shares, self.id, excused);
            let Err((shortfall, vacated)) = bound else {
                if let Some(refused) = by_subnet {
                    line.count_observed(&refused);
                }
                ledger.place = line.place();
                drop(line);
                if let Some(entrance) = entrance {
                    entrance.commit();
                    ledger.counted = true;
                }
                return Ok(true);
            };
            let helps = self.own_idle_memory_helps(ledger, &shortfall);
            let victim = if helps { None } else { line.victim(&shortfall) };
            let observes = line.observes(shortfall.refused.scope());
            drop(line);
            drop(entrance);
            drop(vacated);
            if helps {
                self.flush(ledger);
            } else if let Some((level, victim)) = victim {
                return Err(Halt::MakeRoom(level, victim));
            } else if excused.contains(shortfall.refused.scope()) || !observes {
                return Err(Halt::Refused(shortfall.refused));
            } else {
                excused = excused.scope(shortfall.refused.scope());
            }
        }
    }

    /// Where the connection would be counted by its address, if it is not yet.
    fn entrance(&self, ledger: &Ledger, now: Duration) -> Option<Entrance<'_>> {
        let may = ledger.place.realm == Realm::Allowlisted
            && !ledger.counted
            && ledger.direction == Direction::Inbound;
        let address = self.ip(ledger).filter(|_| may)?;
        Some(self.shared.subnets.enter(address, now))
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
    let address = terms.source.as_ref().and_then(Source::ip);
    let entrance = address
        .filter(|_| terms.direction == Direction::Inbound)
        .map(|address| shared.subnets.enter(address, now));
    let mut by_subnet = entrance.as_ref().and_then(|entrance| entrance.check().err());
    let mut line = shared.tree.enter(peer, class);
    let mut counted = entrance.is_some();
    if by_subnet.is_none() && line.try_admit_plainly(&request) {
        let admitted = Admitted { id: line.admit(), place: line.place(), counted };
        drop(line);
        if let Some(entrance) = entrance {
            entrance.commit();
        }
        return Ok(admitted);
    }
    // The ordinary scopes first, then, for whom the allow list covers, its own.
    let mut excused = Observe::none();
    let mut ordinary = None;
    loop {
        let checked = match by_subnet {
            Some(refused) if !line.observes(Scope::Subnet) => Err(Shortfall::from(refused)),
            _ => line.check(&own, &request, excused),
        };
        let Err(shortfall) = checked else { break };
        let victim = line.victim(&shortfall);
        if victim.is_none()
            && !excused.contains(shortfall.refused.scope())
            && line.observes(shortfall.refused.scope())
        {
            excused = excused.scope(shortfall.refused.scope());
            continue;
        }
        let is_allowlisted = line.is_allowlisted(address);
        if victim.is_none() && ordinary.is_none() && is_allowlisted {
            ordinary = Some(shortfall.refused);
            (counted, by_subnet, excused) = (false, None, Observe::none());
            line.enter_allowlisted();
            continue;
        }
        let vacated = line.vacate();
        drop(line);
        drop(entrance);
        drop(vacated);
        let refused = ordinary.unwrap_or(shortfall.refused).with_fallback(is_allowlisted);
        return Err(Halt::short_of_room(refused, victim));
    }
    if let Some(refused) = by_subnet {
        line.count_observed(&refused);
    }
    line.charge(&own, &request);
    let admitted = Admitted { id: line.admit(), place: line.place(), counted };
    drop(line);
    if let Some(entrance) = entrance.filter(|_| counted) {
        entrance.commit();
    }
    Ok(admitted)
}
