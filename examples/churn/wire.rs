//! The protocol, and the bytes in the frames. Both runs and both sides use this file.
//!
//! ```text
//! client ▶ server   opening: window (u32), length of the name (u8), name of the peer
//! server ▶ client   WELCOME, or REFUSED
//!
//! client ▶ server   frame: length (u32, at least 1), payload
//! server ▶ client   the same frame, or REFUSED
//! ```
//!
//! After `REFUSED` the server sends nothing more, and reads on until the client has closed: closing
//! a socket with unread data resets the connection, and the reset could overtake the answer.

use std::io;

use bytes::BufMut;
use fastrand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The answer to an opening that is accepted.
pub const WELCOME: u32 = 0;

/// The answer to an opening or a frame that goes beyond a budget. No frame is as long as this.
pub const REFUSED: u32 = u32::MAX;

/// The bytes that a frame's length takes.
pub const LENGTH_BYTES: usize = size_of::<u32>();

/// The fixed part of an opening.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// How many bytes the client wants set aside for it. Zero for none.
    pub window_bytes: u32,
    /// How long the name is that follows.
    pub name_len: u8,
}

impl Opening {
    /// Sends an opening and the name of the peer.
    pub async fn send(socket: &mut TcpStream, window_bytes: u32, name: &str) -> io::Result<()> {
        let name_len = u8::try_from(name.len()).map_err(io::Error::other)?;
        let mut opening = Vec::with_capacity(LENGTH_BYTES + 1 + name.len());
        opening.put_u32(window_bytes);
        opening.put_u8(name_len);
        opening.put_slice(name.as_bytes());
        socket.write_all(&opening).await
    }

    /// Receives the fixed part.
    pub async fn receive(socket: &mut TcpStream) -> io::Result<Self> {
        let window_bytes = socket.read_u32().await?;
        let name_len = socket.read_u8().await?;
        Ok(Self { window_bytes, name_len })
    }
}

/// Reads `len` bytes into `buffer`.
pub async fn read_into(
    socket: &mut TcpStream,
    buffer: &mut (impl BufMut + Send),
    len: usize,
) -> io::Result<()> {
    let mut rest = buffer.limit(len);
    while rest.has_remaining_mut() {
        if socket.read_buf(&mut rest).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// Reads and forgets whatever the other side still sends, until it closes.
pub async fn discard(socket: &mut TcpStream) -> io::Result<()> {
    let mut scrap = [0; 4096];
    while socket.read(&mut scrap).await? > 0 {}
    Ok(())
}

/// Whether an error means that the other side ended the connection.
pub fn is_cut(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// A payload, computed from its seed whenever it is needed, so that it need not be stored.
#[derive(Clone, Copy, Debug)]
pub struct Payload {
    seed: u64,
}

impl Payload {
    /// The payload that `seed` stands for.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Writes the payload over all of `bytes`.
    pub fn fill(self, bytes: &mut [u8]) {
        let mut rng = Rng::with_seed(self.seed);
        for word in bytes.chunks_mut(size_of::<u64>()) {
            word.copy_from_slice(&rng.u64(..).to_le_bytes()[..word.len()]);
        }
    }

    /// Whether `bytes` are the payload; if not, where the first wrong one is.
    pub fn verify(self, bytes: &[u8]) -> Result<(), usize> {
        let mut rng = Rng::with_seed(self.seed);
        for (word, start) in bytes.chunks(size_of::<u64>()).zip((0..).step_by(size_of::<u64>())) {
            let expected = rng.u64(..).to_le_bytes();
            if let Some(wrong) = word.iter().zip(expected).position(|(got, due)| *got != due) {
                return Err(start + wrong);
            }
        }
        Ok(())
    }
}
