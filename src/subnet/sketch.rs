//! The arrival times of all prefixes of one length, in bounded memory.
//!
//! **Promises.**
//! - *Never too low.* What a prefix was charged is never forgotten, however many other prefixes
//!   are charged: none gets more than its rate.
//! - *Rarely too high.* A prefix seems to have spent what it has not only where all of its three
//!   cells are shared with prefixes that are in debt, and then as little as the least of them.
//! - *Bounded*, by the number of lines it was made with; and nothing at all while no prefix is in
//!   debt.
//!
//! It is a blocked count-min sketch with conservative update. The hash of a prefix picks a line of
//! eight cells, a cache line, and three cells in it. The arrival time of the prefix is the *least*
//! of the three; a charge raises those that are lower to the new time. A cell that is not later than
//! now is as good as zero, so the sketch empties by itself.
//!
//! **Generations.** It starts small, and when a sixteenth of its cells is in use it goes on in a
//! *generation* of eight times the size, until the most is reached; when hardly any are, in one of
//! an eighth. Nothing is copied. A charge raises cells in the current generation alone, and the
//! older ones stay to be read, each until the latest time in it has passed: the arrival time of a
//! prefix is the *latest* that any generation has. (With more than a sixteenth in use, many of a
//! crowd that comes all at once would look busy where the burst is one.) There is at most one
//! generation of each size, and 1 + 1/8 + 1/64 + … < 8/7. (Doubling a table of cells in place was
//! considered. Each cell would have to be in both of its halves, and a crowd that comes all at once
//! would fill the sketch with copies faster than it grows.)
//!
//! ```text
//!              first charge         a sixteenth in use          a sixteenth in use
//!   (nothing) ─────────────▶ smallest ◀───────────────▶ … ◀────────────────▶ largest
//!                                        hardly any               hardly any
//!   a generation that is not current, or whose time has passed at maintenance:
//!   read ── its latest time passes ──▶ gone
//! ```
//!
//! **Other bounds and rates.** A sketch is copied into its successor in pieces, each generation into
//! the one of the same rank, while both are charged. Its cells may be raised meanwhile, before or
//! after they are copied: the successor has the latest either way.

use super::{OutOfMemory, Progress};

/// Cells in a line.
const CELLS: usize = 8;
/// Lines are allocated by so many, 32 KiB, when the first of them is needed: no connection waits
/// for megabytes of zeros.
const CHUNK: usize = 512;
/// The least that a generation may have, 2 KiB.
const LEAST_LINES: usize = 32;
/// How much larger the next generation is.
const STEP: usize = 8;
/// Lines that a charge which takes cells looks through for some whose time has passed.
const SWEPT_BY_CHARGE: usize = 1;
/// Lines, 64 KiB, that are copied, or looked at, in one piece.
const COPIED_AT_ONCE: usize = 1024;

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

/// How far a sketch has been copied into its successor.
#[derive(Default)]
pub(super) struct Copied {
    /// Generations, from the largest.
    generations: usize,
    /// Lines of the next.
    lines: usize,
}

impl Sketch {
    /// One that never takes more than this, with room for the older generations and for lists of
    /// chunks.
    pub(super) fn new(most_bytes: usize) -> Self {
        Self { most_lines: lines_within(most_bytes), generations: Vec::new(), current: 0 }
    }

    /// Whether both have the same bound.
    pub(super) fn is_as_large_as(&self, other: &Self) -> bool {
        self.most_lines == other.most_lines
    }

    /// The arrival time of the prefix with this hash, or a later one; and whether there is
    /// [room](Self::reserve) to raise it.
    #[inline]
    pub(super) fn arrival(&self, hash: u64) -> (u64, bool) {
        let (mut arrival, mut has_room) = (0, false);
        for (index, generation) in self.generations.iter().enumerate() {
            if let Some(line) = generation.line(generation.line_of(hash)) {
                arrival = arrival.max(line.arrival(hash));
                has_room |= index == self.current;
            }
        }
        (arrival, has_room)
    }

    /// Makes room for the cells of the prefix with this hash, so that it can be [raised](Self::raise)
    /// under the same lock.
    pub(super) fn reserve(&mut self, hash: u64) -> Result<(), OutOfMemory> {
        if self.generations.is_empty() {
            self.push(self.sizes().last().unwrap_or(LEAST_LINES))?;
            self.current = 0;
        }
        let current = &mut self.generations[self.current];
        current.reserve(current.line_of(hash))
    }

    /// Charges a prefix for which there is [room](Self::reserve): it has this arrival time, or a
    /// later one that it had before. Costs the same whatever the size.
    #[inline]
    pub(super) fn raise(&mut self, hash: u64, arrival: u64, now: u64, retired: &mut Retired) {
        let Some(current) = self.generations.get_mut(self.current) else {
            debug_assert!(false, "a charge that no room was reserved for");
            return;
        };
        if current.raise(hash, arrival) > 0 {
            // A charge that takes a cell looks for some that are free again.
            let swept = current.sweep(now, SWEPT_BY_CHARGE);
            self.resize(swept, now);
        }
        if self.generations.len() > 1 {
            self.retire(now, Keep::Current, retired);
        }
    }

    /// Looks through some lines of the current generation for cells whose time has passed.
    pub(super) fn maintain(&mut self, now: u64, lines: usize, retired: &mut Retired) -> Progress {
        self.retire(now, Keep::Nothing, retired);
        let Some(current) = self.generations.get_mut(self.current) else { return Progress::Done };
        let swept = current.sweep(now, lines);
        self.resize(swept, now);
        swept
    }

    /// Prepares to [copy](Self::copy_some) `old`. Whatever is charged to `old` from now on must be
    /// charged to this one too.
    pub(super) fn begin_copy(&mut self, old: &Self, latest: u64) {
        for from in &old.generations {
            let lines = self.counterpart(old, from.lines);
            let latest = from.latest.min(latest);
            match self.generations.iter_mut().find(|to| to.lines == lines) {
                Some(to) => to.latest = to.latest.max(latest),
                None => self.generations.push(Generation { latest, ..Generation::new(lines) }),
            }
        }
        if let Some(current) = old.generations.get(old.current) {
            let lines = self.counterpart(old, current.lines);
            self.current = self.generations.iter().position(|to| to.lines == lines).unwrap_or(0);
        }
    }

    /// Copies some more of the arrival times of `old`; none is later than `latest` then.
    pub(super) fn copy_some(&mut self, old: &Self, copied: &mut Copied, latest: u64) -> Progress {
        let Some(lines) = old.sizes().nth(copied.generations) else { return Progress::Done };
        let counterpart = self.counterpart(old, lines);
        let from = old.generations.iter().find(|from| from.lines == lines);
        let to = self.generations.iter_mut().find(|to| to.lines == counterpart);
        // One that is there on one side only has all its charges since the copy began, or none that
        // has not passed.
        if let (Some(from), Some(to)) = (from, to)
            && to.copy_some(from, &mut copied.lines, latest) == Progress::Going
        {
            return Progress::Going;
        }
        *copied = Copied { generations: copied.generations + 1, lines: 0 };
        Progress::Going
    }

    /// The size here that has the rank which `lines` has among the sizes of `old`; the smallest, if
    /// there are not as many.
    fn counterpart(&self, old: &Self, lines: usize) -> usize {
        let rank = old.sizes().take_while(|size| *size > lines).count();
        self.sizes().take(rank + 1).last().unwrap_or(LEAST_LINES)
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
    fn resize(&mut self, swept: Progress, now: u64) {
        let Generation { lines, in_use, .. } = self.generations[self.current];
        let full = in_use > lines * CELLS / 16 && lines < self.most_lines;
        let bare = swept == Progress::Done && in_use < lines * CELLS / 512;
        if full {
            self.grow(lines, now);
        } else if bare {
            self.go_on(self.sizes().find(|size| *size < lines));
        }
    }

    /// Goes on in a larger generation, unless most of this one only waits to be swept. As many
    /// charges as this one has room for come before the next time, so each one's part of it is small.
    #[cold]
    fn grow(&mut self, lines: usize, now: u64) {
        let current = &mut self.generations[self.current];
        current.next_swept = 0;
        current.sweep(now, lines);
        if current.in_use > lines * CELLS / 32 {
            self.go_on(self.sizes().take_while(|size| *size > lines).last());
        }
    }

    #[cold]
    fn go_on(&mut self, next: Option<usize>) {
        let Some(next) = next else { return };
        let known = self.generations.iter().position(|generation| generation.lines == next);
        let Some(next) = known.or_else(|| {
            self.push(next).ok()?;
            Some(self.generations.len() - 1)
        }) else {
            // Without memory for another generation this one goes on to serve, if less exactly.
            return;
        };
        self.current = next;
        // Cells that it counts as in use may have passed long ago; a whole sweep will tell.
        self.generations[next].next_swept = 0;
    }

    /// Adds an empty generation.
    fn push(&mut self, lines: usize) -> Result<(), OutOfMemory> {
        let generation = Generation::try_new(lines)?;
        let room = self.generations.try_reserve(1);
        room.map_err(|_| OutOfMemory { bytes: size_of::<Generation>() })?;
        self.generations.push(generation);
        Ok(())
    }

    /// Removes the generations whose latest time has passed.
    #[inline]
    fn retire(&mut self, now: u64, keep: Keep, retired: &mut Retired) {
        let mut index = 0;
        while index < self.generations.len() {
            let kept = keep == Keep::Current && index == self.current;
            // Without memory to remember it by, it stays until the next time.
            if kept || self.generations[index].latest > now || retired.try_reserve(1).is_err() {
                index += 1;
                continue;
            }
            retired.push(self.generations.swap_remove(index));
            if self.current == index {
                // Any that is left is as good to go on in.
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

impl Line {
    #[inline]
    fn arrival(&self, hash: u64) -> u64 {
        let [first, second, third] = choice(hash);
        self.0[first].min(self.0[second]).min(self.0[third])
    }
}

impl Generation {
    fn new(lines: usize) -> Self {
        Self::try_new(lines).unwrap_or_else(|error| error.abort())
    }

    fn try_new(lines: usize) -> Result<Self, OutOfMemory> {
        let chunks = boxed(lines.div_ceil(CHUNK), Box::default())?;
        Ok(Self { lines, chunks, in_use: 0, next_swept: 0, latest: 0 })
    }

    /// A line, if it is there to be written.
    #[inline]
    fn line(&self, index: usize) -> Option<&Line> {
        self.chunks[index / CHUNK].get(index % CHUNK)
    }

    /// Makes sure that a line is there to be written.
    fn reserve(&mut self, line: usize) -> Result<(), OutOfMemory> {
        if self.line(line).is_none() {
            let chunk = line / CHUNK;
            let lines = CHUNK.min(self.lines - chunk * CHUNK);
            self.chunks[chunk] = boxed(lines, Line([0; CELLS]))?;
        }
        Ok(())
    }

    /// Raises the cells of a prefix to a time, and returns how many of them were not in use.
    #[inline]
    fn raise(&mut self, hash: u64, arrival: u64) -> usize {
        let index = self.line_of(hash);
        let Some(line) = self.chunks[index / CHUNK].get_mut(index % CHUNK) else {
            debug_assert!(false, "a charge that no room was reserved for");
            return 0;
        };
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
    fn sweep(&mut self, now: u64, mut lines: usize) -> Progress {
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
                return Progress::Done;
            }
        }
        Progress::Going
    }

    /// Copies some lines of `old`, from `next` on, which becomes the line after them. A line there
    /// covers a range of hashes, and goes to every line here that covers a part of the range.
    fn copy_some(&mut self, old: &Self, next: &mut usize, latest: u64) -> Progress {
        let mut cost = 0;
        while *next < old.lines {
            if cost >= COPIED_AT_ONCE {
                return Progress::Going;
            }
            cost += 1;
            let index = *next;
            let Some(from) = old.line(index) else {
                *next = (index / CHUNK + 1) * CHUNK;
                continue;
            };
            *next += 1;
            if from.0 == [0; CELLS] {
                continue;
            }
            let first = index * self.lines / old.lines;
            let end = ((index + 1) * self.lines).div_ceil(old.lines);
            cost += end - first;
            for to in first..end {
                self.raise_line(to, from, latest);
            }
        }
        Progress::Done
    }

    /// Raises all cells of a line to those of another, but to nothing later than `latest`.
    fn raise_line(&mut self, index: usize, from: &Line, latest: u64) {
        self.reserve(index).unwrap_or_else(|error| error.abort());
        let line = &mut self.chunks[index / CHUNK][index % CHUNK];
        for (cell, from) in line.0.iter_mut().zip(from.0) {
            let arrival = from.min(latest);
            self.in_use += usize::from(*cell == 0 && arrival != 0);
            *cell = (*cell).max(arrival);
            self.latest = self.latest.max(arrival);
        }
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
}

/// So many copies of a value in a box, if there is memory for them.
fn boxed<T: Clone>(len: usize, value: T) -> Result<Box<[T]>, OutOfMemory> {
    let mut values = Vec::new();
    let room = values.try_reserve_exact(len);
    room.map_err(|_| OutOfMemory { bytes: len * size_of::<T>() })?;
    values.resize(len, value);
    Ok(values.into_boxed_slice())
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
        let Ok(arrival) = pace.spend(sketch.arrival(hash).0, now) else { return false };
        charge(sketch, hash, arrival, now);
        true
    }

    fn charge(sketch: &mut Sketch, hash: u64, arrival: u64, now: u64) {
        sketch.reserve(hash).expect("memory");
        sketch.raise(hash, arrival, now, &mut Retired::new());
    }

    /// A sketch on its way to another bound or rate.
    struct Copying {
        to: Sketch,
        exact: Exact,
        pace: Pace,
        most_bytes: usize,
        copied: Copied,
        latest: u64,
    }

    impl Copying {
        fn begin(from: &Sketch, exact: &Exact, rate: Rate, most_bytes: usize, now: u64) -> Self {
            let pace = Pace::new(rate);
            let latest = pace.latest_arrival(now);
            let mut to = Sketch::new(most_bytes);
            to.begin_copy(from, latest);
            let exact = exact.0.iter().map(|(key, arrival)| (*key, latest.min(*arrival)));
            let (exact, copied) = (Exact(exact.collect()), Copied::default());
            Self { to, exact, pace, most_bytes, copied, latest }
        }
    }

    /// Maintains a sketch to the end of a sweep.
    fn maintain(sketch: &mut Sketch, now: u64) {
        while sketch.maintain(now, 100, &mut Retired::new()) == Progress::Going {}
    }

    /// The exact state of the same rate, key by key.
    #[derive(Default)]
    struct Exact(HashMap<u64, u64>);

    impl Exact {
        fn pass(&mut self, pace: &Pace, hash: u64, now: u64) -> bool {
            let arrival = self.0.entry(hash).or_default();
            pace.spend(*arrival, now).map(|next| *arrival = next).is_ok()
        }

        fn raise(&mut self, key: u64, to: u64) {
            let arrival = self.0.entry(key).or_default();
            *arrival = to.max(*arrival);
        }
    }

    #[test]
    fn no_key_gets_more_than_its_rate_whatever_the_others_do() {
        let mut random = fastrand::Rng::with_seed(3);
        for (room, keys) in [(8 << 10, 300), (64 << 10, 3000), (1 << 20, 30_000)] {
            let mut most_bytes = room;
            let mut sketch = Sketch::new(most_bytes);
            let mut exact = Exact::default();
            let (mut now, mut passed, mut refused) = (1, 0, 0);
            let (mut changes, mut pieces) = (0, 0);
            let mut current = pace(50_000, 4);
            let mut copying: Option<Copying> = None;
            let keys: Vec<u64> = (0..keys).map(|_| random.u64(..)).collect();
            for _ in 0..200_000 {
                now += random.u64(..20);
                match random.u32(..50_000) {
                    0 => now += 1_000_000,
                    1..3 if copying.is_none() => {
                        let bytes = room / random.usize(1..4);
                        copying = Some(Copying::begin(&sketch, &exact, current.rate(), bytes, now));
                    }
                    3..5 if copying.is_none() => {
                        let next = pace(random.u64(1..100_000), random.u32(1..8));
                        copying =
                            Some(Copying::begin(&sketch, &exact, next.rate(), most_bytes, now));
                    }
                    5..12 => maintain(&mut sketch, now),
                    _ => {}
                }
                if random.u32(..100) == 0
                    && let Some(Copying { to, copied, latest, .. }) = &mut copying
                {
                    pieces += 1;
                    if to.copy_some(&sketch, copied, *latest) == Progress::Done {
                        changes += 1;
                        let done = copying.take().expect("it was there");
                        (sketch, current, most_bytes) = (done.to, done.pace, done.most_bytes);
                        exact = done.exact;
                    }
                }
                let key = keys[random.usize(..keys.len()) * random.usize(..2)];
                let arrival = current.spend(sketch.arrival(key).0, now);
                if let Ok(arrival) = arrival {
                    charge(&mut sketch, key, arrival, now);
                    if let Some(Copying { to, exact, pace, .. }) = &mut copying {
                        let arrival = arrival.min(pace.latest_arrival(now));
                        charge(to, key, arrival, now);
                        exact.raise(key, arrival);
                    }
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
            let are_cut = pieces > 4 * changes || room < 1 << 20;
            assert!(changes > 5 && are_cut, "{changes} changes in {pieces} pieces");
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
        // A hundred are in debt at any time, and maintenance never runs.
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
