//! The seam between the server and its memory: the one thing in which the two runs differ.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use bytes::{Buf, BufMut, Bytes};
use tokio::net::TcpStream;

use crate::plan::Refusals;
use crate::server::Hoard;

/// A listener of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Takes every client.
    Public,
    /// Is being phased out: a governor refuses every client here.
    Retired,
}

impl Door {
    /// The class of the connections that come in here.
    pub fn class(self) -> &'static str {
        match self {
            Door::Public => "public",
            Door::Retired => "retired",
        }
    }
}

/// Where a server's connections get their memory.
pub trait Backing: Send + Sync + 'static {
    /// One connection's share of it.
    type Connection: Connection;

    /// Lets a connection in, its memory first: of two variables the last is dropped first, and the
    /// socket has to go before its budget. One that is refused is closed when this returns.
    fn admit(
        &self,
        door: Door,
        remote: SocketAddr,
        socket: TcpStream,
    ) -> Option<(Self::Connection, TcpStream)>;

    /// Ends every connection that is still open.
    fn drain(&self, hoard: &Hoard<Self::Connection>);

    /// The totals so far.
    fn totals(&self) -> Totals;

    /// A closer look, for the end of a run.
    fn audit(&self) -> Audit;
}

/// One connection's memory, while the connection is served.
///
/// What leases is `#[track_caller]`, so that orphans are told by the line of the server they come
/// from, and not by a line of this seam.
pub trait Connection: Send + Sync + 'static {
    /// Goes into the hoard beside the buffers.
    type Handle: Handle;
    /// A buffer that doesn't outlive the connection.
    type Frame<'c>: Buf + BufMut + Send
    where
        Self: 'c;
    /// A buffer that may sit in the hoard for ever.
    type Kept: Kept;
    /// Memory that other code allocates.
    type Window: Send;

    /// What the server keeps to refer to the connection.
    fn handle(&self) -> Self::Handle;
    /// The peer has said who it is.
    fn bind_peer(&self, name: &[u8]) -> Result<(), Stop>;
    /// Sets memory aside that doesn't come from here.
    #[track_caller]
    fn reserve(&self, bytes: u64) -> Result<Self::Window, Stop>;
    /// A buffer for one frame.
    #[track_caller]
    fn lease(&self, len: usize) -> Result<Self::Frame<'_>, Stop>;
    /// A buffer to be kept.
    #[track_caller]
    fn lease_owned(&self, len: usize) -> Result<Self::Kept, Stop>;
    /// Called for each frame before its echo. Only a sabotage does anything here.
    fn on_frame(&self, _frame: &mut Self::Frame<'_>) {}
    /// Makes a frame something that may sit in the hoard.
    fn keep<'c>(&'c self, frame: Self::Frame<'c>) -> Self::Kept;
    /// Makes a frame something that can be shared.
    fn freeze<'c>(&'c self, frame: Self::Frame<'c>) -> Bytes;
    /// Does `work`, unless the connection is ended by [`Backing::drain`]: then `None`.
    fn until_revoked<F>(&self, work: F) -> impl Future<Output = Option<F::Output>> + Send
    where
        F: Future + Send,
        F::Output: Send;
}

/// Refers to a connection, and must not keep it alive.
pub trait Handle: Send + Sync + 'static {
    /// Whether it says that its connection is closed.
    fn is_closed(&self) -> bool;
}

/// A buffer in the hoard.
pub trait Kept: Send + 'static {
    /// Access to the bytes.
    type Pinned<'k>: Buf + BufMut + Send
    where
        Self: 'k;

    /// The bytes, unless they have been taken back.
    fn pin(&mut self) -> Result<Self::Pinned<'_>, Stop>;
}

/// Why the server stops serving a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It asked for more than its budget, and shall be told.
    Refused,
    /// It is over. How it ended is the remote side's business, not an error of the server.
    Over,
}

impl From<io::Error> for Stop {
    fn from(_: io::Error) -> Self {
        Stop::Over
    }
}

/// Bytes of buffers, so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Handed out.
    pub leased_bytes: u64,
    /// Given back.
    pub returned_bytes: u64,
    /// Handed out and not given back.
    pub outstanding_bytes: u64,
}

/// Buffers from one place in the code that are in use although their connection is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphans {
    /// File and line of the call that leased them.
    pub site: String,
    /// How many there are.
    pub count: u64,
    /// How large they are together.
    pub bytes: u64,
}

impl fmt::Display for Orphans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {} ({} bytes)", self.count, self.site, self.bytes)
    }
}

/// What is left when nothing should be.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// Orphans by the place they come from. `None` if they are not tracked.
    pub orphans: Option<Vec<Orphans>>,
    /// Refusals of the kinds in the plan.
    pub refusals: Refusals,
    /// Refusals of any other kind, a sentence each.
    pub unplanned_refusals: Vec<String>,
    /// Whatever is still charged to a scope or in use in the arena, a phrase each.
    pub leftovers: Vec<String>,
}
