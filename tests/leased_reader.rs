//! The buffered reader in the docs of `leasehold::io` holds a lease only while bytes are there, and
//! pins it only while it has lent them out.
#![cfg(feature = "tokio")]

mod common;
#[allow(dead_code, reason = "it has a `main` of its own")]
#[path = "../examples/leased_reader.rs"]
mod leased_reader;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use common::{KIB, assert_adds_up, assert_nothing_left};
use leased_reader::LeasedReader;
use leasehold::{ConnectionGuard, Governor, Revoked};
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex,
};

type Reader = LeasedReader<DuplexStream>;

/// A connection, its reader, and the other end.
fn connection(governor: &Governor) -> (ConnectionGuard, Reader, DuplexStream) {
    let guard = governor.inbound().peer("alice").try_admit().unwrap();
    let (client, server) = duplex(64 << 10);
    let reader = LeasedReader::new(server, guard.handle().clone());
    (guard, reader, client)
}

/// Where `connection` wraps the transport.
const WRAPPED_AT: u32 = line!() - 5;

/// One poll, by a task that nothing wakes.
fn fill(reader: &mut Reader) -> Poll<io::Result<&[u8]>> {
    Pin::new(reader).poll_fill_buf(&mut Context::from_waker(Waker::noop()))
}

#[track_caller]
fn filled(reader: &mut Reader) -> &[u8] {
    match fill(reader) {
        Poll::Ready(Ok(bytes)) => bytes,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn error(reader: &mut Reader) -> io::Error {
    match fill(reader) {
        Poll::Ready(Err(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// The states that a reader may be left in by a caller that does not poll it any more, but for the
/// one in which it has lent bytes out.
async fn leave(nth: usize, reader: &mut Reader, client: &mut DuplexStream) {
    if nth > 0 {
        client.write_all(b"one\ntwo").await.unwrap();
    }
    match nth {
        // Never polled with anything there.
        0 => assert!(fill(reader).is_pending()),
        // Bytes left.
        1 => {
            filled(reader);
            Pin::new(reader).consume(4);
        }
        // Drained.
        2 => {
            filled(reader);
            Pin::new(reader).consume(7);
        }
        // Drained, and waiting for more.
        3 => {
            reader.read_exact(&mut [0; 7]).await.unwrap();
            assert!(fill(reader).is_pending());
        }
        // Partly read.
        4 => reader.read_exact(&mut [0; 2]).await.map(drop).unwrap(),
        // Waiting for the rest of a line.
        5 => {
            let mut context = Context::from_waker(Waker::noop());
            let mut lines = String::new();
            reader.read_line(&mut lines).await.unwrap();
            let mut line = Box::pin(reader.read_line(&mut lines));
            assert!(line.as_mut().poll(&mut context).is_pending());
        }
        // At the end.
        _ => {
            client.shutdown().await.unwrap();
            reader.read_to_end(&mut Vec::new()).await.unwrap();
            assert_eq!(filled(reader), b"");
        }
    }
}

const STATES: usize = 7;

#[tokio::test]
async fn it_reads_what_a_buffered_reader_of_tokio_does() {
    let governor = Governor::unlimited();
    let (guard, reader, mut client) = connection(&governor);
    let text: String = (0..20_000).map(|nth| format!("line {nth}\n")).collect();
    let mut expected = BufReader::new(text.as_bytes()).lines();
    let mut lines = reader.lines();
    let write = async {
        client.write_all(text.as_bytes()).await.unwrap();
        drop(client);
    };
    let compare = async {
        loop {
            let line = lines.next_line().await.unwrap();
            assert_eq!(line, expected.next_line().await.unwrap());
            if line.is_none() {
                break;
            }
        }
    };
    tokio::join!(write, compare);
    assert_eq!(guard.handle().usage().unwrap().leased_bytes, 0);
}

#[tokio::test]
async fn it_reads_what_was_written_in_pieces_of_any_size() {
    let governor = Governor::unlimited();
    let (_guard, mut reader, mut client) = connection(&governor);
    let written: Vec<u8> = (0..200_000_u32).map(|nth| (nth * 7 / 8) as u8).collect();
    let write = async {
        for piece in written.chunks(40_001) {
            client.write_all(piece).await.unwrap();
        }
        drop(client);
    };
    let read = async {
        let mut read = Vec::new();
        for len in (0..).map(|nth| nth * 37 % 5000 + 1) {
            let mut piece = vec![0; len];
            let count = reader.read(&mut piece).await.unwrap();
            read.extend_from_slice(&piece[..count]);
            if count == 0 {
                break;
            }
            // As some callers do: all of what is shown, in two steps.
            let shown = reader.fill_buf().await.unwrap();
            read.extend_from_slice(shown);
            let shown = shown.len();
            reader.consume(shown / 2);
            reader.consume(shown - shown / 2);
        }
        read
    };
    let ((), read) = tokio::join!(write, read);
    assert!(read == written);
}

#[tokio::test]
async fn it_holds_a_lease_only_while_bytes_are_there() {
    let governor = Governor::unlimited();
    let (guard, mut reader, mut client) = connection(&governor);
    let leased = || guard.handle().usage().unwrap().leased_bytes;
    assert!(fill(&mut reader).is_pending());
    assert_eq!(leased(), 0, "waiting");
    client.write_all(b"hello").await.unwrap();
    assert_eq!((filled(&mut reader), leased()), (&b"hello"[..], 16 * KIB));
    Pin::new(&mut reader).consume(2);
    assert_eq!(leased(), 16 * KIB, "bytes are left");
    assert_eq!(filled(&mut reader), b"llo");
    Pin::new(&mut reader).consume(0);
    assert_eq!(filled(&mut reader), b"llo");
    Pin::new(&mut reader).consume(3);
    assert_eq!(leased(), 0, "drained");
    assert!(fill(&mut reader).is_pending());
    assert_eq!(leased(), 0, "waiting again");
    drop(client);
    assert_eq!((filled(&mut reader), leased()), (&b""[..], 0), "at the end");
    guard.handle().trim();
    assert_eq!(assert_adds_up(&governor).arena.in_use_bytes, 0);
}

#[tokio::test]
async fn a_thousand_closed_ones_hold_no_bytes_and_are_no_orphans() {
    let governor = Governor::unlimited();
    let mut kept = Vec::new();
    for nth in 0..1000 {
        let (guard, mut reader, mut client) = connection(&governor);
        leave(nth % STATES, &mut reader, &mut client).await;
        if nth % 2 == 0 {
            guard.handle().close().unwrap();
        }
        drop(guard);
        kept.push(reader);
    }
    let snapshot = assert_adds_up(&governor);
    assert_eq!((snapshot.arena.in_use_bytes, snapshot.orphans.len()), (0, 0));
    assert_eq!((snapshot.connections.len(), kept.len()), (0, 1000));
}

#[tokio::test]
async fn closed_from_outside_it_holds_no_bytes_and_returns_an_error() {
    let governor = Governor::unlimited();
    for nth in 0..STATES {
        let (guard, mut reader, mut client) = connection(&governor);
        leave(nth, &mut reader, &mut client).await;
        guard.handle().close().unwrap();
        let snapshot = assert_adds_up(&governor);
        assert_eq!((snapshot.arena.in_use_bytes, snapshot.orphans.len()), (0, 0), "state {nth}");
        assert_eq!(error(&mut reader).kind(), io::ErrorKind::ConnectionAborted, "state {nth}");
        assert_eq!(error(&mut reader).kind(), io::ErrorKind::ConnectionAborted, "state {nth}");
    }
}

#[tokio::test]
async fn closed_from_outside_what_it_has_lent_out_is_one_orphan_until_the_next_call() {
    type Call = fn(&mut Reader);
    let next_calls: [Call; 3] = [
        |reader| {
            let error = error(reader);
            assert_eq!(error.get_ref().unwrap().downcast_ref(), Some(&Revoked));
        },
        |reader| Pin::new(reader).consume(1),
        |reader| Pin::new(reader).consume(5),
    ];
    for next_call in next_calls {
        let governor = Governor::unlimited();
        let (guard, mut reader, mut client) = connection(&governor);
        client.write_all(b"hello").await.unwrap();
        let shown = filled(&mut reader);
        guard.handle().close().unwrap();
        let id = guard.handle().id();
        drop(guard);
        let orphans = assert_adds_up(&governor).orphans;
        assert_eq!(orphans.len(), 1);
        assert_eq!((orphans[0].bytes, orphans[0].connection), (16 * KIB, id));
        let site = orphans[0].site;
        assert_eq!((site.file(), site.line()), (file!(), WRAPPED_AT), "the line that wrapped");
        assert_eq!(shown, b"hello", "what was lent out stays");
        next_call(&mut reader);
        assert_nothing_left(&governor);
        assert_eq!(error(&mut reader).kind(), io::ErrorKind::ConnectionAborted);
    }
}
