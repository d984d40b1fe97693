//! Models of leasehold's protocols.
//!
//! A model is a small concurrent program over the public API. Under `cargo loom` the [loom] model
//! checker runs it in every way in which its threads can interleave (up to a stated number of
//! preemptions, see [`Bounds`]) and in which its atomics may read, and the library itself
//! watches its blocks (`Probe` in `src/sync.rs`): loom reports a block that is handed out or
//! returned twice, one whose bytes are touched after it was returned or without a happens-before
//! edge from its last user, and one that never comes back. Freed memory is overwritten (see
//! `poison`), so that the use of a freed record shows. Under a plain `cargo test` the same
//! programs run some hundred times on threads of the operating system.
//!
//! Every model ends at rest, with [`all_back`]: conservation by the arena's own record.
//!
//! **Small on purpose.** With `cfg(leasehold_loom)` a slab has two blocks of 256 bytes and a magazine two
//! slots, so that a
//! handful of leases reaches every state of a slab, and maps have one shard.
//!
//! **Writing one.** Every lock, atomic step and reference count is a point where loom may switch
//! threads, so a model has two or three threads, with one or two calls each; the first thread is
//! the one that runs the body. A [`Bytes`](bytes::Bytes) counts its clones behind loom's back: move
//! it to one thread, and share none.
//!
//! **What loom overlooks.** It remembers the last access to each atomic alone. So where one thread
//! only loads a word, and the other loads and then exchanges it, loom does not see that the two meet
//! before that: the other's own load is the last. Nor does it switch inside a critical section in
//! which nothing meets, so a `try_lock` fails only where the lock's holder waits for another lock. A
//! model of a look needs a lock that both threads take.
//!
//! Environment: `LOOM_MAX_PREEMPTIONS` searches deeper than the bounds say, `LOOM_LOCATION=1` and
//! `LOOM_LOG=trace` explain a failure; the rest of loom's variables work too.
//!
//! [loom]: https://docs.rs/loom

#![allow(clippy::disallowed_types, reason = "this is the other side of the library's facade")]

mod check;
mod fixture;
mod poison;
mod threads;

pub use check::{all_back, at_rest, ended, of_class};
pub use fixture::{
    BLOCK, Mark, Remains, SLAB_BLOCKS, admit, bytes, cache, governor, governor_with_room, granted,
    lease, room,
};
pub use threads::{Arc, block_on, race, race3};

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

// A `RUSTFLAGS` in the environment overrides the cfg that `cargo loom` sets, and would check
// nothing, in green.
const _: () = assert!(
    cfg!(leasehold_loom) || option_env!("LEASEHOLD_LOOM").is_none(),
    "`cargo loom` needs `--cfg leasehold_loom`: unset RUSTFLAGS",
);

/// How far loom searches.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    #[cfg_attr(not(leasehold_loom), expect(dead_code, reason = "only loom can count them"))]
    preemptions: usize,
}

impl Bounds {
    /// All interleavings of two threads with up to eight preemptions.
    pub const TWO_THREADS: Self = Self::preemptions(8);
    /// All interleavings of two threads with up to five preemptions, where each step of the one
    /// meets each step of the other, in the same word.
    pub const TWO_ON_ONE_WORD: Self = Self::preemptions(5);
    /// All interleavings of three threads with up to three preemptions.
    pub const THREE_THREADS: Self = Self::preemptions(3);
    /// All interleavings of three threads with up to four preemptions, where they have few steps.
    pub const THREE_OF_FEW_STEPS: Self = Self::preemptions(4);

    /// All interleavings with up to `preemptions` switches away from a thread that could go on.
    pub const fn preemptions(preemptions: usize) -> Self {
        Self { preemptions }
    }
}

/// Checks a model, and tells on standard error in how many executions.
pub fn model(name: &str, bounds: Bounds, body: impl Fn() + Send + Sync + 'static) {
    let executions: &'static AtomicUsize = Box::leak(Box::default());
    let start = Instant::now();
    let counted = move || {
        executions.fetch_add(1, Ordering::Relaxed);
        body();
    };
    explore(bounds, counted);
    let executions = executions.load(Ordering::Relaxed);
    let seconds = start.elapsed().as_secs_f64();
    let line = format!("model {name}: {executions} executions in {seconds:.1} s\n");
    // Not `eprint!`, which the test harness captures.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

#[cfg(leasehold_loom)]
fn explore(bounds: Bounds, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(bounds.preemptions);
    // Every lock and atomic step of the set-up is a branch too, if only with one way to go.
    builder.max_branches = builder.max_branches.max(20_000);
    let body = std::sync::Arc::new(body);
    // On a thread with a stack of its own, while loom's first one waits.
    builder.check(move || {
        let body = body.clone();
        threads::spawn(move || body()).join().expect("the model panicked");
    });
}

#[cfg(not(leasehold_loom))]
fn explore(_: Bounds, body: impl Fn() + Send + Sync + 'static) {
    const RUNS: usize = 200;
    (0..RUNS).for_each(|_| body());
}
