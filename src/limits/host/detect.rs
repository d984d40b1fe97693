//! What the operating system allows this process.

use std::io;

use super::Host;

/// File descriptors where the system sets no limit: what Linux allows a process at most, unless
/// told otherwise.
const UNLIMITED_FDS: u64 = 1 << 20;

impl Host {
    /// What this process may use, as of now.
    ///
    /// *Memory* is the smallest of what the machine has and what any control group allows that the
    /// process is in, directly or through an ancestor: `memory.max` and `memory.high` of cgroup v2,
    /// `memory.limit_in_bytes` of v1. `memory.high` counts because the kernel slows a process down
    /// to a crawl above it, long before it would be killed. Swap does not count. A control group
    /// whose files are missing, unreadable or garbage sets no limit; so does one that a container
    /// hides.
    ///
    /// *File descriptors* are the soft limit (`ulimit -n`). Where there is none, or the system
    /// knows no such limit, as Windows, they are 1,048,576.
    ///
    /// ```
    /// use leasehold::{Governor, Host, NodeType};
    ///
    /// let governor = Governor::new(NodeType::Full.limits(&Host::detect()?))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the system does not tell how much memory there is.
    pub fn detect() -> io::Result<Self> {
        Ok(Self::new(memory()?, fds()))
    }

    /// The memory that control groups leave this process, with the files of the system found below
    /// another root. For tests.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[doc(hidden)]
    pub fn memory_of_cgroups(root: &std::path::Path) -> Option<u64> {
        super::cgroup::Cgroups::under(root).memory()
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn memory() -> io::Result<u64> {
    let of_cgroups = super::cgroup::Cgroups::under("/".as_ref()).memory();
    Ok(physical_memory().min(of_cgroups.unwrap_or(u64::MAX)))
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(clippy::useless_conversion, reason = "the fields are narrower on 32-bit systems")]
fn physical_memory() -> u64 {
    let info = rustix::system::sysinfo();
    u64::from(info.totalram).saturating_mul(info.mem_unit.into())
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn memory() -> io::Result<u64> {
    let mut system = sysinfo::System::new();
    system.refresh_memory_specifics(sysinfo::MemoryRefreshKind::nothing().with_ram());
    match system.total_memory() {
        // Its way of saying that it does not know.
        0 => Err(io::Error::new(io::ErrorKind::Unsupported, "the system does not tell its memory")),
        bytes => Ok(bytes),
    }
}

#[cfg(unix)]
fn fds() -> u64 {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Nofile).current.unwrap_or(UNLIMITED_FDS)
}

#[cfg(not(unix))]
fn fds() -> u64 {
    UNLIMITED_FDS
}
