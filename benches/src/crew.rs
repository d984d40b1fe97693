//! The threads that work, and how they are timed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// How many threads there are at most.
pub const THREADS: usize = 2;
/// How often a thread checks whether the other one is done, in one turn.
const CHECKS: u64 = 16;

/// Does something so many times.
pub type Work = Box<dyn FnMut(u64)>;

/// Prepares a contender's work for a thread, on that thread.
pub type Prepare = Box<dyn Fn(usize) -> Work + Send + Sync>;

/// Threads that wait for work. All of them live as long as the crew, whether they work or not: a
/// process with a single thread takes short cuts in its allocator that no server would see.
pub struct Crew {
    hands: Vec<Hand>,
}

struct Hand {
    /// `None` once there is nothing more to do.
    orders: Option<Sender<Order>>,
    /// Nanoseconds per operation.
    paces: Receiver<f64>,
    thread: Option<JoinHandle<()>>,
}

struct Order {
    contender: usize,
    times: u64,
    race: Arc<Race>,
}

/// One turn, which all threads in it begin together and end together.
struct Race {
    runners: usize,
    ready: AtomicUsize,
    over: AtomicBool,
}

impl Crew {
    /// Starts all threads, and waits until each has prepared every contender.
    pub fn new(contenders: impl IntoIterator<Item = Prepare>) -> Self {
        let contenders: Arc<[Prepare]> = contenders.into_iter().collect();
        let hands = (0..THREADS).map(|thread| Hand::hire(contenders.clone(), thread)).collect();
        Self { hands }
    }

    /// Lets the first `threads` threads do the same thing about so many `times` each, at the same
    /// time. Returns nanoseconds per operation of a thread, their mean.
    pub fn measure(&self, contender: usize, threads: usize, times: u64) -> f64 {
        let hands = &self.hands[..threads];
        let race = Arc::new(Race {
            runners: threads,
            ready: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        });
        for hand in hands {
            hand.order(Order { contender, times, race: race.clone() });
        }
        hands.iter().map(Hand::pace).sum::<f64>() / threads as f64
    }
}

impl Hand {
    fn hire(contenders: Arc<[Prepare]>, thread: usize) -> Self {
        let (orders, inbox) = channel::<Order>();
        let (outbox, paces) = channel();
        let work = move || {
            let mut works: Vec<Work> = contenders.iter().map(|prepare| prepare(thread)).collect();
            let report = |pace| outbox.send(pace).expect("the crew waits for the pace");
            report(0.0);
            for order in inbox {
                report(order.race.run(&mut works[order.contender], order.times));
            }
        };
        let thread = thread::spawn(work);
        let hand = Self { orders: Some(orders), paces, thread: Some(thread) };
        hand.pace();
        hand
    }

    fn order(&self, order: Order) {
        let orders = self.orders.as_ref().expect("there are orders until the crew is dropped");
        orders.send(order).expect("a hand works until there are no more orders");
    }

    fn pace(&self) -> f64 {
        self.paces.recv().expect("a hand reports after each order")
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        drop(self.orders.take());
        let outcome = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || !matches!(outcome, Some(Err(_))), "a hand panicked");
    }
}

impl Race {
    /// Works until `times` is reached on this thread or another one, so that no thread works alone
    /// for long.
    fn run(&self, work: &mut Work, times: u64) -> f64 {
        let times = times.div_ceil(CHECKS);
        self.ready.fetch_add(1, Ordering::AcqRel);
        while self.ready.load(Ordering::Acquire) < self.runners {
            thread::yield_now();
        }
        let start = Instant::now();
        let mut done = 0;
        while done < CHECKS && !(done > 0 && self.over.load(Ordering::Relaxed)) {
            work(times);
            done += 1;
        }
        let elapsed = start.elapsed();
        self.over.store(true, Ordering::Relaxed);
        elapsed.as_nanos() as f64 / (done * times) as f64
    }
}
