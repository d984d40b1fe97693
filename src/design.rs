//! How the crate works and why, for whoever wants to change it or to trust it.
//!
//! No code is in here. Each section ends with the files that carry it; their own module docs say
//! more, closer to the lines.
//!
//! # Why it exists
//!
//! Two leaks, in good code that was written by careful people:
//!
//! - **A refusal that didn't close.** In go-libp2p 0.35.0 the resource manager refused a QUIC
//!   connection, and the accept path returned without closing it. It stayed open, belonging to no
//!   scope: 735 MB of connection set-up on a node with 15 to 20 live connections
//!   ([go-libp2p#2841](https://github.com/libp2p/go-libp2p/issues/2841), fixed in
//!   [#2852](https://github.com/libp2p/go-libp2p/pull/2852)).
//! - **A list for later.** From grpc-go 1.61.0 to 1.66.2 the xDS listener kept every accepted
//!   connection in a slice, in order to drain them one day. Each entry pinned the read and write
//!   buffers of a connection that had long been closed: 93 % of the heap
//!   ([grpc-go#7657](https://github.com/grpc/grpc-go/issues/7657), fixed in
//!   [#7664](https://github.com/grpc/grpc-go/pull/7664)).
//!
//! Both servers had limits, and both had code that gave things back. What they lacked was a place
//! where the budget, the memory and the end of the connection are the same thing. Hence the three
//! decisions that everything else follows from:
//!
//! 1. **A lease is the buffer and its charge in one value.** There is no `release` to forget, nor to
//!    call twice.
//! 2. **The guard is the connection.** There is one, it cannot be cloned, and when it drops all that
//!    was leased through it is taken back from whoever still holds it. All that others can have is
//!    a handle, which keeps nothing.
//! 3. **Admission takes the transport by value**, so a refusal closes it.
//!
//! `examples/churn` repeats the second leak on purpose and shows that it no longer is one.
//!
//! # What it promises
//!
//! | | promise | kept by |
//! |---|---|---|
//! | P1 | *Hard budgets.* No charge raises a scope above the limit in force at that instant. A limit lowered below what is in use revokes nothing; use then only falls. What the arena keeps resident is bounded too. | charges under the tree's one lock; the arena's bounds |
//! | P2 | *Conservation.* A block is in exactly one place: the arena, a magazine, a lease, or a `Bytes`. By the arena's own bitmaps, blocks in use = cached + leased + detached, and the system's memory = those + reservations. | one word for a slot's every state |
//! | P3 | *Reclaim.* When the guard's drop or close returns, its counts, reservations, idle blocks, unpinned owned leases and forgotten borrows are off every scope and back. What is pinned comes back at the unpin, what is detached at the last clone's drop, and shows as an orphan until then. | the two phases of a close |
//! | P4 | *No stale bytes.* Through safe code nobody reads a byte that was not written through the lease it is read from. | the window of a lease |
//! | P5 | *No use after return*, and every block is returned once. | the compiler for borrows, the pin for the rest |
//! | P6 | *A refusal closes* what was refused. | [`try_admit_with`](crate::Admission::try_admit_with) |
//! | P7 | *Refusals tell the truth.* Only if the limit would really be exceeded: never because of memory that connections keep idle, nor of a charge that does not last. Of rates there is one exception, [below](#addresses). | no roll-back; the sweep |
//! | P8 | *No lost wake-up* among those who wait for room. | not built yet, see [below](#what-is-not-here-yet) |
//! | P9 | *The fast path is the connection's own.* No lock, and no cache line that other connections write. | magazines; records of a cache line each |
//! | P10 | *Idle costs little.* At most 384 bytes of book-keeping for a connection (and 192 for its peer, and a table's entry for its address), whatever it leased before. Idle blocks go at pressure, `trim` and close; by time, not yet. | the record's layout |
//! | P11 | *Nothing about the departed.* Memory is a function of what is live, not of what ever was, nor of the peak. What rates have to remember is bounded, at 48 MiB, and forgotten once it is paid off. | scopes that exist while held; tables that shrink; sketches |
//! | P12 | *Metrics are free.* No allocation, lock or shared write for them on the lease path. | counts in the magazine's own word |
//! | P13 | *Handles are harmless.* Ids are never reused; a handle keeps nothing open and at most 512 bytes. | serial numbers; the empty record |
//! | P14 | *No way around the door.* No prefix of addresses has more connections than its limit, nor more new ones than its rate, whoever else comes by. | exact counts; sketches that never forget a debt |
//!
//! # The tree
//!
//! ```text
//! system ──┬── transient ─────── connection ── stream     before the peer is known
//!          ├── peer(key) ─────── connection ── stream     after `bind_peer`
//!          └── class(name) ─ ─ ─ ─ ─ ┘ ─ ─ ─ ─ ─ ┘        optional second parent, and a third:
//!                └── class-per-peer ─ ─ ─ ─ ─ ─ ─┘        the peer's part of that class
//!
//! allow-listed system ── allow-listed transient           what only the allow list admitted
//! ```
//!
//! All scopes are vectors of numbers under one mutex. A charge takes it, checks every scope above
//! the connection, and commits to all. Nothing is ever rolled back, so there is no moment at which
//! a charge that will not last makes somebody else's request fail, and none at which a limit is
//! overstepped. The limits lie under the same lock, beside the scopes they hold for: changing them
//! is one step for the whole tree. So is a bind, which moves a connection with all it holds from
//! *transient* to its peer.
//!
//! Why one lock: every charge ends in a system scope, so whatever locks are below it, no two
//! charges run at once. What is done under it is a few comparisons and additions of vectors. No
//! memory is mapped, nobody is woken, and a table that grows is one of 64 parts.
//!
//! **Places.** A connection, and a stream with a class of its own, knows its scopes by a *place* of
//! 16 bytes: the peer, the class, and which of the two systems. A reference to a peer is its key's
//! hash and a number that tells keys of the same hash apart; to a class, a number. There is no
//! pointer in it and no reference count to share between cores: a scope counts its holders under
//! the lock, and is found by reference without comparing keys.
//!
//! **Holders.** A peer's scope, a class's, and a peer's part of a class exist as long as somebody
//! holds them; the last release takes them out of their table. There is no sweeper because there is
//! no residue. (An entry per peer that is never removed is a slow leak that the peers control:
//! libp2p-connection-limits 0.7.0 grows by about 204 bytes for each distinct peer, 22.7 MB after
//! 111,000 of them.) Class names that no limits mention may be made of what peers say: past 256 of
//! them at once, new ones share the scope [`OTHER_CLASSES`].
//!
//! **The departed.** When its guard drops, a connection is off every scope but for memory that is
//! still out (see [Close](#close)). That stays charged to the peer and the system, and to nothing
//! else: a class that forgets its `Bytes` somewhere does not lock its own next connections out, and
//! those who never finish a handshake cannot fill the transient scope for good.
//!
//! **The allow list** is looked at after the ordinary scopes, subnets and rates have refused and no
//! idle memory is left to sweep. Then the connection moves to scopes of its own, which are limited
//! too: on admission, but also later, when it asks for memory that the ordinary system or transient
//! scope does not have. A rule for a peer in a network lets those from there in while the peer is
//! not known; a bind to another one moves the connection to the ordinary scopes, with its address
//! counted from then on, or is refused.
//!
//! **Classes of streams.** A stream is charged to its connection's class like all else. `bind_class`
//! adds a class of its own, with the peer's part of it. A stream's account is one word of bytes in
//! use, which leases of the stream change without the tree's lock, and two marks in the same word
//! say who must not: *closed*, and *classed*, which sends every lease and return the slow way, where
//! the class is charged too. The step that sets *classed* also tells how much was in use. What
//! returns before it is not in that figure; what returns after it finds the mark. So nothing is
//! charged twice or never, and streams without a class pay nothing for those that have one.
//!
//! Files: `scope.rs` and `scope/`, `usage.rs`, `keyed.rs`, `connection/account.rs`,
//! `connection/admit.rs`.
//!
//! [`OTHER_CLASSES`]: crate::OTHER_CLASSES
//!
//! # Limits
//!
//! [`Limits`] are plain data: every field is public, a governor takes them whole, and two of them
//! can be compared. No value is special. A [`Limit`] is a number, `Unlimited` or `Blocked`; zero is a
//! number, and an absent rate is no rate. So limits can be computed, patched, written to a file, and
//! tested without a governor:
//!
//! - A [`NodeType`] makes them for a [`Host`]: a base that is good for a budget of 128 MiB, and an
//!   increase with the budget. The budget is an eighth of what the process may use, which is the
//!   least of what the machine has and what its control groups allow.
//! - A file is read into a *patch*: for each value, whether it is there, and what it is. The patch
//!   is applied to the node type's limits, defaults before names, so that a name inherits what the
//!   file says of the default. All problems are collected on the way, never only the first.
//! - `check` holds every limit against those above it. Warnings, since limits may be meant that way.
//!
//! The tree compiles them when they are set: the limits of a scope become *ceilings*, a vector
//! like the one that counts its use, so that the check is a few vector instructions and only a
//! refusal looks up which limit it was. A peer's own limits hang at its scope.
//!
//! **Priorities** give a request a share of each memory limit: 40, 60, 80 or all of it. The shares
//! are of the limit and not of what is left, so the answer does not depend on who came before. A
//! request below the highest priority takes the lock even for an idle block, which is charged
//! already: the share counts what is in use without the block, and the block.
//!
//! **Observing.** A scope in [`Limits::observe`](field@crate::Limits::observe) has no bounds when a
//! request is checked, and its own when it is charged: then what it would have refused is counted.
//! So each such request counts once for each scope, and not once for each attempt. The arena
//! follows the system: what is not enforced there bounds nothing.
//!
//! Files: `limits.rs` and `limits/`, `limit.rs`, `priority.rs`, `scope/request.rs`.
//!
//! [`Limits`]: crate::Limits
//! [`Limit`]: crate::Limit
//! [`NodeType`]: crate::NodeType
//! [`Host`]: crate::Host
//!
//! # Addresses
//!
//! An address lies in one prefix of each length, or in one network that has limits of its own. For
//! these there are two kinds of state, beside the scopes and under the same lock:
//!
//! **Counts are exact.** The connections of every single address are counted, whatever the limits
//! are, and the counts of all other prefixes follow from these. So limits can change at any time,
//! and no connection is counted wrongly after. An entry goes with its last connection.
//!
//! **Rates are in sketches.** A rate has to remember those who are gone, and an attacker can have
//! any number of addresses. What is kept of a prefix is one number, its theoretical arrival time
//! ([GCRA](https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm)), in three of the eight cells
//! of one cache line; the least of the three is its own or a later one, and a commit raises those
//! that are lower. So a debt is never forgotten. The price is that a prefix may seem to be in debt
//! if all three of its cells are shared with others that are: this is the one refusal that may be
//! untrue. Cells whose time has passed are free again, and the sketch grows and shrinks with how
//! many are not, in generations of eight times the size: nothing is copied, and the older generation
//! is read until its last debt is paid. The hash is keyed, so nobody can choose whose cells to share.
//!
//! An admission asks the limits by address, then the scopes, and only then counts for both: what is
//! refused by the one has not spent of the other. A rebind, and a move to or from the allow-listed
//! scopes, is one step with the address as well. `should_validate` spends from sketches of its own,
//! with half the burst, so that a flood from forged addresses takes nothing from what real ones may
//! do.
//!
//! Files: `subnet.rs` and `subnet/`, `connection/admit.rs`, `connection/source.rs`.
//!
//! # Two speeds
//!
//! A connection keeps a *magazine* for each size of block: up to eight blocks, charged to every
//! scope already, and one 64-bit word that says everything about them.
//!
//! ```text
//! 63      62     61 ─ 47   46 ─ 32   31 ─ 24    23 ─ 16  15 ─ 8   7 ─ 0
//! closed  tight  leases    returns   occupied   free     owned    pinned
//! ```
//!
//! **Fast.** A lease is one compare-exchange of that word: it clears a *free* bit and counts, unless
//! *closed*, *tight* or the top bit of the count is set. The return of a borrowed lease is one
//! `fetch_add` of a bit that is known to be clear, and the value that it replaced tells whether
//! somebody closed or tightened the magazine meanwhile. The word and its eight block numbers are 40
//! bytes, and no other connection writes near them.
//!
//! **Slow.** An empty or tight magazine, the ninth block of a size, a large lease, a reservation, a
//! stream, a bind, a close, a priority below the highest, a stream with a class of its own: the
//! connection's mutex, then the tree's, then the arena's. What must not be done under a lock (mapping
//! memory, pressing on a scope, sweeping a sibling) is an errand: the attempt stops and says what it
//! lacks, the errand is run with no lock held, and the attempt starts again. A few blocks that no magazine had a slot for rest beside them, under the same rules.
//! The attempts end, because a mapping hands its first block to the one who asked for it, and
//! under pressure the list of those to sweep only shrinks.
//!
//! **Locks** are taken in one order: stream account, connection, scope tree, arena. At most one
//! connection's mutex is held at a time. Nothing is mapped, unmapped or woken, and no waker
//! or record dropped, under any of them: a dropped waker can drop a task that owns a guard. Scopes
//! that nobody holds any more are moved out from under the lock, and dropped after it.
//!
//! Files: `magazine.rs`, `connection.rs`, `connection/weigh.rs`, `connection/lend.rs`,
//! `connection/errand.rs`.
//!
//! # The states of a block
//!
//! Bit *n* of each of the word's four bytes belongs to slot *n*:
//!
//! | occupied | free | owned | pinned | the block is | a close |
//! |---|---|---|---|---|---|
//! | 0 | – | – | – | not here: the slot is vacant | |
//! | 1 | 1 | 0 | 0 | cached: idle | takes it |
//! | 1 | 0 | 0 | 0 | borrowed by a `Lease<'_>` | leaves it: a borrow ends before its guard |
//! | 1 | 0 | 1 | 0 | owned by an `OwnedLease` nobody is touching | takes it: the lease is revoked |
//! | 1 | 0 | 1 | 1 | pinned: someone touches its bytes | leaves it to the unpin |
//! | 1 | 0 | 0 | 1 | detached: a `Bytes` has it | leaves it to the last clone |
//!
//! ```text
//!              lease                 into_owned            pin
//!   cached ───────────▶ borrowed ───────────────▶ owned ◀───────▶ pinned
//!     ▲ ▲ ▲    return       │                       │ ▲   unpin      │
//!     │ │ └─────────────────┤ freeze                │ └── lease owned│
//!     │ └───────────────────│───────────────────────┴────────────────┤ freeze
//!     └──── last Bytes ── detached ◀─────────────────────────────────┘
//! ```
//!
//! Each arrow is one read-modify-write of the whole word. So all of them, and a close, stand in a
//! single total order, and each learns whether a close came before it.
//!
//! `freeze` hands out the block itself, unless a quarter of it would do: then the bytes are copied
//! into the smallest size that fits, so that a short slice does not pin a large buffer.
//!
//! # Close
//!
//! A connection is *open*, then *closed*, then *gone*, then forgotten.
//!
//! - **Closed**: once, by the guard or from outside ([`ConnectionHandle::close`],
//!   [`Governor::drain`]). One step for each magazine sets *closed* and vacates every slot that is
//!   cached or owned-but-not-pinned. The closer returns exactly those. After that step *occupied*
//!   means that a block is still out, and each of these has exactly one party left to return it: the
//!   drop of the borrowed lease, the unpin, the drop of the pinned lease or of the `Bytes`. No
//!   arbiter is needed, because the step that closed the magazine also dealt out the roles.
//! - **Gone**: when the guard drops. No borrow of it can be alive, so what is still borrowed was
//!   forgotten (`mem::forget`), and is taken. The counts come off here and not before, because only
//!   the guard's owner can close the socket they stand for. Memory that is still out stays charged
//!   to the peer and the system; the class, and the transient scope if the peer was never known, are
//!   done with it.
//! - **Forgotten**: with the last block back, the record leaves the registry and lets go of its
//!   peer's scope.
//!
//! An `OwnedLease` holds a bare pointer to its connection's record and pays no reference count. The
//! close counts those that are out, and the record keeps itself in memory until the guard is gone
//! and the last of them has dropped. This is why a `'static` lease that finds its magazine closed
//! takes the mutex before it gives its block back.
//!
//! Files: `connection/close.rs`, `connection/ledger.rs`, `connection/loose.rs`, `lease.rs`.
//!
//! [`ConnectionHandle::close`]: crate::ConnectionHandle::close
//! [`Governor::drain`]: crate::Governor::drain
//!
//! # Tight, and the sweep
//!
//! Idle blocks in magazines are charged, so a scope can be full of memory that nobody uses. A
//! refusal because of them would be a lie (P7). Therefore, before a request is refused for memory:
//!
//! 1. the connection gives its own idle blocks back, and tries again;
//! 2. the scope that refused becomes *tight*: nobody starts to cache below it;
//! 3. the connections that it lists as holding idle blocks are swept, one by one, until the request
//!    fits or the list is empty.
//!
//! A sweep is one read-modify-write for each magazine, which takes its free blocks and sets its
//! *tight* mark together: a return that comes later sees the mark and goes the slow way, to the
//! arena and off the scopes. A scope lists a connection when it charges a block to it and not before,
//! and strikes it in the same step that takes its idle bytes off. So an empty list means that
//! nothing idle is left, and the work of a sweep has been paid for, entry by entry, by those who
//! get swept. A scope relaxes once its use is below seven eighths of its limit and nobody presses.
//!
//! Memory that a stream's class lacks is not swept for: idle blocks belong to no stream, and are not
//! charged to its class.
//!
//! Files: `scope/level.rs`, `scope/line.rs`, `connection/errand.rs`.
//!
//! # The arena
//!
//! ```text
//! arena ── class 512 B ── slab of 1 MiB ── 2048 blocks     each block: a record of 64 bytes
//!       ├─ class 2 KiB ── …                                (who leased it, and when)
//!       └─ class 64 KiB ─ …
//!       lease larger than every class ── a mapping of its own
//! ```
//!
//! The arena knows nothing of budgets, and the scopes know nothing of memory; they meet in the
//! connection. Blocks come from the slab with the lowest address that has one, so that the others
//! can empty. Of wholly empty slabs a class keeps one. Before slabs outgrow the system's limit (and
//! the allow-listed system's, if anyone is on the list) plus one slab for each class, other classes' empty slabs are unmapped and whole free pages inside
//! partly used slabs are given back; what stays resident beyond that because free blocks lie between
//! used ones has a cap of its own. At the cap the idle blocks of all connections are swept first,
//! since those may be what keeps pages from being given back; only then the arena refuses.
//!
//! A block is found by 32 bits (slab and block in it) through a directory of two levels, without a
//! lock: who holds a block keeps its slab mapped. Blocks keep the bytes of their last user. A lease
//! shows only what was written through it, so nobody sees them; `zero_on_return` is for memory that
//! holds secrets.
//!
//! Files: `arena.rs` and `arena/`, `lease/window.rs`.
//!
//! # Names, sites, ages
//!
//! Connections are found by a serial number that is never used again, so an old id can only answer
//! *closed*. Tables are sharded and shrink as they empty. Hashes of anything that a peer chooses are
//! keyed.
//!
//! Every lease notes its caller (`#[track_caller]`) and the coarse tick: two plain stores in the
//! block's record, for every lease and not for a sample. Time comes in through [`Clock`], which
//! tests turn by hand; the tick is what [`maintain`], [`snapshot`] or an admission last read.
//!
//! Leases and returns are counted each where it happens, in the word. Before 15 bits run full the
//! next lease folds them into the governor's totals. So `leased − returned = outstanding` is a check
//! of three independent figures and not a subtraction of one from another.
//!
//! Files: `registry.rs`, `keyed.rs`, `clock.rs`, `report.rs`, `governor/snapshot.rs`.
//!
//! [`Clock`]: crate::Clock
//! [`maintain`]: crate::Governor::maintain
//! [`snapshot`]: crate::Governor::snapshot
//!
//! # How it is checked
//!
//! `sync.rs` is the only file that names a lock, an atomic or an `Arc`. Under `cfg(leasehold_loom)`
//! each is the model checker's, so `cargo loom` runs this code and no copy of it. In the models every
//! block carries a probe: handing it out twice, returning it twice, losing it, or touching its bytes
//! without an ordering from the last owner each fails the model. `loom-tests/breakages.sh` breaks
//! the protocols one by one and expects the models to turn red. A `RUSTFLAGS` in the environment
//! would switch the model checker off and pass by running nothing; the models then do not compile.
//!
//! Beside the models there are tests that hold the crate against something simpler: random operations
//! against a plain account of every scope, addresses against a plain list, sketches against exact
//! state, leases against a `Vec`, limits files against what was written. Goldens hold what nobody
//! would notice in a diff of code: every number of every node type, and every message about a
//! malformed file.
//!
//! # What is measured
//!
//! | what | where |
//! |---|---|
//! | a lease and its return, on a connection and on a stream; a reservation; an admission with a bind; beside the alternatives and a floor | `cargo bench` |
//! | allocations on the lease path: none | `tests/no_allocation.rs` |
//! | bytes for each idle connection, peer and departed handle | `tests/idle.rs`, `tests/handles.rs`, `tests/departed.rs` |
//! | what is mapped and resident | `tests/mapped_memory.rs` |
//! | ten million addresses that knock while clients come back: who is let in, and what is kept | `src/subnet/tests/flood.rs` |
//! | resident memory and throughput over real sockets, with and without a governor | `examples/churn` |
//!
//! Bounds are asserted; times are printed, for they differ from machine to machine.
//!
//! # What was tried, and left
//!
//! Times are from one quiet run on a machine with two cores, blocks of 16 KiB: the ratios matter,
//! not the figures. `cargo bench` measures the code as it is.
//!
//! - **Charging scopes by compare-exchange, rolling back on failure.** Faster: 49 ns for three levels
//!   against 92 ns with locks. Wrong: the model checker finds a request that is refused because it
//!   looked between another's charge and roll-back. And only the slow path would gain.
//! - **A lock for each scope**, in a fixed order: transient, peer, class, system. To admit, bind and
//!   close a connection took 22 locks instead of eight, and no two charges ran at once even so, for
//!   each ended under the system's lock.
//! - **A lock of their own for the addresses**, around the tree's. Two more locks for a connection, and
//!   between the two a moment in which one of them does not know yet what the other does.
//! - **The state of each block in a word of its own**, beside a magazine's word with only *free* and
//!   *occupied*: a lease of 24 to 29 ns, which is good. But a close then has to visit every leased
//!   block with a *revoked* flag, and the drop of an owned lease, of a `Bytes` and the last sweep
//!   need the free bit as an arbiter. Eight small mistakes in that protocol each turned its model
//!   red: a load and a store for a read-modify-write; *revoked* overwriting *pinned*; a refill that
//!   does not look at *closed* again; a return that ignores *closed*; a relaxed unpin; a `freeze`
//!   that leaves *owned* unset; a second close that ends early; a drop that skips the arbiter. With
//!   all states in one word most of these cannot be written down.
//! - **A reference count in every owned lease.** Two more locked operations for each; two of them,
//!   uncontended, are 13 ns, half a lease. Counting the leases that are out at the close costs nothing
//!   before.
//! - **A sweep that loads the word and goes on where nothing is free.** A return right after the load
//!   then caches a block that nobody will ever look for; the model checker finds it.
//! - **`Instant::now` for the age of a lease.** 30 ns: more than the lease.
//! - **Sampled leak records**, as Netty has them (1 in 128 by default). Two plain stores are cheap
//!   enough to be exact.
//! - **Slabs for records** (of connections, loose leases, stream accounts, wakers). Their keys come
//!   back with the next record, and one record with a late key keeps the room of the whole peak
//!   behind it: 200,000 leases of which one is kept held 10.6 MB. Ordered maps by keys used in turn
//!   cost some nanoseconds on slow paths only.
//! - **crossbeam's queues** where models look: they synchronise behind the model checker's back.
//! - **Doubling a sketch in place**, considered and not tried. Each cell would have to be in both of
//!   its halves, and a crowd that comes all at once would fill it with copies faster than it grows.
//!
//! What one would use instead, in the same run, for each operation:
//!
//! | | one thread | two threads |
//! |---|---|---|
//! | go-libp2p's rcmgr, reserve and release on a connection, metrics off; no buffer | 125 ns | 387 ns |
//! | `Arc<Semaphore>` with owned permits, and `BytesMut::with_capacity` | 90 ns | 416 ns |
//! | `vec![0; 16384]`; no budget | 132 ns | 134 ns |
//! | a sharded-slab `Pool`; no budget | 43 ns | 86 ns |
//! | the trial of a lease with its states in two words | 24–29 ns | 25–34 ns |
//! | floor: two locked read-modify-writes on a line of one's own | 13 ns | 13 ns |
//!
//! # What is not here yet
//!
//! - **Waiting.** Every call answers at once. [`Reason::Queued`](crate::Reason::Queued) is there for
//!   the day when a request fits but others came before it. Waiters will attach to the scopes: a
//!   scope with waiters is a tight one, which is why every return below a tight scope already goes
//!   through its lock.
//! - **Maintenance by time**: returning idle blocks after an interval, deadlines before a bind. It
//!   attaches to [`maintain`].
//! - **Exporters of metrics, adapters for transports, and a watch on the process's real memory.**
//!
//! Out of scope for good: authentication, bandwidth, and quotas across machines.
