//! A transport ends before its guard, on every way that there is.

mod common;

use std::cell::RefCell;
use std::future::{Future, pending};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use common::{assert_nothing_left, governor, scope};
use leasehold::{ConnectionGuard, Governed, Governor, Limits};

/// A socket that notes, as it is closed, how many connections its governor counts.
struct Socket {
    name: &'static str,
    governor: Governor,
    closed: Rc<RefCell<Vec<(&'static str, u64)>>>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let counted = self.governor.snapshot().totals.connections;
        self.closed.borrow_mut().push((self.name, counted));
    }
}

/// A governor with one connection, whose socket is to be closed while the connection counts.
struct Stage {
    governor: Governor,
    closed: Rc<RefCell<Vec<(&'static str, u64)>>>,
}

impl Stage {
    fn new() -> Self {
        Self { governor: Governor::unlimited(), closed: Rc::default() }
    }

    fn socket(&self, name: &'static str) -> Socket {
        Socket { name, governor: self.governor.clone(), closed: self.closed.clone() }
    }

    fn governed(&self) -> Governed<Socket> {
        self.governor.inbound().try_govern(self.socket("tcp")).unwrap()
    }

    /// What was closed so far, each while the connection counted.
    #[track_caller]
    fn assert_closed(&self, names: &[&'static str]) {
        let closed: Vec<_> = names.iter().map(|name| (*name, 1)).collect();
        assert_eq!(*self.closed.borrow(), closed);
    }

    /// The connection has ended, and all that was closed was closed before.
    #[track_caller]
    fn assert_ended(self, names: &[&'static str]) {
        self.assert_closed(names);
        assert_nothing_left(&self.governor);
    }
}

/// A transport around another: what a TLS handshake returns.
struct Wrapped(#[allow(dead_code, reason = "kept for its drop")] Socket);

/// Polls once.
fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// The result of a future that is never pending.
fn run<F: Future>(future: F) -> F::Output {
    match poll(pin!(future)) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the future waits"),
    }
}

/// Runs what panics.
fn unwind(body: impl FnOnce()) {
    assert!(catch_unwind(AssertUnwindSafe(body)).is_err());
}

#[test]
fn dropped_whole() {
    let stage = Stage::new();
    drop(stage.governed());
    stage.assert_ended(&["tcp"]);
}

#[test]
fn dropped_by_a_panic() {
    let stage = Stage::new();
    unwind(|| {
        let _governed = stage.governed();
        resume_unwind(Box::new("while it is served"));
    });
    stage.assert_ended(&["tcp"]);
}

#[test]
fn dropped_by_a_task_that_is_cancelled() {
    let stage = Stage::new();
    let mut governed = stage.governed();
    let mut task = Box::pin(async move {
        let (_socket, guard) = governed.split_mut();
        guard.handle().until_revoked(pending::<()>()).await
    });
    assert!(poll(task.as_mut()).is_pending());
    drop(task);
    stage.assert_ended(&["tcp"]);
}

#[test]
fn taken_apart_into_two_variables() {
    let stage = Stage::new();
    {
        let (_guard, _socket) = stage.governed().into_parts();
    }
    stage.assert_ended(&["tcp"]);
}

#[test]
fn taken_apart_into_two_parameters() {
    fn serve(_guard: ConnectionGuard, _socket: Socket) {}
    let stage = Stage::new();
    let (guard, socket) = stage.governed().into_parts();
    serve(guard, socket);
    stage.assert_ended(&["tcp"]);
}

#[test]
fn taken_apart_and_only_the_guard_is_kept() {
    let stage = Stage::new();
    let (guard, _) = stage.governed().into_parts();
    stage.assert_closed(&["tcp"]);
    drop(guard);
    stage.assert_ended(&["tcp"]);
}

#[test]
fn mapped() {
    let stage = Stage::new();
    let wrapped = stage.governed().map(Wrapped);
    stage.assert_closed(&[]);
    assert_eq!(wrapped.0.name, "tcp");
    drop(wrapped);
    stage.assert_ended(&["tcp"]);
}

#[test]
fn mapped_by_what_panics() {
    let stage = Stage::new();
    unwind(|| {
        let _ = stage.governed().map(|_socket| -> Socket { resume_unwind(Box::new("wrapping")) });
    });
    stage.assert_ended(&["tcp"]);
}

#[test]
fn a_handshake_that_succeeds_keeps_the_connection() {
    let stage = Stage::new();
    let wrapped = run(stage.governed().try_map(async |socket| Ok::<_, ()>(Wrapped(socket))));
    let wrapped = wrapped.unwrap_or_else(|()| panic!("it succeeds"));
    stage.assert_closed(&[]);
    assert_eq!(stage.governor.snapshot().totals.connections, 1);
    drop(wrapped);
    stage.assert_ended(&["tcp"]);
}

#[test]
fn a_handshake_that_fails() {
    let stage = Stage::new();
    let failed = run(stage.governed().try_map(async |_socket| Err::<Wrapped, _>("no")));
    assert_eq!(failed.err(), Some("no"));
    stage.assert_ended(&["tcp"]);
}

/// A future that still has the transport when it is done.
struct Keeps(#[allow(dead_code, reason = "kept for its drop")] Socket);

impl Future for Keeps {
    type Output = Result<Socket, &'static str>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Err("no"))
    }
}

#[test]
fn a_handshake_that_fails_and_keeps_the_transport_inside() {
    let stage = Stage::new();
    assert_eq!(run(stage.governed().try_map(Keeps)).err(), Some("no"));
    stage.assert_ended(&["tcp"]);
}

#[test]
fn a_handshake_that_panics_before_it_is_a_future() {
    let stage = Stage::new();
    unwind(|| {
        let begin = |_socket: Socket| -> Keeps { resume_unwind(Box::new("beginning")) };
        let _ = run(stage.governed().try_map(begin));
    });
    stage.assert_ended(&["tcp"]);
}

#[test]
fn a_handshake_that_panics() {
    let stage = Stage::new();
    unwind(|| {
        let panics =
            async |_socket: Socket| -> Result<Socket, ()> { resume_unwind(Box::new("in it")) };
        let _ = run(stage.governed().try_map(panics));
    });
    stage.assert_ended(&["tcp"]);
}

#[test]
fn a_handshake_that_is_cancelled() {
    let stage = Stage::new();
    let waits = async |socket: Socket| {
        pending::<()>().await;
        Ok::<_, ()>(socket)
    };
    let mut handshake = Box::pin(stage.governed().try_map(waits));
    assert!(poll(handshake.as_mut()).is_pending());
    stage.assert_closed(&[]);
    drop(handshake);
    stage.assert_ended(&["tcp"]);
}

#[test]
fn a_handshake_that_never_begins() {
    let stage = Stage::new();
    drop(stage.governed().try_map(async |socket| Ok::<_, ()>(socket)));
    stage.assert_ended(&["tcp"]);
}

/// An error that carries the transport is the caller's, and so is the order then.
#[test]
fn a_handshake_that_returns_the_transport_in_its_error() {
    let stage = Stage::new();
    let returned = run(stage.governed().try_map(async |socket| Err::<Wrapped, _>(socket)));
    assert_nothing_left(&stage.governor);
    drop(returned);
    assert_eq!(*stage.closed.borrow(), [("tcp", 0)]);
}

#[test]
fn refused() {
    let stage = Stage::new();
    let full = governor(Limits::unlimited().system(scope().connections(0)));
    let _counted = stage.governor.inbound().try_admit().unwrap();
    assert!(full.inbound().try_govern(stage.socket("refused")).is_err());
    stage.assert_closed(&["refused"]);
    assert_nothing_left(&full);
}

#[test]
fn one_value_is_the_transport_and_lends_the_guard() {
    let stage = Stage::new();
    let mut governed = stage.governed();
    assert_eq!(governed.name, "tcp");
    governed.name = "renamed";
    let (socket, guard) = governed.split_mut();
    let lease = guard.try_lease(512).unwrap();
    socket.name = "renamed again";
    drop(lease);
    assert_eq!(governed.handle().id(), governed.guard().handle().id());
    drop(governed);
    stage.assert_ended(&["renamed again"]);
}
