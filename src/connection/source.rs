//! Where a connection comes from, and how it turns out to come from elsewhere.

use std::net::IpAddr;

use super::errand::{Halt, Halted};
use super::ledger::{Ledger, Phase};
use super::{Connection, Shared};
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
        let Shared { subnets, .. } = self.shared();
        let now = self.shared.read_clock();
        let from = self.ip(ledger).filter(|_| ledger.counted);
        let to = source.ip().filter(|_| ledger.direction == Direction::Inbound);
        let own = ledger.usage();
        let line = self.line(ledger);
        let is_allowlisted = line.is_allowlisted(source.ip());
        let observes = line.observes(Scope::Subnet);
        drop(line);
        if ledger.place.realm == Realm::Allowlisted {
            if is_allowlisted {
                return Ok(());
            }
            let entrance = to.map(|to| subnets.enter(to, now));
            let by_subnet = entrance.as_ref().and_then(|entrance| entrance.check().err());
            if let Some(refused) = by_subnet
                && !observes
            {
                return Err(Halt::Refused(refused));
            }
            let mut line = self.line(ledger);
            line.change_realm(Realm::Ordinary, &own, &Request::new(Tally::default()), self.id)
                .map_err(|shortfall| Halt::Refused(shortfall.refused))?;
            if let Some(refused) = by_subnet {
                line.count_observed(&refused);
            }
            ledger.place = line.place();
            drop(line);
            if let Some(entrance) = entrance {
                entrance.commit();
                ledger.counted = true;
            }
            return Ok(());
        }
        let Some(to) = to else {
            if let Some(from) = from {
                subnets.leave(from);
                ledger.counted = false;
            }
            return Ok(());
        };
        let enforcement = if observes { Enforcement::Observe } else { Enforcement::Enforce };
        match subnets.rebind(from, to, now, enforcement) {
            Ok(observed) => {
                ledger.counted = true;
                if let Some(refused) = observed {
                    self.shared.tree.count_observed(&refused);
                }
                Ok(())
            }
            Err(refused) => {
                let mut line = self.line(ledger);
                let none = Request::new(Tally::default());
                if !is_allowlisted
                    || line.change_realm(Realm::Allowlisted, &own, &none, self.id).is_err()
                {
                    return Err(Halt::Refused(refused));
                }
                ledger.place = line.place();
                drop(line);
                if let Some(from) = from {
                    subnets.leave(from);
                    ledger.counted = false;
                }
                Ok(())
            }
        }
    }
}
