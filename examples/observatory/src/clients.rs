//! The load: clients that come, send frames, and go, and some that do not behave.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

/// A name with all that could do harm in a page, a log or a scrape.
const HOSTILE: &[u8] = b"<img src=x onerror=alert(1)>\"\n# TYPE \xff\x00";

/// More than one stream may have, with the limits of any type of node at its base.
const HUGE_BYTES: u32 = 24 << 20;

/// One client after another, for ever.
pub(crate) async fn come_and_go(server: SocketAddr, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    loop {
        // What it is refused ends a visit early, and the next client comes.
        let _refused = visit(server, &mut rng).await;
        pause(&mut rng, 100..600).await;
    }
}

async fn visit(server: SocketAddr, rng: &mut Rng) -> io::Result<()> {
    let mut socket = TcpStream::connect(server).await?;
    match rng.u8(..100) {
        // Says nothing at all, until the server has enough of it.
        0..8 => wait_for_the_end(&mut socket).await,
        // Many connections under one name, more than a peer may have.
        8..30 => talk(&mut socket, b"crowd", rng).await?,
        30..34 => talk(&mut socket, HOSTILE, rng).await?,
        34..38 => {
            introduce(&mut socket, b"greedy").await?;
            socket.write_u32(HUGE_BYTES).await?;
            wait_for_the_end(&mut socket).await;
        }
        _ => {
            let name = format!("peer-{:02}", rng.u8(1..=24));
            talk(&mut socket, name.as_bytes(), rng).await?;
        }
    }
    Ok(())
}

async fn wait_for_the_end(socket: &mut TcpStream) {
    let _end = socket.read_u8().await;
}

async fn introduce(socket: &mut TcpStream, name: &[u8]) -> io::Result<()> {
    socket.write_u8(name.len().try_into().expect("names are short")).await?;
    socket.write_all(name).await
}

/// Some frames of many sizes, and a pause after each.
async fn talk(socket: &mut TcpStream, name: &[u8], rng: &mut Rng) -> io::Result<()> {
    introduce(socket, name).await?;
    let mut frame = Vec::new();
    for _ in 0..rng.usize(1..24) {
        // As many between 256 and 512 bytes as between 128 and 256 KiB.
        let exponent = rng.u32(7..18);
        frame.resize(rng.usize(1 << exponent..2 << exponent), 0);
        let (mut read, mut write) = socket.split();
        let send = async {
            write.write_u32(frame.len() as u32).await?;
            write.write_all(&frame).await
        };
        let receive = async {
            let mut echoed = vec![0; frame.len()];
            read.read_exact(&mut echoed).await
        };
        tokio::try_join!(send, receive)?;
        pause(rng, 50..500).await;
    }
    Ok(())
}

async fn pause(rng: &mut Rng, millis: std::ops::Range<u64>) {
    sleep(Duration::from_millis(rng.u64(millis))).await;
}
