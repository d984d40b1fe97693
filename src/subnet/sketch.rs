//! The arrival times of all prefixes of one length, in bounded memory.
//!
//! **Promises.**
//! - *Never too low.* What a prefix was charged is never forgotten, however many other prefixes
//!   come by: none gets more than its rate.
//! - *Rarely too high.* A prefix seems to have spent what it has not only where all of its three
//!   cells are shared with prefixes that are in debt, and then as little as the least of them.
//! - *Bounded*, by the number of lines it was made with; and nothing at all while nobody is in debt.
//!
//! It is a blocked count-min sketch with conservative update. The hash of a prefix picks a line of
//! eight cells, a cache line, and three cells in it. The arrival time of the prefix is the *least*
//! of the three; a commit raises those that are lower to the new time. A cell that is not later than
//! now is as good as zero, so the sketch empties by itself.
//!
//! **Generations.** It starts small, and when a sixteenth of its cells is in use it goes on in a
//! *generation* of eight times the size, until the most is reached; when hardly any are, in one of
//! an eighth. Nothing is copied. A commit raises cells in the current generation alone, and the
//! older ones stay to be read, each until the latest time in it has passed: the arrival time of a
//! prefix is the *latest* of what they tell. (With more in use, of a crowd that comes all at once
//! too many would look busy where the burst is one.) There is at most one generation of each size, and
//! 1 + 1/8 + 1/64 + … < 8/7. (Doubling a table of cells in place was considered. Each cell would
//! have to be in both of its halves, and a crowd that comes all at once would fill the sketch with
//! copies faster than it grows.)
//!
//! ```text
//!              first commit         a sixteenth in use          a sixteenth in use
//!   (nothing) ─────────────▶ smallest ◀───────────────▶ … ◀────────────────▶ largest
//!                                        hardly any               hardly any
//!   a generation that is not current, or finds itself so in maintenance:
//!   read ── its latest time passes ──▶ gone
//! ```

/// Cells in a line.
const CELLS: usize = 8;
/// Lines are allocated by so many, 32 KiB, when the first is written: nobody waits for megabytes
/// of zeros.
const CHUNK: usize = 512;
/// The least that a generation may have, 2 KiB.
const LEAST_LINES: usize = 32;
/// How much larger the next generation is.
const STEP: usize = 8;
/// Lines that a commit which takes cells looks through for some whose time has passed.
const SWEPT_BY_COMMIT: usize = 1;

/// Every choice of three cells of a line.
const CHOICES: [[u8; 3]; 56] = {
    let mut choices = [[0; 3]; 56];
    let mut next = 0;
    let mut first = 0;
    while first < CELLS as u8 {
        let mut second = first + 1;
        while second < CELLS as u8 {
            let mut third = second + 1;
            while third < CELLS as u8 {
                choices[next] = [first, second, third];
                next += 1;
                third += 1;
            }
            second += 1;
        }
        first += 1;
    }
    choices
};

pub(super) struct Sketch {
    most_lines: usize,
    generations: Vec<Generation>,
    /// Which of them commits go to.
    current: usize,
}

/// What is to be dropped once no lock is held.
pub(crate) type Retired = Vec<Generation>;

/// How far a sweep got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sweep {
    Going,
    Done,
}

impl Sketch {
    /// One that never takes more than this, with room for the older generations and for lists of
    /// chunks.
    pub(super) fn new(most_bytes: usize) -> Self {
        Self { most_lines: lines_within(most_bytes), generations: Vec::new(), current: 0 }
    }

    /// The arrival time of the prefix with this hash, or a later one.
    #[inline]
    pub(super) fn arrival(&self, hash: u64) -> u64 {
        self.generations.iter().map(|generation| generation.arrival(hash)).max().unwrap_or(0)
    }

    /// Commits an arrival time. Costs the same whatever the size.
    #[inline]
    pub(super) fn raise(&mut self, hash: u64, arrival: u64, now: u64, retired: &mut Retired) {
        if self.generations.is_empty() {
            self.generations.push(Generation::new(self.sizes().last().unwrap_or(LEAST_LINES)));
            self.current = 0;
        }
        let current = &mut self.generations[self.current];
        if current.raise(hash, arrival) > 0 {
            // Whoever takes a cell looks for some that are free again.
            let swept = current.sweep(now, SWEPT_BY_COMMIT);
            self.resize(swept, now);
        }
        if self.generations.len() > 1 {
            self.retire(now, Keep::Current, retired);
        }
    }

    /// Looks through some lines of the current generation for cells whose time has passed.
    pub(super) fn maintain(&mut self, now: u64, lines: usize, retired: &mut Retired) -> Sweep {
        self.retire(now, Keep::Nothing, retired);
        let Some(current) = self.generations.get_mut(self.current) else { return Sweep::Done };
        let swept = current.sweep(now, lines);
        self.resize(swept, now);
        swept
    }

    /// No arrival time is later than this from now on: another rate is in force.
    pub(super) fn lower_to(&mut self, latest: u64) {
        for generation in &mut self.generations {
            generation.latest = generation.latest.min(latest);
            for cell in generation.chunks.iter_mut().flatten().flat_map(|line| &mut line.0) {
                *cell = (*cell).min(latest);
            }
        }
    }

    /// Makes do with another bound: all generations become one within it.
    pub(super) fn rebound(&mut self, most_bytes: usize, retired: &mut Retired) {
        let most_lines = lines_within(most_bytes);
        if most_lines == self.most_lines {
            return;
        }
        self.most_lines = most_lines;
        if self.generations.is_empty() {
            return;
        }
        // As large as what is in debt needs: limits that change again and again must not inflate it.
        let in_use: usize = self.generations.iter().map(|old| old.in_use).sum();
        let fits = |size: &usize| in_use <= size * CELLS / 16;
        let size = self.sizes().filter(fits).last().unwrap_or(most_lines);
        let mut merged = Generation::new(size);
        for old in &self.generations {
            merged.absorb(old);
        }
        retired.append(&mut self.generations);
        self.generations.push(merged);
        self.current = 0;
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.generations.capacity() * size_of::<Generation>()
            + self.generations.iter().map(Generation::memory_bytes).sum::<usize>()
    }

    /// The sizes that generations have, from the largest.
    fn sizes(&self) -> impl Iterator<Item = usize> + use<> {
        std::iter::successors(Some(self.most_lines), |lines| Some(lines / STEP))
            .take_while(|lines| *lines >= LEAST_LINES)
    }

    /// Goes on in a larger generation when the current one is full, in a smaller one when a whole
    /// sweep found next to nothing in it.
    #[inline]
    fn resize(&mut self, swept: Sweep, now: u64) {
        let Generation { lines, in_use, .. } = self.generations[self.current];
        let full = in_use > lines * CELLS / 16 && lines < self.most_lines;
        let bare = swept == Sweep::Done && in_use < lines * CELLS / 512;
        if full {
            self.grow(lines, now);
        } else if bare {
            self.go_on(self.sizes().find(|size| *size < lines));
        }
    }

    /// Goes on in a larger generation, if it is not only that much of this one waits to be swept. It
    /// takes that many commits until this happens again that a commit's part of it is small.
    #[cold]
    fn grow(&mut self, lines: usize, now: u64) {
        let current = &mut self.generations[self.current];
        current.next_swept = 0;
        current.sweep(now, lines);
        if current.in_use > lines * CELLS / 32 {
            self.go_on(self.sizes().filter(|size| *size > lines).last());
        }
    }

    #[cold]
    fn go_on(&mut self, next: Option<usize>) {
        let Some(next) = next else { return };
        let known = self.generations.iter().position(|generation| generation.lines == next);
        self.current = known.unwrap_or_else(|| {
            self.generations.push(Generation::new(next));
            self.generations.len() - 1
        });
        // What it counts as in use may be long past; a whole sweep will tell.
        self.generations[self.current].next_swept = 0;
    }

    /// Lets go of the generations whose latest time has passed.
    #[inline]
    fn retire(&mut self, now: u64, keep: Keep, retired: &mut Retired) {
        let mut index = 0;
        while index < self.generations.len() {
            let kept = keep == Keep::Current && index == self.current;
            if kept || self.generations[index].latest > now {
                index += 1;
                continue;
            }
            retired.push(self.generations.swap_remove(index));
            if self.current == index {
                // Whichever is left: it is as good to go on in.
                self.current = 0;
            } else if self.current == self.generations.len() {
                self.current = index;
            }
        }
        if self.generations.is_empty() {
            self.generations = Vec::new();
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Current,
    Nothing,
}

/// As many as leave room for the smaller generations, an eighth and an eighth of that, and a little
/// for lists of chunks.
fn lines_within(bytes: usize) -> usize {
    (bytes / size_of::<Line>() * 6 / 7).max(LEAST_LINES)
}

/// A sketch of one size.
pub(crate) struct Generation {
    lines: usize,
    /// Empty where nothing was written yet.
    chunks: Box<[Box<[Line]>]>,
    /// Cells that are not zero.
    in_use: usize,
    next_swept: usize,
    /// No cell is later.
    latest: u64,
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u64; CELLS]);

impl Generation {
    fn new(lines: usize) -> Self {
        let chunks = (0..lines.div_ceil(CHUNK)).map(|_| Box::default()).collect();
        Self { lines, chunks, in_use: 0, next_swept: 0, latest: 0 }
    }

    #[inline]
    fn arrival(&self, hash: u64) -> u64 {
        let index = self.line_of(hash);
        let Some(line) = self.chunks[index / CHUNK].get(index % CHUNK) else { return 0 };
        let [first, second, third] = choice(hash);
        line.0[first].min(line.0[second]).min(line.0[third])
    }

    /// Raises the cells of a prefix to a time, and answers how many of them were not in use.
    #[inline]
    fn raise(&mut self, hash: u64, arrival: u64) -> usize {
        let line = self.line_mut(self.line_of(hash));
        let mut newly = 0;
        for cell in choice(hash) {
            let cell = &mut line.0[cell];
            newly += usize::from(*cell == 0);
            *cell = (*cell).max(arrival);
        }
        self.in_use += newly;
        self.latest = self.latest.max(arrival);
        newly
    }

    /// Clears the cells of the next lines whose time has passed. Done when it comes to the last.
    #[inline]
    fn sweep(&mut self, now: u64, mut lines: usize) -> Sweep {
        while lines > 0 {
            let (chunk, start) = (self.next_swept / CHUNK, self.next_swept % CHUNK);
            let rest = (self.lines - self.next_swept).min(CHUNK - start).min(lines);
            // A chunk that was never written has no lines to look through.
            if let Some(some) = self.chunks[chunk].get_mut(start..start + rest) {
                for cell in some.iter_mut().flat_map(|line| &mut line.0) {
                    if *cell != 0 && *cell <= now {
                        *cell = 0;
                        self.in_use -= 1;
                    }
                }
            }
            self.next_swept += rest;
            lines -= rest;
            if self.next_swept == self.lines {
                self.next_swept = 0;
                return Sweep::Done;
            }
        }
        Sweep::Going
    }

    /// Takes over the times of one of any size. A line of that one covers a range of hashes, and
    /// goes to every line here that covers a part of the range.
    fn absorb(&mut self, old: &Self) {
        let written = old.chunks.iter().enumerate().flat_map(|(chunk, lines)| {
            lines.iter().enumerate().map(move |(offset, line)| (chunk * CHUNK + offset, line))
        });
        for (index, from) in written.filter(|(_, line)| line.0 != [0; CELLS]) {
            let first = index * self.lines / old.lines;
            let end = ((index + 1) * self.lines).div_ceil(old.lines);
            for target in first..end {
                let mut newly = 0;
                for (cell, from) in self.line_mut(target).0.iter_mut().zip(from.0) {
                    newly += usize::from(*cell == 0 && from != 0);
                    *cell = (*cell).max(from);
                }
                self.in_use += newly;
            }
        }
        self.latest = self.latest.max(old.latest);
    }

    fn memory_bytes(&self) -> usize {
        size_of_val(&*self.chunks)
            + self.chunks.iter().map(|chunk| size_of_val(&**chunk)).sum::<usize>()
    }

    /// By the upper half of the hash, in proportion, so that any number of lines will do.
    #[inline]
    fn line_of(&self, hash: u64) -> usize {
        (((hash >> 32) * self.lines as u64) >> 32) as usize
    }

    #[inline]
    fn line_mut(&mut self, index: usize) -> &mut Line {
        let chunk = &mut self.chunks[index / CHUNK];
        if chunk.is_empty() {
            *chunk = blank(CHUNK.min(self.lines - index / CHUNK * CHUNK));
        }
        &mut chunk[index % CHUNK]
    }
}

#[cold]
fn blank(lines: usize) -> Box<[Line]> {
    vec![Line([0; CELLS]); lines].into_boxed_slice()
}

/// By the lower half of the hash.
#[inline]
fn choice(hash: u64) -> [usize; 3] {
    let index = ((hash & u64::from(u32::MAX)) * CHOICES.len() as u64) >> 32;
    CHOICES[index as usize].map(usize::from)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::num::NonZeroU32;
    use std::time::Duration;

    use super::*;
    use crate::limits::Rate;
    use crate::subnet::gcra::Pace;

    fn pace(interval_ns: u64, burst: u32) -> Pace {
        let burst = NonZeroU32::new(burst).expect("a burst");
        Pace::new(Rate::new(Duration::from_nanos(interval_ns), burst))
    }

    /// Asks for one more as the rules do.
    fn pass(sketch: &mut Sketch, pace: &Pace, hash: u64, now: u64) -> bool {
        let Ok(arrival) = pace.spend(sketch.arrival(hash), now) else { return false };
        sketch.raise(hash, arrival, now, &mut Retired::new());
        true
    }

    /// Maintains a sketch to the end of a sweep.
    fn maintain(sketch: &mut Sketch, now: u64) {
        while sketch.maintain(now, 100, &mut Retired::new()) == Sweep::Going {}
    }

    /// The exact state of the same rate, key by key.
    #[derive(Default)]
    struct Exact(HashMap<u64, u64>);

    impl Exact {
        fn pass(&mut self, pace: &Pace, hash: u64, now: u64) -> bool {
            let arrival = self.0.entry(hash).or_default();
            pace.spend(*arrival, now).map(|next| *arrival = next).is_ok()
        }
    }

    #[test]
    fn no_key_gets_more_than_its_rate_whatever_the_others_do() {
        let mut random = fastrand::Rng::with_seed(3);
        for (most_bytes, keys) in [(4 << 10, 300), (64 << 10, 3000), (1 << 20, 30_000)] {
            let mut sketch = Sketch::new(most_bytes);
            let mut exact = Exact::default();
            let (mut now, mut passed, mut refused) = (1, 0, 0);
            let mut current = pace(50_000, 4);
            let keys: Vec<u64> = (0..keys).map(|_| random.u64(..)).collect();
            for _ in 0..200_000 {
                now += random.u64(..20);
                match random.u32(..50_000) {
                    0 => now += 1_000_000,
                    1 => sketch.rebound(most_bytes / random.usize(1..4), &mut Retired::new()),
                    2 => {
                        current = pace(random.u64(1..100_000), random.u32(1..8));
                        let latest = current.latest_arrival(now);
                        sketch.lower_to(latest);
                        for arrival in exact.0.values_mut() {
                            *arrival = latest.min(*arrival);
                        }
                    }
                    3..10 => maintain(&mut sketch, now),
                    _ => {}
                }
                let key = keys[random.usize(..keys.len()) * random.usize(..2)];
                if pass(&mut sketch, &current, key, now) {
                    passed += 1;
                    assert!(exact.pass(&current, key, now), "too low at {now}");
                } else {
                    refused += 1;
                }
                if sketch.generations.len() > 1 || passed % 1000 == 0 {
                    assert!(sketch.memory_bytes() <= most_bytes, "{}", sketch.memory_bytes());
                }
            }
            assert!(passed > 1000 && refused > 1000, "{passed} passed, {refused} refused");
        }
    }

    #[test]
    fn a_crowd_that_comes_all_at_once_is_known_apart() {
        // A burst of one leaves no slack: what seems to be in debt is refused.
        let pace = pace(1_000_000, 1);
        let mut random = fastrand::Rng::with_seed(4);
        for crowd in [10, 1000, 10_000, 60_000] {
            let mut sketch = Sketch::new(10 << 20);
            let refused =
                (0..crowd).filter(|_| !pass(&mut sketch, &pace, random.u64(..), 1)).count();
            println!("{refused} of {crowd} refused, {} KiB", sketch.memory_bytes() >> 10);
            assert!(refused * 25 <= crowd, "{refused} of {crowd}");
        }
    }

    #[test]
    fn a_steady_flow_of_strangers_takes_what_is_in_debt_and_no_more() {
        let pace = pace(1000, 8);
        let mut random = fastrand::Rng::with_seed(6);
        let mut sketch = Sketch::new(10 << 20);
        // A hundred are in debt at any time, and nobody maintains anything.
        for now in (0..10_000_000).step_by(10) {
            assert!(pass(&mut sketch, &pace, random.u64(..), now));
        }
        assert!(sketch.memory_bytes() < 200 << 10, "{}", sketch.memory_bytes());
    }

    #[test]
    fn it_shrinks_to_what_is_in_debt_and_to_nothing() {
        let pace = pace(1_000_000, 8);
        let mut random = fastrand::Rng::with_seed(5);
        let mut sketch = Sketch::new(1 << 20);
        assert_eq!(sketch.memory_bytes(), 0);
        for _ in 0..100_000 {
            pass(&mut sketch, &pace, random.u64(..), 1);
        }
        assert!(sketch.memory_bytes() > 500 << 10);
        // A few come all the time. The large generation empties, and goes.
        let mut now = 1;
        for _ in 0..1000 {
            now += 100_000;
            pass(&mut sketch, &pace, random.u64(..5), now);
            if now % 1_000_000 == 1 {
                maintain(&mut sketch, now);
            }
        }
        assert!(sketch.memory_bytes() < 16 << 10, "{}", sketch.memory_bytes());
        maintain(&mut sketch, now + 10_000_000);
        assert_eq!(sketch.memory_bytes(), 0);
    }
}
