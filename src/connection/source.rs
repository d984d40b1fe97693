//! Where a connection comes from, and how it turns out to come from elsewhere.

use std::net::IpAddr;

use super::Connection;
use super::errand::{Halt, Halted};
use super::ledger::{Ledger, Phase};
use crate::error::{BindError, Scope};
use crate::name::{Direction, Source};
use crate::scope::{Realm, Request};
use crate::subnet::Enforcement;
use crate::usage::Tally;

impl Connection {
    pub(super) fn source(&self, ledger: &Ledger) -> Option<Source> {
        ledger.source().cloned().or_else(|| self.remote.source())
    }

    pub(super) fn ip(&self, ledger: &Ledger) -> Option<IpAddr> {
        match ledger.source() {
            Some(source) => source.ip(),
            None => self.remote.ip(),
        }
    }

    /// The connection turns out to come from elsewhere: it counts there from now on.
    pub(crate) fn rebind_source(&self, source: Source) -> Result<(), BindError> {
        let moved = self.shared.run(|| {
            let mut guard = self.ledger.lock();
            let ledger = &mut *guard;
            if ledger.phase != Phase::Open {
                return Err(Halt::Closed);
            }
            self.move_source(ledger, &source)?;
            ledger.set_source(source.clone());
            Ok(())
        });
        moved.map_err(|halted| match halted {
            Halted::Refused(refused) => BindError::Refused(refused),
            Halted::Closed => BindError::Closed,
        })
    }

    fn move_source(&self, ledger: &mut Ledger, source: &Source) -> Result<(), Halt> {
        let to = source.ip().filter(|_| ledger.direction == Direction::Inbound);
        let line = self.line(ledger);
        let is_allowlisted = line.is_allowlisted(source.ip());
        let observes = line.observes(Scope::Subnet);
        drop(line);
        match (ledger.place.realm, to) {
            (Realm::Allowlisted, _) if is_allowlisted => self.uncount(ledger),
            (Realm::Allowlisted, _) => self.go_back(ledger, to, observes)?,
            (Realm::Ordinary, None) => self.uncount(ledger),
            (Realm::Ordinary, Some(to)) => {
                let from = self.ip(ledger).filter(|_| ledger.counted);
                let enforcement =
                    if observes { Enforcement::Observe } else { Enforcement::Enforce };
                let now = self.shared.read_clock();
                match self.shared.subnets.rebind(from, to, now, enforcement) {
                    Ok(observed) => {
                        ledger.counted = true;
                        if let Some(refused) = observed {
                            self.shared.tree.count_observed(&refused);
                        }
                    }
                    Err(_)
                        if is_allowlisted
                            && self.enter_realm(ledger, Realm::Allowlisted).is_ok() =>
                    {
                        self.uncount(ledger);
                    }
                    Err(refused) => return Err(Halt::Refused(refused)),
                }
            }
        }
        Ok(())
    }

    /// Moves to the ordinary scopes, where the address `to` counts the connection.
    fn go_back(&self, ledger: &mut Ledger, to: Option<IpAddr>, observes: bool) -> Result<(), Halt> {
        let now = self.shared.read_clock();
        let entrance = to.map(|to| self.shared.subnets.enter(to, now));
        let by_subnet = entrance.as_ref().and_then(|entrance| entrance.check().err());
        if let Some(refused) = by_subnet
            && !observes
        {
            return Err(Halt::Refused(refused));
        }
        self.enter_realm(ledger, Realm::Ordinary)?;
        let counts = entrance.is_some();
        if let Some(entrance) = entrance {
            entrance.commit();
        }
        self.uncount(ledger);
        ledger.counted = counts;
        if let Some(refused) = by_subnet {
            self.shared.tree.count_observed(&refused);
        }
        Ok(())
    }

    fn enter_realm(&self, ledger: &mut Ledger, realm: Realm) -> Result<(), Halt> {
        let own = ledger.usage();
        let nothing_more = Request::new(Tally::default());
        let mut line = self.line(ledger);
        let moved = line.change_realm(realm, &own, &nothing_more, self.id);
        moved.map_err(|shortfall| Halt::Refused(shortfall.refused))?;
        ledger.place = line.place();
        Ok(())
    }

    /// The address that the connection had counts it no longer.
    fn uncount(&self, ledger: &mut Ledger) {
        if std::mem::take(&mut ledger.counted)
            && let Some(from) = self.ip(ledger)
        {
            self.shared.subnets.leave(from);
        }
    }
}
