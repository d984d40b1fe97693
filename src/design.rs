//! How the crate works and why: for changing it, and for trusting it.
//!
//! No code is in here. Each section ends with the files that carry it; their own module docs say more,
//! with the diagrams and tables that belong to them. `CONTRIBUTING.md` has a map of all files, and recipes
//! for changes that touch many of them: a further limit, scope, reason or size class.
//!
//! # Why it exists
//!
//! Two leaks, in good code that careful people wrote:
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
//! 2. **The guard is the connection.** There is one, it cannot be cloned, and when it drops, all that
//!    was leased through it is taken back. All that other code can have is a handle, which keeps
//!    nothing.
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
//! | P4 | *No stale bytes.* Safe code reads no byte that was not written through the lease it is read from. | the buffer view of a lease |
//! | P5 | *No use after return*, and every block is returned once. | the compiler for borrows, the pin for the rest |
//! | P6 | *A refusal closes* what was refused. | [`try_govern`](crate::Admission::try_govern), [`try_govern_or_else`](crate::Admission::try_govern_or_else) |
//! | P7 | *Refusals tell the truth.* Only if the limit would really be exceeded: never because of memory that connections keep idle, nor of a charge that does not last. There are two exceptions, of [rates](#addresses) and of [crowded scopes](#idle-blocks). | no roll-back; reclaiming |
//! | P8 | *No lost wake-up* among requests that wait for room. | not built yet, see [below](#what-is-not-here-yet) |
//! | P9 | *The fast path is the connection's own.* The lease of an idle block from the first magazine of its size, its pin, unpin and return take no lock and write no cache line that other connections write. On a stream too, unless it has a class of its own. | magazines; records of a cache line each |
//! | P10 | *Idle costs little.* At most 384 bytes of book-keeping for a connection, whatever it leased before: its entry in the registry and one pending `revoked` are in this figure. Beside it at most 192 for its peer, and a table's entry for its address. Idle blocks go at maintenance, under pressure, at `trim` and at close. | the record's layout |
//! | P11 | *Nothing about the departed.* Memory is a function of what is live, not of what ever was, nor of the peak. What rates have to remember is bounded, at 48 MiB (twice that while limits change), and forgotten once it is paid off. | scopes that exist while held; tables that shrink; sketches |
//! | P12 | *Metrics are free.* No allocation, lock or shared write for them on the lease path. | counts in the magazine's own word |
//! | P13 | *Handles are harmless.* Ids are never reused. What is kept of a closed connection keeps nothing open, and at most 512 bytes, and 64 for each revoked lease beyond eight. | serial numbers; the empty record |
//! | P14 | *No way around the door.* Of inbound connections that are not allow-listed, no prefix of addresses has more than its limit, nor more new ones than its rate, whatever else comes by. | exact counts; sketches that never forget a debt |
//!
//! # The words
//!
//! | word | meaning |
//! |---|---|
//! | *governor* | one budget, one arena and one registry, and the way in for connections |
//! | *guard* | a connection's life: one value, not `Clone`; its drop ends the connection |
//! | *handle* | refers to a connection without keeping it open |
//! | *record* | what the library keeps of one connection |
//! | *scope* | something with limits and use: the system, a peer, a class, a connection, a stream |
//! | *parents* | the scopes above one connection: peer or transient, class, class-per-peer, system |
//! | *limit* | the most of one resource in one scope, as the user sets it |
//! | *ceilings* | a scope's limits in the form in which they are compared |
//! | *partition* | one of two systems with a transient scope each: ordinary, or allow-listed |
//! | *traffic class* | a scope by name: a listener, a protocol, a service. In the API just *class* |
//! | *size class* | one of the sizes that blocks come in |
//! | *rank* | what kind of parent a scope is: a connection has at most one of each rank |
//! | *climb* | visit the parents of a connection, in the order in which they are asked |
//! | *demand*, *charge*, *credit* | what is asked of a scope; putting it on the scopes; taking it off |
//! | *tally*, *lane* | how much of everything is in use, as scopes add and subtract it; in it, the count of one resource that is not bytes |
//! | *shortfall* | a scope that has no room for a demand, and what is missing |
//! | *curable* | of a shortfall: idle blocks could make up for it |
//! | *hold* | of a scope: count one more holder, without which it goes. Of a lease: how it has its block (`Hold`: borrowed, owned, pinned, detached) |
//! | *lease* | a block, or a mapping of its own, for a time: borrowed, owned, pinned or detached |
//! | *reservation* | a charge for bytes that other code allocates |
//! | *block*, *slab*, *arena* | one buffer; the 1 MiB that it is cut from; all slabs |
//! | *slot*, *magazine* | a place for one block; eight of them with one word of state. In the registry a slot is a place for one record |
//! | *first*, *extra magazine* | in the record itself, one for each size class; made on demand |
//! | *depot* | the extra magazines of one connection |
//! | *stocked*, *slow* | has idle blocks to lease; sends leases and returns to the mutex |
//! | *fold* | add the leases and returns that a magazine's word counts to the governor's totals, and start from zero |
//! | *large lease* | larger than every size class: a mapping of its own, in a slot of an extra magazine |
//! | *idle*, *cached* | a block in a magazine that no lease has: charged, and ready to be leased. Reports say *cached* |
//! | *cacheable* | of a scope's memory, what lies in blocks that could be idle |
//! | *pin* | keeps a block from a close while its bytes are touched |
//! | *detached* | of a block: it lives on as `Bytes` |
//! | *straggler* | a lease that was out when its connection closed, until it drops |
//! | *orphan* | a block that outlives its connection's guard, as reports show it |
//! | *member* | a connection that a scope lists as one that may keep idle blocks |
//! | *flush* | take idle blocks out of magazines, and give them to the arena |
//! | *sweep*, *reclaim* | flush one member and strike it from the lists; sweep members until a request fits |
//! | *settle* | of the arena: give back to the system what was set aside for that, with no lock held |
//! | *attempt* | one try at a request under the locks |
//! | *ledger* | the connection's side of what is charged |
//! | *keep* | the record's reference to itself, from the first lease until the guard is gone and no straggler is left |
//! | *sides* | a connection's ledger and the scopes, both locked |
//! | *account* | the word that says what one stream holds |
//! | *visit* | a connection that is to be counted at an address, compared with the limits there |
//! | *generation* | of limits: rises with every change. Of a sketch: its cells at one size |
//! | *leftovers* | what has to be dropped once a lock is free |
//! | *site*, *tick* | the line that leased; a step of 100 ms of the coarse clock |
//! | *note* | site and tick, in the record of a block or beside a large mapping |
//! | *walk* | one visit of every connection, to add up or to look for something |
//! | *quiescent* | of a governor: no connection is open, and nothing is charged |
//! | *fault* | something that is refused or revoked on purpose, in tests |
//!
//! # The tree
//!
//! All scopes are vectors of numbers under one mutex. A charge takes it, checks every scope above the
//! connection, and commits to all. Nothing is ever rolled back, so there is no moment at which a charge
//! that will not last makes another request fail, and none at which a limit is overstepped. A bind, which
//! moves a connection with all it holds from *transient* to its peer, is one step too. `src/scope.rs`
//! has the diagram of the tree.
//!
//! **Why one lock.** Every charge ends in a system scope, so whatever locks are below it, no two charges
//! run at once. What is done under it is a few comparisons and additions of vectors. No memory is mapped,
//! no waker woken, and a table that grows is one of 256 parts. What takes longer is done in pieces, with
//! the lock let go in between: a snapshot reads part by part (each row is true at one moment, and the sums
//! agree when nothing runs), a guard leaves the classes of its streams 64 at a time, and limits take the
//! forms [below](#limits).
//!
//! **Parents.** A connection knows its scopes by 16 bytes: the peer, the class, and which of the two
//! partitions. A reference to a peer or a class is the hash of its name, in which a few bits tell names of
//! the same hash apart. There is no pointer in it and no reference count to share between cores: a scope
//! counts its holders under the lock, and is found by reference without comparing names.
//!
//! **Holders.** The scope of a peer, of a class, and of a peer's part of a class exists while something
//! holds it; the last release takes it out of its table, so nothing has to look for scopes without use.
//! (An entry per peer that is never removed is a slow leak that the peers control:
//! libp2p-connection-limits 0.7.0 grows by about 204 bytes for each distinct peer, 22.7 MB after 111,000 of
//! them.) A class that the limits do not name has the default limits, and a scope of its own like any
//! other.
//!
//! **What is left behind.** When its guard drops, a connection is off every scope but for memory that is
//! still out (see [Close](#close)). That stays charged to the peer and the system, and to nothing else: a
//! class whose `Bytes` are forgotten somewhere does not lock its own next connections out, and
//! connections that never finish a handshake cannot fill the transient scope for good.
//!
//! **The allow list** is asked after the ordinary scopes, subnets and rates have refused and no idle
//! memory is left to reclaim. Then the connection moves to the other partition, which is limited too: on
//! admission, but also later, when it asks for memory that the ordinary system or transient scope does not
//! have. A rule for a peer in a network lets connections from there in while their peer is not known; a
//! bind to another one moves the connection to the ordinary scopes, with its address counted from then
//! on, or is refused.
//!
//! Files: `scope.rs`, `scope/charge.rs` (charge, move, credit), `scope/scopes.rs` (how connections come
//! and go), `scope/nodes.rs` (the way up), `scope/demand.rs` (what is asked, compared with limits),
//! `scope/named.rs` (peers and classes), `usage.rs`.
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
//! **In force.** The tree keeps the limits of the scopes that always exist as *ceilings*: a vector like the
//! one that counts use, so that the check is a few vector instructions and only a refusal looks up which
//! limit it was. `set_limits` replaces the limits under the lock and counts one more *generation*. A peer's
//! or a class's scope remembers the generation that its limits are from, and looks them up anew when it is
//! next used: so the change is one step for the whole tree, however many scopes there are. Counts of
//! prefixes that the new limits have and the old had not are made in pieces before that step. Meanwhile all
//! old limits hold, and each connection that comes or goes is counted for both.
//!
//! **The comparison** of a demand with a scope's limits is one function, `Ceilings::check`. Before it, a
//! fast lease on a stream compares with a copy of the stream's memory limit; that refuses nothing, and
//! where it finds no room the lease goes the slow way, to `check`. What is not a scope has limits of its
//! own kind: addresses in `subnet/`, what is resident in `arena/books.rs`.
//!
//! **Priorities** give a request a share of each memory limit: 40, 60, 80 or all of it. The shares are of
//! the limit and not of what is left, so the result does not depend on the order of requests. A request
//! below the highest priority takes the lock even for an idle block, which is charged already: the share
//! counts what is in use without the block, and the block.
//!
//! **Observing.** A scope in [`Limits::observe`](field@crate::Limits::observe) has no bounds when a
//! request is checked, and its own when it is charged: then what it would have refused is counted, once
//! for each request and scope. Idle blocks are taken into account by looking (at 16 connections, for this
//! is done under the lock): an observing scope never takes any. The arena follows the system: what is
//! not enforced there bounds nothing.
//!
//! Files: `limits.rs` and `limits/`, `limit.rs`, `priority.rs`, `scope/demand.rs`.
//!
//! [`Limits`]: crate::Limits
//! [`Limit`]: crate::Limit
//! [`NodeType`]: crate::NodeType
//! [`Host`]: crate::Host
//!
//! # Addresses
//!
//! An address lies in one prefix of each length, or in one network that has limits of its own. For
//! these there are two kinds of state, beside the scopes and under the same lock. Both are about inbound
//! connections in the ordinary scopes: what is allow-listed or has no address is not counted.
//!
//! **Counts are exact.** The connections of every single address are counted, whatever the limits
//! are, and the counts of all other prefixes follow from these. So limits can change at any time,
//! and no connection is counted wrongly after. An entry goes with its last connection.
//!
//! **Rates are in sketches.** A rate has to remember connections that are gone, and an attacker can have
//! any number of addresses. What is kept of a prefix is one number, its theoretical arrival time
//! ([GCRA](https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm)), in three of the eight cells
//! of one cache line; the least of the three is its own or a later one, and a commit raises those
//! that are lower. So a debt is never forgotten. The price is that a prefix may seem to be in debt
//! if all three of its cells are shared with others that are: such a refusal may be untrue. Cells whose
//! time has passed are free again, and the sketch grows and shrinks with how many are not, in generations
//! of eight times the size: nothing is copied, and the older generation is read until its last debt is
//! paid. The hash is keyed, so an attacker cannot choose whose cells to share.
//!
//! An admission asks the limits by address, then the scopes, and only then counts for both: what
//! one of the two refuses has spent nothing of the other. A rebind, and a move to or from the allow-listed
//! scopes, is one step with the address as well. `should_validate` spends from sketches of its own,
//! with half the burst, so that a flood from forged addresses takes nothing from what real ones may
//! do.
//!
//! Files: `subnet.rs` and `subnet/`, `connection/admit.rs`.
//!
//! # Two speeds
//!
//! A connection keeps a *magazine* for each size of block: up to eight blocks, charged to every scope
//! already, and one 64-bit word that says everything about them. `src/magazine.rs` has the word's
//! fields, the states of a slot, and the transitions between them.
//!
//! **Fast.** A lease is one compare-exchange of that word, which clears a *free* bit, sets how the block is
//! held and counts, unless the word says *closed* or *slow* or the count is full. The return is one
//! compare-exchange more, a pin and an unpin one each. The word and its eight block numbers are 40 bytes,
//! and no other connection writes near them. An owned lease is a bare pointer to the record: it pays no
//! reference count.
//!
//! **Slow.** Everything else takes the connection's mutex and then, where a charge changes, the tree's and
//! the arena's. The connection's side and the scopes' change together in one value, `Locked`: the open
//! mutex and, in a field behind it, what has to be dropped once the mutex is free. Its `charge` changes
//! both sides or neither.
//!
//! **Attempts.** What must not be done under a lock is done between two tries. An *attempt* runs under the
//! locks and succeeds, or says what stopped it (`Stop`). Final are a refusal (by a limit, or because there
//! is no memory), the close, and a bind of what is bound. The others are cured with no lock held, and the
//! next attempt begins anew: a slab to be mapped, a large mapping to be made, the clock to be read, idle
//! blocks in the way in some scope. It ends: a mapping hands its first block to the request that asked for
//! it, the time is read once, and while a request reclaims from a scope no connection below starts to keep
//! blocks. This is the whole ladder of failure: `Shortfall` in the tree, `Stop` in an attempt, the public
//! error.
//!
//! **More than eight.** Beyond the first magazine a lease is a slot of an *extra* one: the same word, the
//! same states. A connection's extra magazines of one size stand in a row, those without an idle block
//! first and *slow*, those with one (*stocked*) last. A lease takes from the last, in constant time and
//! under the connection's mutex alone if the block is idle; a return to a stocked magazine takes no lock;
//! and what looks for idle blocks walks the stocked ones only. A lease knows its slot by one pointer: the
//! magazine's address, with the slot in its low bits. A *large lease* is the only slot of an extra magazine
//! that is never stocked. It is unmapped after the lock, and goes off the scopes after that: the arena is
//! never asked for room that the scopes have already. An extra magazine goes with its last block, unless a
//! revoked lease still points to it.
//!
//! **What has to be allocated** for a lease, a reservation, a stream or a bind is allocated fallibly
//! (`TryBox`, `try_reserve`) before anything is charged, and a failure is a refusal
//! ([`Reason::OutOfMemory`](crate::Reason::OutOfMemory)). Only the `Arc` of an admission and of a
//! stream's account may still abort the process.
//!
//! **A record lets go.** All connections share two values. `Hot` is 64 bytes: what a lease reads, the
//! coarse clock and the sizes of blocks. `Shared` is the rest: arena, tree, registry. A record has both
//! until nothing of it is charged any more, and then only `Hot`: a handle that is kept for ever keeps no
//! governor.
//!
//! **Locks** are taken in one order: connection, tree, arena. The registry's shards, the folded counters
//! and the memory of a large lease are taken under any of these and take none; the lock that puts changes of
//! limits in turn comes before the tree's. A thread that holds one connection's mutex never
//! waits for another's: it tries it, to take idle blocks, and goes on if it is held. Nothing is
//! mapped, unmapped or woken, and no waker or record dropped, under any of them: a dropped waker can drop
//! a task that owns a guard.
//!
//! Files: `magazine.rs` and `magazine/`, `connection.rs`, `connection/locked.rs`, `connection/attempt.rs`,
//! `connection/lease.rs` (the slow way, top-down), `connection/put.rs`, `connection/depot.rs`,
//! `try_box.rs`.
//!
//! # Idle blocks
//!
//! A returned block stays in its magazine, charged and ready. How much stays follows what the connection
//! uses:
//!
//! - Between two calls of [`maintain`] each magazine counts its leases. One that had none gives its idle
//!   blocks back.
//! - When the last of these calls is more than ten seconds ago, or there was none, an extra magazine
//!   becomes stocked only if no other of its size is. So without maintenance at most 16 idle blocks of a
//!   size stay with a connection: the first magazine's, and one extra magazine's. Magazines that were
//!   stocked before stay so, and take returns, as long as they have an idle block left.
//! - `trim` gives all back at once, and so does a close. Limits that are set with memory `Blocked` in some
//!   scope take those of all connections.
//!
//! So a scope can be full of memory that no code uses, and a refusal because of it would be untrue (P7).
//! Before a request is refused for memory, therefore:
//!
//! 1. The connection's own idle blocks give way, if they are charged where room is missing and help.
//!    Before a refusal they are looked at once more: if blocks moved meanwhile, all that are idle give way,
//!    and its magazines are slow, so that the next look finds none that moves.
//! 2. The scope that is short knows a bound: *cacheable*, how much of its memory lies in blocks that could
//!    be idle. If more is missing than that, less the blocks that the asking connection has out, the
//!    request is refused at once. Nothing is searched, and nothing taken.
//! 3. One of the scope's members may have as much idle in one magazine. Then the request takes it, no more
//!    than it is short of, in the same turn of the tree's lock: the bytes go from one connection to the other
//!    and are never free in between. The first member to be tried is the one that such a block went to
//!    last. Its mutex is tried and not waited for, and its leases stay as fast as they were.
//! 4. Otherwise the request *looks*: it adds up what lies idle, in the same turn of the lock if the scope has
//!    at most 32 members, else 64 of them with each turn. Too little: refused, and nothing is taken.
//! 5. Enough, with several: it sweeps one member after the other until what was missing is there, and
//!    tries again.
//!
//! Blocks move while they are counted: one is leased on a connection that is yet to be looked at, another
//! returned on one that was, and a look misses both. So up to 32 members are looked at twice. Each lease and
//! return counts in the word, so if both looks find the same counts, all that they found lay idle at one
//! instant, at which the tree was locked: the refusal is true. If blocks moved, all members are swept until
//! what is missing is there or none is left. So a request may take a few idle blocks in vain, but only if
//! others moved at that very moment. Which of the two promises gives way there is a choice: P7 holds.
//!
//! In a scope with more than 32 members it is the other way round: they are looked at once, idle memory
//! that moves meanwhile may be missed, and a request refused that would have had room. This is the exception
//! to P7. There, to be exact, the request would have to make the fast path of every connection slow.
//!
//! A scope lists a connection when the first of its blocks comes to lie idle and not before, and strikes it
//! in the same step that takes its idle bytes off. So where blocks are only leased, a full scope refuses
//! without a look. A sweep is one read-modify-write for each magazine, which takes the
//! idle blocks and sets *slow* together: a return that comes later goes the slow way. While a request
//! reclaims from a scope, the scope is marked (*reclaiming*) and no connection below starts to keep blocks:
//! else what it has swept could come to lie idle again, and the request would never end.
//! A bind may still bring one in that keeps some; a request sweeps each member that is listed as it
//! comes by once, and then tries again. The mark goes with the request, so a scope that is always full costs
//! its leases nothing in between.
//!
//! The arena, where it would refuse, takes idle blocks of any connections too: as many bytes as are asked
//! for, then twice as many, until it can grant the request or none is idle.
//!
//! What a stream's class lacks is not reclaimed: idle blocks belong to no stream, and are not charged to
//! its class.
//!
//! Files: `scope/members.rs`, `scope/node.rs`, `connection/attempt.rs`, `connection/put.rs`,
//! `connection/shared.rs`.
//!
//! # Close
//!
//! A connection is *open*, then *closed*, then *gone*, then forgotten.
//!
//! - **Closed**: once, by the guard or from outside ([`ConnectionHandle::close`],
//!   [`Governor::drain`]). One step for each magazine sets *closed* and vacates every slot that is
//!   idle or owned-but-not-pinned. The closer returns exactly those. After that step *occupied*
//!   means that a block is still out, and each of these has exactly one party left to return it: the
//!   drop of the borrowed lease, the unpin, the drop of the pinned lease or of the `Bytes`. No
//!   arbiter is needed, because the step that closed the magazine also decided which party that is.
//! - **Gone**: when the guard drops. No borrow of it can be alive, so what is still borrowed was
//!   forgotten (`mem::forget`), and is taken. The counts come off here and not before, because only
//!   the guard's owner can close the socket they stand for. Memory that is still out stays charged
//!   to the peer and the system.
//! - **Forgotten**: with the last block back, the record leaves the registry, lets go of its peer's
//!   scope and of the governor.
//!
//! The close counts the leases that are out (*stragglers*), and the record keeps itself in memory until the
//! guard is gone and the last of them has dropped. This is why a `'static` lease that finds its magazine
//! closed takes the mutex before it gives its block back. Wakers are woken last, with no lock held and
//! everything done; if some panic, the rest are woken first.
//!
//! `freeze` hands out the block itself, unless a quarter of it would do: then the bytes are copied
//! into the smallest size that fits, so that a short slice does not pin a large buffer.
//!
//! Files: `connection/close.rs`, `connection/wakers.rs`, `lease.rs`.
//!
//! [`ConnectionHandle::close`]: crate::ConnectionHandle::close
//! [`Governor::drain`]: crate::Governor::drain
//!
//! # Streams
//!
//! A stream counts in its connection's scopes. What it holds is one word, its *account*: the bytes in use
//! and three marks. A lease from an idle block adds its bytes to the word and needs no lock.
//!
//! - *busy* is set while a request for the stream is decided under the connection's mutex. No fast lease
//!   adds meanwhile, so what is in use can only fall, and the bytes are added when nothing can fail any
//!   more.
//! - *classed* sends every lease and return the slow way, where the stream's own class, given by
//!   `bind_class`, is charged besides. The step that sets it also tells how much was in use: what returns
//!   before is not in that figure, and what returns after finds the mark. So nothing is charged twice or
//!   never, and streams without a class pay nothing for those that have one.
//! - *closed* is set by the `StreamGuard`'s drop. The account stays until the last lease on it is back.
//!
//! Files: `connection/account.rs`, `connection/stream.rs`, `stream.rs`.
//!
//! # The arena
//!
//! ```text
//! arena ── size class 512 B ── slab of 1 MiB ── 2048 blocks     each block: a record of 64 bytes
//!       ├─ size class 2 KiB ── …                                (the line that leased it, and when)
//!       └─ size class 64 KiB ─ …
//!       lease larger than every size class ── a mapping of its own
//! ```
//!
//! The arena knows nothing of budgets, and the scopes know nothing of memory; they meet in the
//! connection. Blocks come from the slab with the lowest number that has one, so that the others
//! can empty. Of wholly empty slabs a size class keeps one. Before slabs outgrow the system's limit (and
//! the allow-listed system's, if it is in use) plus one slab for each size class, other size
//! classes' empty slabs are unmapped and whole free pages inside partly used slabs are given back; what
//! stays resident beyond that because free blocks lie between used ones has a cap of its own. At the
//! cap idle blocks of connections go back to the arena first, since those may be what keeps
//! pages from being given back; only when none is idle the arena refuses. Calls to the system are made without a lock.
//!
//! A block is found by 32 bits (slab and block in it) through a directory of two levels, without a
//! lock: a block that is out keeps its slab mapped. Blocks keep the bytes of their last user. A lease
//! shows only what was written through it, so they stay unseen; `zero_on_return` is for memory that
//! holds secrets.
//!
//! Files: `arena.rs` and `arena/`, `lease/view.rs`.
//!
//! # Names, sites, ages
//!
//! Connections are found by a serial number that is never used again and the slot of the registry to look
//! at first, so an old id finds nothing. The registry is 16 shards, each a vector of slots; a record knows
//! its slot. So that a shard's memory follows what is live, a removal also moves records from the topmost
//! slots down and gives memory back, a constant number at a time. Hashes of anything that a peer chooses
//! are keyed.
//!
//! A lease notes its caller (`#[track_caller]`, or the line that `request().site(…)` names) and the coarse
//! tick, every lease and not a sample: two plain stores in the block's record, when the lease first looks
//! for its bytes. A borrowed lease does that as it is made, an owned one at its first pin, because a close
//! may have taken its block before. Until then the record shows the lease before it. No report does: they
//! name the lines of orphans, and what was not pinned a close has taken back. Time comes in through
//! [`Clock`], which tests turn by hand; the tick is what [`maintain`], [`snapshot`] or an admission last
//! read.
//!
//! Leases and returns are counted each where it happens, in the word. Before 15 bits run full the
//! next lease folds them into the governor's totals. So `leased − returned = outstanding` is a check
//! of three independent figures and not a subtraction of one from another.
//!
//! Files: `registry.rs`, `keyed.rs`, `clock.rs`, `report.rs`, `governor/snapshot.rs`.
//!
//! # Metrics, reports, events
//!
//! A *walk* visits every connection once, one after another, each under its own mutex, and adds up what
//! it has: all from one reading of each magazine's word. A connection that moves in the registry meanwhile
//! knows by two bits that this walk has seen it. What connections have folded is read before the walk, so
//! that nothing is counted twice; what is folded meanwhile is missed, and the highest sums that were shown
//! keep a counter from falling. Publishing, a report and the search for old orphans are walks; they need the
//! same memory however many connections there are, but for the report.
//!
//! The most memory that a connection ever had is kept as the number of a histogram's bucket: four bits
//! beside the two. The ends of connections are counted in these buckets under the tree's lock, which
//! the end holds anyway. A publication takes the counts and hands each out as one sample that
//! occurred so often.
//!
//! A line is named for each block that is out, for each open stream, and for each open guard. A reservation
//! counts to the line of its guard. An owned lease notes its line when it takes a fresh block, and when it is
//! pinned for the first time. So an idle block that it took has the note of an earlier lease until then, and
//! a magazine's word does not tell which. For an owned lease that is not pinned, on a connection that has
//! ever kept blocks idle, a report names the line that admitted the connection, and the noted line as a
//! possible one.
//!
//! *Faults* (feature `testing`) are decided where a request enters and before it takes a lock. While there
//! are any, connections keep no idle blocks, so that every lease comes by there.
//!
//! Files: `counters.rs`, `connection/marks.rs`, `connection/audit.rs`, `connection/events.rs`,
//! `governor/metrics.rs`, `metrics.md`, `governor/report.rs`, `summary.rs`, `testing.rs`.
//!
//! [`Clock`]: crate::Clock
//! [`maintain`]: crate::Governor::maintain
//! [`snapshot`]: crate::Governor::snapshot
//!
//! # What it costs
//!
//! - **A lease and its return** from the first magazine of a size: one atomic read-modify-write each. An
//!   owned lease pays one more to pin and one to unpin. On a machine with 2 cores, blocks of 16 KiB,
//!   rotating over 64 connections:
//!
//!   | | one thread | × floor | two threads | × floor |
//!   |---|---|---|---|---|
//!   | floor: two locked steps on a line of one's own, a buffer touched | 8.6 ns | 1.0 | 8.7 ns | 1.0 |
//!   | borrowed lease and return | 17.3 ns | 2.0 | 17.5 ns | 2.0 |
//!   | owned lease, pin, unpin, return | 31.9 ns | 3.7 | 32.2 ns | 3.7 |
//!   | a stream's lease, pin, unpin, return | 40.1 ns | 4.7 | 42.1 ns | 4.9 |
//!   | `Arc<Semaphore>` with owned permits, and `BytesMut` | 78.5 ns | 9.2 | 133 ns | 15.3 |
//!
//!   Medians of 300 interleaved rounds. The machine is noisy: the tenth and the ninetieth percentile of
//!   the borrowed lease are 12 and 23 ns, and `cargo bench -p leasehold-benches --bench ratios` prints
//!   them for every row. `--bench outstanding` measures many leases at once.
//! - **A lease beyond the eighth of a size**: the connection's mutex, if a block is idle. **First leases,
//!   large leases, reservations, streams, admission, close**, and each lease below the highest priority or
//!   on a stream with a class of its own: then also, briefly, the one lock of the tree.
//! - **An idle connection**: what P10 says, counted by `tests/idle.rs`. `tests/handles.rs` counts P13.
//! - **A block**: a record of 64 bytes beside it, which is 12.5 % of 512 bytes, 1.6 % of 4 KiB and 0.1 %
//!   of 64 KiB. Sizes are 512 bytes, 2, 4, 16 and 64 KiB unless you choose others; a lease has the whole
//!   block.
//! - **The arena**: maps slabs of 1 MiB, and keeps at most one empty one for each size.
//! - **Time**: no thread and no task. [`maintain`], about once a second, looks through what connections
//!   keep idle and what rates no longer need, and advances the coarse clock.
//!
//! # Beside the alternatives
//!
//! | | leasehold 0.1 | go-libp2p rcmgr 0.48 | tokio `Semaphore` and `BytesMut` |
//! |---|---|---|---|
//! | language | Rust | Go | Rust |
//! | hard memory budget | yes | yes | of permits; the program has the buffers |
//! | budgets for | system, transient, peer, class, each peer's part of a class, connection, stream | the same; its protocols and services are classes here | one count for each semaphore |
//! | connections, streams, descriptors | counted | counted | – |
//! | owns the buffers | yes | no: it knows what it is told | no |
//! | bytes that other code allocates | `Reservation` | yes | permits |
//! | given back by | the guard's drop, all of it | a `Done()` for each scope | each permit's drop |
//! | takes back what other code still holds | owned leases, yes | no | no |
//! | closes what it refuses | yes, it is given the transport | no, the caller does | no |
//! | tells what is held, by which line, since when | of every connection, and of every block that outlives one | no | no |
//! | checked by a model checker | yes | no | the semaphore is |
//! | waits for room | not yet | no, fails at once | yes, first come first served |
//! | priorities; allow list; limits by subnet and rate | yes | yes | no |
//! | limits scaled to the machine; limits from a file | yes, for six types of node; TOML and JSON | yes; JSON | no |
//! | tries limits out before they refuse | yes, scope by scope | no | no |
//! | metrics | yes, by size of block too | yes | no |
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
//! state, leases against a `Vec`, limits files against what was written. Goldens hold what a diff of code
//! would not show: every number of every node type, every public name, and every message about a
//! malformed file.
//!
//! | what is measured | where |
//! |---|---|
//! | a lease and its return, on a connection and on a stream; a reservation; beside the alternatives and a floor | `cargo bench`, benches `lease` and `ratios` |
//! | many leases of one connection; leases at full scopes; an admission with a bind and its end | benches `outstanding`, `pressure`, `admission` |
//! | allocations on the lease path: none | `tests/no_allocation.rs` |
//! | bytes for each idle connection, peer and departed handle | `tests/idle.rs`, `tests/handles.rs`, `tests/departed.rs` |
//! | what is mapped and resident | `tests/mapped_memory.rs` |
//! | ten million addresses that knock while clients come back: which are let in, and what is kept | `src/subnet/tests/flood.rs` |
//! | resident memory and throughput over real sockets, with and without a governor | `examples/churn` |
//!
//! Bounds are asserted; times are printed, for they differ from machine to machine.
//!
//! # What was tried, and left
//!
//! Times are from one quiet run on a machine with two cores, blocks of 16 KiB: the ratios matter,
//! not the figures. `cargo bench` measures the code as it is.
//!
//! *The tree*
//!
//! - **Charging scopes by compare-exchange, rolling back on failure.** Faster: 49 ns for three levels
//!   against 92 ns with locks. Wrong: the model checker finds a request that is refused because it
//!   looked between another's charge and roll-back. And only the slow path would gain.
//! - **A lock for each scope**, in a fixed order: transient, peer, class, system. To admit, bind and
//!   close a connection took 22 locks instead of eight, and no two charges ran at once even so, for
//!   each ended under the system's lock.
//! - **A lock of their own for the addresses**, around the tree's. Two more locks for a connection, and
//!   between the two a moment in which one of them does not know yet what the other does.
//! - **One shared scope for class names that no limits mention**, past 256 of them at once. 266 streams of
//!   one peer had another peer's unused class refused.
//!
//! *Idle blocks*
//!
//! - **A sweep that loads the word and goes on where nothing is free.** A return right after the load
//!   then caches a block that nothing will ever look for; the model checker finds it.
//! - **A sweep before every refusal.** One byte at low priority, refused in the end, took the idle
//!   blocks of 100,000 connections, in 182 ms; 70 such requests a second slowed the leases of others from
//!   80 ns to 1.4 µs. Hence the bound, and the look.
//! - **A mark on the scope until its use falls below seven eighths of the limit**, during which no
//!   connection below keeps blocks. A server that runs at its limit runs there: a lease and its return
//!   cost 568 ns instead of 20.
//!
//! *Leases*
//!
//! - **The state of each block in a word of its own**, beside a magazine's word with only *free* and
//!   *occupied*: a lease of 24 to 29 ns, which is good. But a close then has to visit every leased
//!   block with a *revoked* flag, and the drop of an owned lease, of a `Bytes` and the last sweep
//!   need the free bit as an arbiter. Eight small mistakes in that protocol each turned its model
//!   red: a load and a store for a read-modify-write; *revoked* overwriting *pinned*; a refill that
//!   does not look at *closed* again; a return that ignores *closed*; a relaxed unpin; a `freeze`
//!   that leaves *owned* unset; a second close that ends early; a drop that skips the arbiter. With
//!   all states in one word most of these cannot be written down.
//! - **A map of the leases that no magazine has a slot for**, with states of their own. First in, first out
//!   over *k* borrowed leases: 14 ns at 8, 70 at 16, 110 at 32, 155 at 256, as each lease and return took
//!   the tree's and the arena's lock. In a prototype extra magazines ran at 26 to 36 ns for 16 to 1,024.
//! - **A reference count in every owned lease.** Two more locked operations for each; two of them,
//!   uncontended, are 13 ns, half a lease. Counting the leases that are out at the close costs nothing
//!   before.
//! - **Large leases off the scopes before they are unmapped.** Of 173 requests for 40 MiB under a limit of
//!   64, made as a connection with 48 ended, the arena refused 168.
//! - **`Instant::now` for the age of a lease.** 30 ns: more than the lease.
//! - **Sampled leak records**, as Netty has them (1 in 128 by default). Two plain stores are cheap
//!   enough to be exact.
//!
//! *Tables*
//!
//! - **The crate `slab`**, for records of connections and others. It does not compact: one record with a
//!   late key keeps the room of the whole peak behind it, and 200,000 leases of which one is kept held 10.6
//!   MB. It also allocates inside its own `insert`, under a lock, and aborts where there is no memory.
//! - **Connections in hash tables by serial number.** In a prototype, vectors of slots took 17 % off an
//!   admission with 1,000,000 connections open.
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
//! - **Waiting.** Every call returns at once. Waiters will attach to the scopes: a scope with waiters is
//!   one that is being reclaimed from, and what was swept returns the slow way, past its lock. Scopes are
//!   not all that a request can wait for. Each of these needs a wake-up of its own: the connection's own
//!   limit and a stream's (no scope refuses then: `Shortfall::at` is `None`), the arena's bound, a limit by
//!   address and a rate, limits that `set_limits` or `set_peer_limits` raises, and a bind or a move to the
//!   other partition, after which a waiter stands below other scopes.
//! - **Deadlines** before a bind. [`maintain`] will end what is late. Today it visits only connections that
//!   may keep idle blocks (members), so deadlines need a list of their own.
//! - **Adapters for transports, and a watch on the process's real memory.**
//!
//! Out of scope for good: authentication, bandwidth, and quotas across machines.
