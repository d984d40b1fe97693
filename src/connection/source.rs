//! Where a connection comes from, and how it turns out to come from elsewhere.

use std::net::IpAddr;
use std::time::Duration;

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
        // The clock may run anyone's code, so it is read before any lock is had.
        let now = self.shared.read_clock();
        let moved = self.shared.run(|| {
            let mut guard = self.ledger.lock();
            let ledger = &mut *guard;
            if ledger.phase != Phase::Open {
                return Err(Halt::Closed);
            }
            self.move_source(ledger, &source, now)?;
            self.set_source(ledger, &source);
            Ok(())
        });
        moved.map_err(|halted| match halted {
            Halted::Refused(refused) => BindError::Refused(refused),
            Halted::Closed => BindError::Closed,
        })
    }

    /// Counts the connection at its new address. Who is allow-listed is not counted, but is tried
    /// among the ordinary first; who is not any longer goes back to them, or is refused.
    fn move_source(&self, ledger: &mut Ledger, source: &Source, now: Duration) -> Result<(), Halt> {
        let to = source.ip().filter(|_| ledger.direction == Direction::Inbound);
        let line = self.line(ledger);
        let is_allowlisted = line.is_allowlisted(source.ip());
        let enforcement = match line.observes(Scope::Subnet) {
            true => Enforcement::Observe,
            false => Enforcement::Enforce,
        };
        drop(line);
        let nothing_more = Request::new(Tally::default());
        let realm = ledger.place.realm;
        if realm == Realm::Allowlisted && is_allowlisted {
            return Ok(());
        }
        let goes_back = realm == Realm::Allowlisted;
        let Some(to) = to else {
            if goes_back {
                self.enter_realm(ledger, Realm::Ordinary, &nothing_more)?;
            }
            self.uncount(ledger);
            return Ok(());
        };
        let from = self.ip(ledger).filter(|_| ledger.counted);
        let moved = self.shared.subnets.rebind(from, to, now, enforcement, || match goes_back {
            true => self.enter_realm(ledger, Realm::Ordinary, &nothing_more),
            false => Ok(()),
        });
        match moved {
            Ok(observed) => {
                ledger.counted = true;
                if let Some(refused) = observed {
                    self.shared.tree.count_observed(&refused);
                }
                Ok(())
            }
            Err(Halt::Refused(refused)) if is_allowlisted => {
                match self.enter_realm(ledger, Realm::Allowlisted, &nothing_more) {
                    Err(Halt::Refused(_)) => Err(Halt::Refused(refused)),
                    moved => moved,
                }
            }
            Err(halt) => Err(halt),
        }
    }

    /// The address that the connection had counts it no longer.
    pub(super) fn uncount(&self, ledger: &mut Ledger) {
        if std::mem::take(&mut ledger.counted)
            && let Some(from) = self.ip(ledger)
        {
            self.shared.subnets.leave(from);
        }
    }

    /// Notes where the connection comes from: in the record, if it has a place for it.
    fn set_source(&self, ledger: &mut Ledger, source: &Source) {
        let fits = self.remote.set(source);
        ledger.set_source((!fits).then(|| source.clone()));
    }
}
