//! The limits of the governed server, and why no well-behaved client can meet them.
//!
//! Refusals must equal the plan exactly, whatever the timing. So every limit is at least what the
//! plan's clients can use *at most*, all at once, and those that are meant to be refused ask for
//! more than a limit allows even when no other client is there.

use std::time::Duration;

use leasehold::{Limit, Limits, ScopeLimits};

use crate::backing::Door;

/// The longest payload that a well-behaved client sends, in bytes.
pub const MAX_FRAME_BYTES: usize = 8 << 10;

/// The largest window that a well-behaved client asks for, in bytes.
pub const MAX_WINDOW_BYTES: u32 = 32 << 10;

/// The most memory one connection may use, in bytes.
pub const CONNECTION_BYTES: u64 = 128 << 10;

/// The most connections one peer may have open.
pub const PEER_CONNECTIONS: u32 = 4;

/// How long a step may take before it counts as failed: hundreds of times what it needs.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How many frames may wait in the server's audit queue.
pub const AUDIT_QUEUE_FRAMES: usize = 64;

/// The block that a frame of [`MAX_FRAME_BYTES`] and its header is leased in, in bytes.
const FRAME_BLOCK_BYTES: u64 = 16 << 10;

/// The block that a peer's name is leased in, in bytes.
const NAME_BLOCK_BYTES: u64 = 512;

/// The least the whole server gets, in bytes.
const SYSTEM_BYTES: u64 = 64 << 20;

/// The least that connections get together before their peers are known, in bytes.
const TRANSIENT_BYTES: u64 = 1 << 20;

// At its busiest a connection holds the frame it reads, the last one it read, the reply it writes,
// the last one it wrote, one frame in the audit queue, and its window.
const _: () = assert!(5 * FRAME_BLOCK_BYTES + MAX_WINDOW_BYTES as u64 <= CONNECTION_BYTES);

/// The limits of a server that `concurrency` connections use at a time.
pub fn limits(concurrency: u32) -> Limits {
    let concurrency = u64::from(concurrency);
    // A frame in the audit queue outlives its connection.
    let queued = AUDIT_QUEUE_FRAMES as u64 * FRAME_BLOCK_BYTES;
    let busiest = concurrency * CONNECTION_BYTES + queued;
    let system = ScopeLimits::unlimited()
        .memory(busiest.max(SYSTEM_BYTES))
        .connections(concurrency)
        .fds(concurrency);
    let names = concurrency * NAME_BLOCK_BYTES;
    let transient =
        ScopeLimits::unlimited().memory(names.max(TRANSIENT_BYTES)).connections(concurrency);
    let peer = ScopeLimits::unlimited()
        .memory(u64::from(PEER_CONNECTIONS) * CONNECTION_BYTES)
        .connections_inbound(u64::from(PEER_CONNECTIONS));
    Limits::unlimited()
        .system(system)
        .transient(transient)
        .peer(peer)
        .connection(ScopeLimits::unlimited().memory(CONNECTION_BYTES))
        .class(Door::Retired.class(), ScopeLimits::unlimited().connections_inbound(Limit::Blocked))
}
