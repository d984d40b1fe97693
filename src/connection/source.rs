//! Where a connection comes from, and how it turns out to come from elsewhere.

use std::net::IpAddr;
use std::time::Duration;

use super::errand::Halt;
use super::ledger::Ledger;
use super::{Above, Connection};
use crate::error::BindError;
use crate::name::{Direction, Source};
use crate::scope::{Realm, Unmet};

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
        self.shared.run(|| {
            let mut guard = self.lock_open()?;
            let ledger = &mut *guard;
            self.move_source(ledger, &source, now)?;
            self.set_source(ledger, &source);
            Ok(())
        })?;
        Ok(())
    }

    /// Counts the connection at its new address. Who is allow-listed is not counted, but is tried
    /// among the ordinary first; who is not any longer goes back to them, or is refused.
    fn move_source(&self, ledger: &mut Ledger, source: &Source, now: Duration) -> Result<(), Halt> {
        let address = |ip| self.shared.tree.address(ip);
        let from = self.ip(ledger).filter(|_| ledger.counted).map(address);
        let to = source.ip().filter(|_| ledger.direction == Direction::Inbound).map(address);
        let mut line = self.line(ledger);
        let is_allowlisted = line.is_allowlisted(source.ip());
        let goes_back = ledger.place.realm == Realm::Allowlisted;
        if goes_back && is_allowlisted {
            return Ok(());
        }
        if let Some(from) = from {
            line.subnets().leave(from);
        }
        let visit = to.map(|to| line.subnets().visit(to, now));
        let mut moved = line.allow_visit(visit.as_ref());
        if moved.is_ok() && goes_back {
            moved = self.move_to(Realm::Ordinary, ledger, &mut line);
        }
        let Err(unmet) = moved else {
            let retired = visit.map(|visit| line.admit_visit(&visit));
            ledger.counted = retired.is_some();
            drop(line);
            drop(retired);
            return Ok(());
        };
        // Nobody has seen it gone: the lock was held.
        if let Some(from) = from {
            line.subnets().stay(from);
        }
        match unmet {
            Unmet::Refused(refused) if is_allowlisted => self
                .move_to(Realm::Allowlisted, ledger, &mut line)
                .map_err(|unmet| unmet.instead(refused).into()),
            unmet => Err(unmet.into()),
        }
    }

    /// The address that the connection had counts it no longer.
    pub(super) fn uncount(&self, ledger: &mut Ledger, line: &mut Above<'_>) {
        if std::mem::take(&mut ledger.counted)
            && let Some(from) = self.ip(ledger)
        {
            line.subnets().leave(self.shared.tree.address(from));
        }
    }

    /// Notes where the connection comes from: in the record, if it has a place for it.
    fn set_source(&self, ledger: &mut Ledger, source: &Source) {
        let fits = self.remote.set(source);
        ledger.set_source((!fits).then(|| source.clone()));
    }
}
