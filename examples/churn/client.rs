//! The clients: each peer does what the plan says, and checks every byte that comes back.
//!
//! Nothing here waits for time to pass. A step ends with an answer of the server; a step that goes
//! on for [`PATIENCE`] is a failure of the whole run.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::backing::Door;
use crate::budget::{
    CONNECTION_BYTES, MAX_FRAME_BYTES, MAX_WINDOW_BYTES, PATIENCE, PEER_CONNECTIONS,
};
use crate::plan::{Conduct, Refusal, Refusals, Visit};
use crate::wire::{self, LENGTH_BYTES, Opening, Payload, REFUSED, WELCOME};

/// How long a client that lingers waits for the others of its wave, whose steps may all be late.
const LINGERING_PATIENCE: Duration = Duration::from_secs(60);

/// The most frames a client sends without reading. With [`MAX_FRAME_BYTES`] their echoes fit into
/// the socket's buffers, so that neither side waits for the other.
const MAX_FRAMES: u32 = 6;

/// Both socket buffers of a client that never reads, so that it stalls after kilobytes.
const SMALL_BUFFER_BYTES: u32 = 16 << 10;

/// What a peer saw in its visit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Connections of a well-behaved peer that were served to the end.
    pub served: u64,
    /// Bytes that came back, each of them the right one.
    pub verified_bytes: u64,
    /// What it was refused.
    pub refusals: Refusals,
}

/// Held by each peer that has something left to do. A wave is complete when none is held.
#[derive(Clone)]
pub struct Busy {
    _until_dropped: mpsc::Sender<Infallible>,
}

impl Busy {
    /// The first token of a wave, and the channel that ends when the last one is dropped.
    pub fn new() -> (Self, mpsc::Receiver<Infallible>) {
        let (sender, receiver) = mpsc::channel(1);
        (Self { _until_dropped: sender }, receiver)
    }
}

/// Where the server is, and where its peers come from.
#[derive(Debug)]
pub struct Network {
    public: SocketAddr,
    retired: SocketAddr,
    /// Linux owns all of 127.0.0.0/8; elsewhere there may be 127.0.0.1 alone, and a peer is told
    /// by its name only.
    many_sources: bool,
    opened: AtomicU64,
}

impl Network {
    /// The network of a server that listens on these two addresses.
    pub fn new(public: SocketAddr, retired: SocketAddr) -> Self {
        let many_sources = TcpListener::bind((address_of(0), 0)).is_ok();
        Self { public, retired, many_sources, opened: AtomicU64::new(0) }
    }

    /// How many connections have been opened so far.
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    async fn connect(
        &self,
        peer: u32,
        door: Door,
        buffer_bytes: Option<u32>,
    ) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if self.many_sources {
            socket.bind((address_of(peer), 0).into())?;
        }
        if let Some(bytes) = buffer_bytes {
            socket.set_recv_buffer_size(bytes)?;
            socket.set_send_buffer_size(bytes)?;
        }
        let address = match door {
            Door::Public => self.public,
            Door::Retired => self.retired,
        };
        let stream = patiently("the connection", socket.connect(address)).await?;
        self.opened.fetch_add(1, Ordering::Relaxed);
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// The address a peer comes from, which is also its name.
fn address_of(peer: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 1).to_bits() + peer)
}

/// Does one visit. The error is a sentence about what went wrong.
pub async fn visit(network: &Network, visit: Visit, busy: Busy) -> Result<Seen, String> {
    let rng = Rng::with_seed(visit.seed);
    let mut peer = Peer { network, visit, rng, seen: Seen::default() };
    match peer.visit(busy).await {
        Ok(()) => Ok(peer.seen),
        Err(error) => {
            Err(format!("peer {}, which {}: {error}", address_of(visit.peer), visit.conduct))
        }
    }
}

/// One peer during its visit.
struct Peer<'n> {
    network: &'n Network,
    visit: Visit,
    rng: Rng,
    seen: Seen,
}

impl Peer<'_> {
    async fn visit(&mut self, busy: Busy) -> io::Result<()> {
        match self.visit.conduct {
            Conduct::Behaves { connections } => self.behave(connections).await,
            Conduct::Resets => self.reset().await,
            Conduct::HalfCloses => self.half_close().await,
            Conduct::Crowds => self.crowd().await,
            Conduct::KnocksOnRetired => self.knock_on_retired().await,
            Conduct::SendsHugeFrame => self.send_huge_frame().await,
            Conduct::WantsHugeWindow => self.want_huge_window().await,
            Conduct::NeverReads => self.never_read(busy).await,
            Conduct::FallsSilent => self.fall_silent(busy).await,
            Conduct::NeverSpeaks => self.never_speak(busy).await,
        }
    }

    async fn behave(&mut self, connections: u32) -> io::Result<()> {
        for conversation in self.hold(connections).await? {
            self.finish(conversation).await?;
            self.seen.served += 1;
        }
        Ok(())
    }

    async fn reset(&mut self) -> io::Result<()> {
        let mut conversation = self.welcome().await?;
        self.talk(&mut conversation).await?;
        conversation.send_half_a_frame(&mut self.rng).await?;
        conversation.socket.set_zero_linger()
    }

    async fn half_close(&mut self) -> io::Result<()> {
        let mut conversation = self.welcome().await?;
        let mut payloads = Vec::new();
        for _ in 0..self.rng.u32(1..=MAX_FRAMES) {
            let len = self.frame_len();
            payloads.push((conversation.send(self.rng.u64(..), len).await?, len));
        }
        conversation.send_half_a_frame(&mut self.rng).await?;
        conversation.socket.shutdown().await?;
        for (payload, len) in payloads {
            conversation.receive_echo(payload, len).await?;
            self.seen.verified_bytes += len as u64;
        }
        conversation.until_closed(PATIENCE).await
    }

    /// Each of the connections that fit is known to be open when the last one comes.
    async fn crowd(&mut self) -> io::Result<()> {
        let held = self.hold(PEER_CONNECTIONS).await?;
        match self.open(Door::Public, 0).await? {
            Opened::Welcome(one_more) => self.finish(one_more).await?,
            Opened::Refused => self.seen.refusals.add(Refusal::CrowdedPeer, 1),
            Opened::Closed => return Err(unexpected("closed without an answer")),
        }
        for conversation in held {
            self.talk_and_finish(conversation).await?;
        }
        Ok(())
    }

    async fn knock_on_retired(&mut self) -> io::Result<()> {
        match self.open(Door::Retired, 0).await? {
            Opened::Welcome(conversation) => self.talk_and_finish(conversation).await,
            Opened::Refused => Err(unexpected("let in and refused later")),
            Opened::Closed => {
                self.seen.refusals.add(Refusal::RetiredClass, 1);
                Ok(())
            }
        }
    }

    async fn send_huge_frame(&mut self) -> io::Result<()> {
        let mut conversation = self.welcome().await?;
        self.talk(&mut conversation).await?;
        let len = CONNECTION_BYTES as usize + self.frame_len();
        match conversation.exchange(self.rng.u64(..), len).await? {
            Answer::Echo => {
                self.seen.verified_bytes += len as u64;
                self.finish(conversation).await
            }
            Answer::Refused => {
                self.seen.refusals.add(Refusal::HugeRequest, 1);
                Ok(())
            }
        }
    }

    async fn want_huge_window(&mut self) -> io::Result<()> {
        let window_bytes = CONNECTION_BYTES as u32 + self.rng.u32(1..=MAX_WINDOW_BYTES);
        match self.open(Door::Public, window_bytes).await? {
            Opened::Welcome(conversation) => self.talk_and_finish(conversation).await,
            Opened::Refused => {
                self.seen.refusals.add(Refusal::HugeRequest, 1);
                Ok(())
            }
            Opened::Closed => Err(unexpected("closed without an answer")),
        }
    }

    /// The server's write stalls when the buffers between the two are full, and so does this one.
    async fn never_read(&mut self, busy: Busy) -> io::Result<()> {
        let socket = self.connect(Door::Public, Some(SMALL_BUFFER_BYTES)).await?;
        let Opened::Welcome(mut conversation) = self.introduce(socket, 0).await? else {
            return Err(unexpected("not let in"));
        };
        drop(busy);
        let flood = self.flood(&mut conversation);
        match within(LINGERING_PATIENCE, "the server to end it", flood).await {
            Ok(never) => match never {},
            Err(error) if wire::is_cut(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn fall_silent(&mut self, busy: Busy) -> io::Result<()> {
        let mut conversation = self.welcome().await?;
        drop(busy);
        conversation.until_closed(LINGERING_PATIENCE).await
    }

    async fn never_speak(&mut self, busy: Busy) -> io::Result<()> {
        let socket = self.connect(Door::Public, None).await?;
        drop(busy);
        Conversation::new(socket).until_closed(LINGERING_PATIENCE).await
    }

    /// Sends frames until that fails.
    async fn flood(&mut self, conversation: &mut Conversation) -> io::Result<Infallible> {
        loop {
            let len = self.frame_len();
            conversation.send_without_patience(self.rng.u64(..), len).await?;
        }
    }

    /// Opens some connections and talks on each, so that all are known to be served at once.
    async fn hold(&mut self, connections: u32) -> io::Result<Vec<Conversation>> {
        let mut held = Vec::new();
        for _ in 0..connections {
            held.push(self.welcome().await?);
        }
        for conversation in &mut held {
            self.talk(conversation).await?;
        }
        Ok(held)
    }

    /// Opens a connection that there is room for. One in four wants a window.
    async fn welcome(&mut self) -> io::Result<Conversation> {
        let wants_window = self.rng.u32(..4) == 0;
        let window_bytes = if wants_window { self.rng.u32(1..=MAX_WINDOW_BYTES) } else { 0 };
        match self.open(Door::Public, window_bytes).await? {
            Opened::Welcome(conversation) => Ok(conversation),
            Opened::Refused => Err(unexpected("refused within its budget")),
            Opened::Closed => Err(unexpected("closed without an answer")),
        }
    }

    async fn open(&mut self, door: Door, window_bytes: u32) -> io::Result<Opened> {
        let socket = self.connect(door, None).await?;
        self.introduce(socket, window_bytes).await
    }

    async fn connect(&self, door: Door, buffer_bytes: Option<u32>) -> io::Result<TcpStream> {
        self.network.connect(self.visit.peer, door, buffer_bytes).await
    }

    async fn introduce(&self, mut socket: TcpStream, window_bytes: u32) -> io::Result<Opened> {
        let name = address_of(self.visit.peer).to_string();
        let answer = async {
            Opening::send(&mut socket, window_bytes, &name).await?;
            socket.read_u32().await
        };
        match patiently("an answer to the opening", answer).await {
            Ok(WELCOME) => Ok(Opened::Welcome(Conversation::new(socket))),
            Ok(REFUSED) => Ok(Opened::Refused),
            Ok(other) => Err(unexpected(format!("an opening answered with {other}"))),
            Err(error) if wire::is_cut(&error) => Ok(Opened::Closed),
            Err(error) => Err(error),
        }
    }

    /// Exchanges a few frames that fit.
    async fn talk(&mut self, conversation: &mut Conversation) -> io::Result<()> {
        for _ in 0..self.rng.u32(1..=MAX_FRAMES) {
            let len = self.frame_len();
            match conversation.exchange(self.rng.u64(..), len).await? {
                Answer::Echo => self.seen.verified_bytes += len as u64,
                Answer::Refused => return Err(unexpected("a frame refused within its budget")),
            }
        }
        Ok(())
    }

    async fn talk_and_finish(&mut self, mut conversation: Conversation) -> io::Result<()> {
        self.talk(&mut conversation).await?;
        self.finish(conversation).await
    }

    async fn finish(&self, mut conversation: Conversation) -> io::Result<()> {
        conversation.socket.shutdown().await?;
        conversation.until_closed(PATIENCE).await
    }

    fn frame_len(&mut self) -> usize {
        self.rng.usize(1..=MAX_FRAME_BYTES)
    }
}

/// What comes of an opening.
enum Opened {
    Welcome(Conversation),
    Refused,
    /// The server closed the connection without a word.
    Closed,
}

/// What comes of a frame.
enum Answer {
    Echo,
    Refused,
}

/// A connection that is past its opening.
struct Conversation {
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Conversation {
    fn new(socket: TcpStream) -> Self {
        Self { socket, buffer: Vec::new() }
    }

    async fn exchange(&mut self, seed: u64, len: usize) -> io::Result<Answer> {
        let payload = self.send(seed, len).await?;
        self.receive(payload, len).await
    }

    async fn send(&mut self, seed: u64, len: usize) -> io::Result<Payload> {
        patiently("room for a frame", self.send_without_patience(seed, len)).await
    }

    async fn send_without_patience(&mut self, seed: u64, len: usize) -> io::Result<Payload> {
        let payload = self.prepare(seed, len);
        self.socket.write_all(&self.buffer).await?;
        Ok(payload)
    }

    async fn send_half_a_frame(&mut self, rng: &mut Rng) -> io::Result<()> {
        self.prepare(rng.u64(..), rng.usize(2..=MAX_FRAME_BYTES));
        let half = LENGTH_BYTES + (self.buffer.len() - LENGTH_BYTES) / 2;
        let write = self.socket.write_all(&self.buffer[..half]);
        patiently("room for half a frame", write).await
    }

    /// Puts a whole frame into the buffer.
    fn prepare(&mut self, seed: u64, len: usize) -> Payload {
        let payload = Payload::new(seed);
        self.buffer.resize(LENGTH_BYTES + len, 0);
        let (length, bytes) = self.buffer.split_at_mut(LENGTH_BYTES);
        length.copy_from_slice(&(len as u32).to_be_bytes());
        payload.fill(bytes);
        payload
    }

    async fn receive_echo(&mut self, payload: Payload, len: usize) -> io::Result<()> {
        match self.receive(payload, len).await? {
            Answer::Echo => Ok(()),
            Answer::Refused => Err(unexpected("a frame refused within its budget")),
        }
    }

    async fn receive(&mut self, payload: Payload, len: usize) -> io::Result<Answer> {
        let answer = patiently("the answer to a frame", self.socket.read_u32()).await?;
        if answer == REFUSED {
            return Ok(Answer::Refused);
        }
        if answer as usize != len {
            return Err(unexpected(format!("a frame of {len} bytes came back as {answer}")));
        }
        self.buffer.resize(len, 0);
        patiently("the echo", self.socket.read_exact(&mut self.buffer)).await?;
        match payload.verify(&self.buffer) {
            Ok(()) => Ok(Answer::Echo),
            Err(at) => Err(unexpected(format!("byte {at} of {len} came back wrong"))),
        }
    }

    /// Waits until the server closes, and accepts nothing else from it.
    async fn until_closed(&mut self, patience: Duration) -> io::Result<()> {
        match within(patience, "the server to close", self.socket.read_u8()).await {
            Ok(byte) => Err(unexpected(format!("byte {byte}, which the client did not ask for"))),
            Err(error) if wire::is_cut(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

async fn patiently<T>(what: &str, step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    within(PATIENCE, what, step).await
}

async fn within<T>(
    patience: Duration,
    what: &str,
    step: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    match timeout(patience, step).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(io::Error::new(error.kind(), format!("{what}: {error}"))),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("waited {} s for {what}", patience.as_secs()),
        )),
    }
}

fn unexpected(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}
