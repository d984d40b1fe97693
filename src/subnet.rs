//! Stub, to be replaced.
use crate::error::Refused;
use crate::limits::SubnetLimits;
use std::net::IpAddr;
use std::time::Duration;
pub(crate) struct Subnets;
pub(crate) enum Enforcement {
    Enforce,
    Observe,
}
pub(crate) struct Entrance<'a>(&'a Subnets);
impl Subnets {
    pub(crate) fn new(_: &SubnetLimits) -> Self {
        Self
    }
    pub(crate) fn enter(&self, _: IpAddr, _: Duration) -> Entrance<'_> {
        Entrance(self)
    }
    pub(crate) fn leave(&self, _: IpAddr) {}
    pub(crate) fn set_limits(&self, _: &SubnetLimits, along: impl FnOnce()) {
        along()
    }
    pub(crate) fn should_validate(&self, _: IpAddr, _: Duration) -> bool {
        false
    }
    pub(crate) fn rebind(
        &self,
        _: Option<IpAddr>,
        _: IpAddr,
        _: Duration,
        _: Enforcement,
    ) -> Result<Option<Refused>, Refused> {
        Ok(None)
    }
    pub(crate) fn maintain(&self, _: Duration) {}
    pub(crate) fn memory_bytes(&self) -> usize {
        0
    }
}
impl Entrance<'_> {
    pub(crate) fn check(&self) -> Result<(), Refused> {
        Ok(())
    }
    pub(crate) fn commit(self) {}
}
