//! The governed server: it learns a client's name, then sends back each frame that it is sent.
//!
//! A client sends one byte with the length of its name, and the name; then frames, each with its
//! length in four bytes before it.

use std::error::Error;
use std::time::Duration;

use leasehold::{ConnectionGuard, Direction, Governed, Governor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

/// How long a client may take to say its name.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// What each client may have in flight, beside its frames: set aside for as long as it is connected.
const WINDOW_BYTES: u64 = 256 << 10;

/// Frames from this length on are of another class.
const BULK_BYTES: usize = 16 << 10;

/// How long a listener waits when it could not accept: mostly because all descriptors are in use.
pub(crate) const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

pub(crate) async fn serve(listener: TcpListener, governor: Governor) {
    loop {
        let Ok((socket, remote)) = listener.accept().await else {
            sleep(OUT_OF_DESCRIPTORS).await;
            continue;
        };
        let admission = governor.inbound().remote(remote).class("echo");
        // The governor counts what it refuses, and the socket is closed.
        if let Ok(socket) = admission.try_govern(socket) {
            tokio::spawn(echo(socket));
        }
    }
}

async fn echo(mut socket: Governed<TcpStream>) {
    let (socket, guard) = socket.split_mut();
    // An end of any kind is the end of the connection: its client gone, refused or too slow.
    let _ended = guard.handle().until_revoked(converse(socket, guard)).await;
}

async fn converse(
    socket: &mut TcpStream,
    guard: &ConnectionGuard,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let connection = guard.handle();
    timeout(HANDSHAKE, introduce(socket, guard)).await??;
    let _window = connection.try_reserve(WINDOW_BYTES)?;
    let mut last = None;
    loop {
        let len = socket.read_u32().await? as usize;
        let stream = connection.try_open_stream(Direction::Inbound)?;
        stream.bind_class(if len < BULK_BYTES { "chat" } else { "bulk" })?;
        let mut frame = stream.try_lease_owned(len)?.into_pinned()?;
        socket.read_exact(frame.initialize(len)).await?;
        socket.write_all(&frame).await?;
        // As servers do that reuse their buffers. It is taken back when the connection ends.
        last.replace(frame.into_owned());
    }
}

/// From here on the connection counts for the peer that the client says it is.
async fn introduce(
    socket: &mut TcpStream,
    guard: &ConnectionGuard,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let len = socket.read_u8().await?.into();
    let mut name = guard.try_lease(len)?;
    socket.read_exact(name.initialize(len)).await?;
    Ok(guard.handle().bind_peer(&name[..])?)
}
