//! Threads, and what they share: loom's or the standard library's.

#[cfg(leasehold_loom)]
pub use loom::{future::block_on, sync::Arc, thread};
#[cfg(not(leasehold_loom))]
pub use std::{sync::Arc, thread};

/// What a thread may need: making a governor and reading all of it take more than the 32 KiB that
/// loom gives a thread unasked.
const STACK: usize = 256 << 10;

/// Starts a thread with a stack that is large enough.
#[track_caller]
pub fn spawn<T: Send + 'static>(
    body: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    thread::Builder::new().stack_size(STACK).spawn(body).expect("a thread can be started")
}

/// Runs `other` on a thread of its own beside `this`, and returns what both returned.
#[track_caller]
pub fn race<T, U: Send + 'static>(
    this: impl FnOnce() -> T,
    other: impl FnOnce() -> U + Send + 'static,
) -> (T, U) {
    let other = spawn(other);
    let this = this();
    (this, other.join().expect("the other thread panicked"))
}

/// Runs three threads, as [`race`] does two.
#[track_caller]
pub fn race3<T, U: Send + 'static, V: Send + 'static>(
    this: impl FnOnce() -> T,
    second: impl FnOnce() -> U + Send + 'static,
    third: impl FnOnce() -> V + Send + 'static,
) -> (T, U, V) {
    let third = spawn(third);
    let (this, second) = race(this, second);
    (this, second, third.join().expect("the third thread panicked"))
}

/// Waits for a future on this thread.
#[cfg(not(leasehold_loom))]
pub fn block_on<F: Future>(future: F) -> F::Output {
    use std::task::{Context, Poll, Wake};

    struct Unpark(thread::Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let mut future = std::pin::pin!(future);
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
