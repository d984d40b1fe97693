//! A governed echo server, and a client that shows what it does: `cargo run --example echo`

use std::{io, time::Duration};

use leasehold::{Governed, Governor, Limits, ScopeLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const IDLE: Duration = Duration::from_millis(50);

async fn serve(listener: TcpListener, governor: Governor) -> io::Result<()> {
    loop {
        let (socket, addr) = listener.accept().await?;
        match governor.inbound().remote(addr).peer(addr.ip()).try_govern(socket) {
            Ok(socket) => drop(tokio::spawn(echo(socket))),
            Err(error) => println!("{addr}: {error}"), // and the socket is closed
        }
    }
}

async fn echo(mut socket: Governed<TcpStream>) -> io::Result<()> {
    let (socket, guard) = socket.split_mut();
    let work = async {
        loop {
            if tokio::time::timeout(IDLE, socket.readable()).await.is_err() {
                guard.handle().trim(); // a long wait: the idle block goes back
            }
            socket.readable().await?;
            let mut buf = guard.try_lease(16 * 1024)?;
            match socket.try_read_buf(&mut buf) {
                Ok(0) => return Ok(()),
                Ok(_) => socket.write_all(&buf).await?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    };
    guard.handle().until_revoked(work).await?
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let one_each = ScopeLimits::unlimited().memory(8 << 20).connections(1);
    let governor = Governor::new(Limits::unlimited().peer(one_each))?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(serve(listener, governor.clone()));

    let (mut client, mut bytes) = (TcpStream::connect(address).await?, [0; 5]);
    client.write_all(b"hello").await?;
    client.read_exact(&mut bytes).await?;
    println!("echoed {}", str::from_utf8(&bytes)?);
    assert_eq!(TcpStream::connect(address).await?.read(&mut bytes).await?, 0); // one too many
    drop(client);
    while governor.snapshot().totals.connections > 0 {
        tokio::time::sleep(IDLE).await;
    }
    println!("{} bytes are left in use", governor.snapshot().arena.in_use_bytes);
    Ok(())
}
