//! An echo server that never lets go of a connection's object, generic over its memory.
//!
//! It reads a frame, writes it back, and goes on. Of each connection it keeps the last frame it
//! read and the last reply it wrote, as servers that reuse their buffers do; the first frame goes
//! to an audit log, frozen. What is wrong with it is one line in [`accept`]: the push into the
//! hoard.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Mutex as AsyncMutex, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::backing::{Backing, Connection, Door, Handle, Kept, Stop};
use crate::budget::{AUDIT_QUEUE_FRAMES, PATIENCE};
use crate::wire::{self, LENGTH_BYTES, Opening, REFUSED, WELCOME};

/// Both socket buffers: small, so that a client that never reads stalls the server after
/// kilobytes, and not after megabytes.
const SOCKET_BUFFER_BYTES: u32 = 64 << 10;

/// Every connection's object that there ever was.
pub type Hoard<C> = Mutex<Vec<Arc<Session<C>>>>;

/// The server's object of one connection. It stays in the hoard when the connection has gone.
pub struct Session<C: Connection> {
    /// Refers to the connection.
    pub handle: C::Handle,
    last_frame: Mutex<Option<C::Kept>>,
    last_reply: AsyncMutex<Option<C::Kept>>,
}

impl<C: Connection> Session<C> {
    fn new(handle: C::Handle) -> Self {
        Self { handle, last_frame: Mutex::default(), last_reply: AsyncMutex::default() }
    }
}

/// A running server.
pub struct Server<B: Backing> {
    shared: Arc<Shared<B>>,
    tally: watch::Receiver<Tally>,
    public: Listener,
    retired: Listener,
    audit_log: JoinHandle<u64>,
}

struct Shared<B: Backing> {
    backing: B,
    hoard: Hoard<B::Connection>,
    tally: watch::Sender<Tally>,
}

struct Listener {
    address: SocketAddr,
    task: JoinHandle<io::Error>,
}

/// Connections, counted by the server itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Taken from a listener, admitted or not.
    pub accepted: u64,
    /// Being served.
    pub in_service: u64,
    /// Ended by [`Server::drain`].
    pub revoked: u64,
}

/// What the hoard holds when all clients have gone.
#[derive(Clone, Copy, Debug, Default)]
pub struct HoardReport {
    /// Objects of connections.
    pub objects: u64,
    /// Handles that do not say that their connection is closed.
    pub open_handles: u64,
    /// Buffers.
    pub buffers: u64,
    /// Buffers whose bytes can still be had.
    pub readable_buffers: u64,
}

impl<B: Backing> Server<B> {
    /// Listens on two ports of the loopback interface. `backlog` connections may wait there.
    pub fn start(backing: B, backlog: u32) -> io::Result<Self> {
        let (tally, tally_receiver) = watch::channel(Tally::default());
        let shared = Arc::new(Shared { backing, hoard: Hoard::default(), tally });
        let (log, frames) = mpsc::channel(AUDIT_QUEUE_FRAMES);
        let open = |door| -> io::Result<Listener> {
            let listener = listen(backlog)?;
            let address = listener.local_addr()?;
            let task = tokio::spawn(accept(shared.clone(), listener, door, log.clone()));
            Ok(Listener { address, task })
        };
        Ok(Self {
            public: open(Door::Public)?,
            retired: open(Door::Retired)?,
            tally: tally_receiver,
            audit_log: tokio::spawn(keep_audit_log(frames)),
            shared,
        })
    }

    /// Where clients connect to.
    pub fn address(&self, door: Door) -> SocketAddr {
        match door {
            Door::Public => self.public.address,
            Door::Retired => self.retired.address,
        }
    }

    /// The memory behind the server.
    pub fn backing(&self) -> &B {
        &self.shared.backing
    }

    /// The counts so far.
    pub fn tally(&self) -> Tally {
        *self.tally.borrow()
    }

    /// Waits until `connections` have been accepted since the start.
    pub async fn accepted(&self, connections: u64) {
        self.wait_for(|tally| tally.accepted >= connections).await;
    }

    /// Waits until no connection is served any more.
    pub async fn idle(&self) {
        self.wait_for(|tally| tally.in_service == 0).await;
    }

    async fn wait_for(&self, condition: impl FnMut(&Tally) -> bool) {
        let outcome = self.tally.clone().wait_for(condition).await.map(|_| ());
        outcome.expect("the sender lives as long as the server");
    }

    /// Ends every connection that is still open.
    pub fn drain(&self) {
        self.shared.backing.drain(&self.shared.hoard);
    }

    /// Stops listening, and waits for the audit log. The hoard stays.
    pub async fn stop(self) -> Stopped<B> {
        let mut listener_errors = Vec::new();
        for listener in [self.public, self.retired] {
            listener.task.abort();
            // The loop holds a sender of the audit log, which ends with the last of them.
            if let Ok(error) = listener.task.await {
                listener_errors.push(format!("the server stopped listening: {error}"));
            }
        }
        // It ends with the last connection; one that never ends is reported elsewhere.
        let audited = timeout(PATIENCE, self.audit_log).await;
        let audited_bytes = audited.ok().and_then(Result::ok).unwrap_or(0);
        Stopped { shared: self.shared, listener_errors, audited_bytes }
    }
}

/// A server that serves no client any more, and still has its hoard.
pub struct Stopped<B: Backing> {
    shared: Arc<Shared<B>>,
    /// Why a listener ended before its time.
    pub listener_errors: Vec<String>,
    /// How many bytes went through the audit log.
    pub audited_bytes: u64,
}

impl<B: Backing> Stopped<B> {
    /// The memory behind the server.
    pub fn backing(&self) -> &B {
        &self.shared.backing
    }

    /// Tries every handle and every buffer in the hoard.
    pub fn inspect_hoard(&self) -> HoardReport {
        let mut report = HoardReport::default();
        for session in self.shared.hoard.lock().iter() {
            report.objects += 1;
            report.open_handles += u64::from(!session.handle.is_closed());
            let mut frame = session.last_frame.lock();
            let mut reply = session.last_reply.try_lock().ok();
            let reply = reply.as_mut().and_then(|reply| reply.as_mut());
            for kept in frame.iter_mut().chain(reply) {
                report.buffers += 1;
                report.readable_buffers += u64::from(kept.pin().is_ok());
            }
        }
        report
    }
}

fn listen(backlog: u32) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    // Sockets that are accepted inherit both.
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    socket.listen(backlog)
}

/// Takes in every client of one listener. Ends only with an error of the listener itself.
async fn accept<B: Backing>(
    shared: Arc<Shared<B>>,
    listener: TcpListener,
    door: Door,
    log: mpsc::Sender<Bytes>,
) -> io::Error {
    loop {
        let (socket, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if wire::is_cut(&error) => continue,
            Err(error) => return error,
        };
        // A refusal is an event, never an error that ends the loop.
        let admitted = shared.backing.admit(door, remote, socket);
        let session = admitted.map(|(connection, socket)| {
            let session = Arc::new(Session::new(connection.handle()));
            // The mistake: nothing ever takes it out again.
            shared.hoard.lock().push(session.clone());
            (connection, socket, session)
        });
        shared.tally.send_modify(|tally| {
            tally.accepted += 1;
            tally.in_service += u64::from(session.is_some());
        });
        if let Some((connection, socket, session)) = session {
            tokio::spawn(serve(shared.clone(), connection, socket, session, log.clone()));
        }
    }
}

/// Serves one connection to its end, which either side may bring about.
async fn serve<B: Backing>(
    shared: Arc<Shared<B>>,
    connection: B::Connection,
    mut socket: TcpStream,
    session: Arc<Session<B::Connection>>,
    log: mpsc::Sender<Bytes>,
) {
    let work = converse_or_refuse(&connection, &session, &mut socket, &log);
    let finished = connection.until_revoked(work).await;
    // The work may be the first to notice: what it asks for next is refused.
    let revoked = finished.is_none() || session.handle.is_closed();
    // The socket first: a connection is counted until it is really gone.
    drop(socket);
    drop(connection);
    shared.tally.send_modify(|tally| {
        tally.in_service -= 1;
        tally.revoked += u64::from(revoked);
    });
}

async fn converse_or_refuse<C: Connection>(
    connection: &C,
    session: &Session<C>,
    socket: &mut TcpStream,
    log: &mpsc::Sender<Bytes>,
) {
    let Err(stop) = converse(connection, session, socket, log).await;
    if stop == Stop::Refused {
        // Whether it hears the answer is up to the client.
        let _told = refuse(socket).await;
    }
}

/// Tells the client, and waits for it to leave.
async fn refuse(socket: &mut TcpStream) -> io::Result<()> {
    socket.write_u32(REFUSED).await?;
    socket.shutdown().await?;
    wire::discard(socket).await
}

/// The opening, then frames for as long as the client sends any.
async fn converse<C: Connection>(
    connection: &C,
    session: &Session<C>,
    socket: &mut TcpStream,
    log: &mpsc::Sender<Bytes>,
) -> Result<Infallible, Stop> {
    socket.set_nodelay(true)?;
    let _window = introduce(connection, socket).await?;
    socket.write_u32(WELCOME).await?;

    let first = echo(connection, session, socket).await?;
    // The log may be slow, and the frame may outlive the connection there.
    let _stopping = log.send(connection.freeze(first)).await;
    loop {
        let frame = echo(connection, session, socket).await?;
        *session.last_frame.lock() = Some(connection.keep(frame));
    }
}

/// Learns who the client is, and sets aside the window it wants.
async fn introduce<C: Connection>(
    connection: &C,
    socket: &mut TcpStream,
) -> Result<Option<C::Window>, Stop> {
    let opening = Opening::receive(socket).await?;
    let name_len = usize::from(opening.name_len);
    let mut name = connection.lease(name_len)?;
    wire::read_into(socket, &mut name, name_len).await?;
    connection.bind_peer(name.chunk())?;

    let window_bytes = u64::from(opening.window_bytes);
    (window_bytes > 0).then(|| connection.reserve(window_bytes)).transpose()
}

/// Reads one frame and sends it back.
async fn echo<'c, C: Connection>(
    connection: &'c C,
    session: &Session<C>,
    socket: &mut TcpStream,
) -> Result<C::Frame<'c>, Stop> {
    let len = socket.read_u32().await?;
    // Only now, so that a connection that waits for its client holds no buffer for it.
    let mut frame = connection.lease(len as usize)?;
    wire::read_into(socket, &mut frame, len as usize).await?;
    connection.on_frame(&mut frame);

    let mut kept = session.last_reply.lock().await;
    let mut reply = kept.insert(connection.lease_owned(LENGTH_BYTES + len as usize)?).pin()?;
    reply.put_u32(len);
    reply.put_slice(frame.chunk());
    socket.write_all_buf(&mut reply).await?;
    drop(reply);
    Ok(frame)
}

/// Takes note of frames and lets them go. Returns how many bytes there were.
async fn keep_audit_log(mut frames: mpsc::Receiver<Bytes>) -> u64 {
    let mut bytes = 0;
    while let Some(frame) = frames.recv().await {
        bytes += frame.len() as u64;
    }
    bytes
}
