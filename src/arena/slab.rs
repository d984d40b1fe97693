//! One mapping, cut into equal blocks.

use std::ops::Range;

use super::Record;
use super::bitmap::Bitmap;
use super::directory::Entry;
use super::mapping::{Mapping, granule};
use crate::error::Refused;
use crate::sync::Arc;

/// The size of every slab.
#[cfg(not(leasehold_loom))]
pub(super) const BYTES: usize = 1 << 20;
/// Two of the smallest blocks: enough for every state of a slab.
#[cfg(leasehold_loom)]
pub(super) const BYTES: usize = 2 * super::MIN_CLASS_BYTES;

/// A slab and which of its blocks are free. Guarded by its class's lock.
pub(super) struct Slab {
    /// Shared with whoever gives its idle pages back outside the lock.
    mapping: Arc<Mapping>,
    records: Box<[Record]>,
    block_bytes: usize,
    free: Bitmap,
    /// Groups whose pages were given back to the system and not used since.
    discarded: Bitmap,
    /// Free blocks that are set aside while their pages are given back.
    claimed: usize,
    /// Whether a block came back since idle pages were last looked for.
    has_news: bool,
}

impl Slab {
    /// Maps a slab. Call with no lock held.
    pub(super) fn map(block_bytes: usize) -> Result<Self, Refused> {
        let mapping = Mapping::new(BYTES).map_err(|_| Refused::out_of_memory(0, BYTES as u64))?;
        let blocks = BYTES / block_bytes;
        Ok(Self {
            records: (0..blocks).map(|_| Record::default()).collect(),
            block_bytes,
            free: Bitmap::full(blocks),
            discarded: Bitmap::empty(blocks),
            claimed: 0,
            has_news: false,
            mapping: Arc::new(mapping),
        })
    }

    /// What slabs are ordered by. A model must not notice addresses, which differ from one execution
    /// to the next: there slabs go by number.
    pub(super) fn address(&self) -> usize {
        if cfg!(leasehold_loom) { 0 } else { self.mapping.base().addr().get() }
    }

    /// Where a holder of one of its blocks finds the slab's records and memory.
    pub(super) fn entry(&self) -> Entry {
        Entry { records: self.records.as_ptr(), base: self.mapping.base() }
    }

    pub(super) fn records(&self) -> &[Record] {
        &self.records
    }

    pub(super) fn has_free(&self) -> bool {
        self.free.len() > 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.records.len()
    }

    pub(super) fn blocks_in_use(&self) -> usize {
        self.records.len() - self.free.len() - self.claimed
    }

    pub(super) fn discarded_bytes(&self) -> usize {
        self.discarded.len() * self.group_blocks() * self.block_bytes
    }

    /// Whether a free block has its pages.
    pub(super) fn has_resident(&self) -> bool {
        // All blocks of a discarded group are free.
        self.free.len() > self.discarded.len() * self.group_blocks()
    }

    /// Hands out the lowest free block that is resident; or else, if `wake` allows it, one whose
    /// pages then become so.
    pub(super) fn take(&mut self, wake: impl FnOnce(u64) -> bool) -> Option<usize> {
        let block = match self.first_resident() {
            Some(block) => block,
            None => {
                let block = self.free.first()?;
                if !wake((self.group_blocks() * self.block_bytes) as u64) {
                    return None;
                }
                self.discarded.remove(block / self.group_blocks());
                block
            }
        };
        self.free.remove(block);
        self.records[block].probe.issue();
        Some(block)
    }

    fn first_resident(&self) -> Option<usize> {
        if self.discarded.len() == 0 {
            return self.free.first();
        }
        let group = self.group_blocks();
        self.free.iter().find(|block| !self.discarded.contains(block / group))
    }

    /// Takes a block back. `false`: it was not out.
    pub(super) fn give(&mut self, block: usize) -> bool {
        if block >= self.records.len() || self.free.contains(block) {
            return false;
        }
        self.records[block].probe.retire();
        self.free.insert(block);
        self.has_news = true;
        true
    }

    /// Sets aside up to `most` groups of free blocks whose pages can be given back.
    pub(super) fn claim_idle(&mut self, most: usize) -> Vec<usize> {
        if !self.has_news {
            return Vec::new();
        }
        let size = self.group_blocks();
        let idle = (0..self.records.len() / size).filter(|&group| {
            !self.discarded.contains(group) && self.free.contains_all(group * size, size)
        });
        let groups: Vec<_> = idle.take(most).collect();
        self.has_news = groups.len() == most;
        for block in groups.iter().flat_map(|&group| group * size..(group + 1) * size) {
            self.free.remove(block);
            self.claimed += 1;
        }
        groups
    }

    /// Puts the groups back that [`claim_idle`](Self::claim_idle) set aside, of which the first
    /// `discarded` were given back to the system. Answers how many bytes that is.
    pub(super) fn release_idle(&mut self, groups: &[usize], discarded: usize) -> usize {
        let size = self.group_blocks();
        for (nth, &group) in groups.iter().enumerate() {
            if nth < discarded {
                self.discarded.insert(group);
            }
            for block in group * size..(group + 1) * size {
                self.free.insert(block);
                self.claimed -= 1;
            }
        }
        discarded * size * self.block_bytes
    }

    /// How to give the pages of set-aside groups back outside the lock.
    pub(super) fn discarder(&self) -> Discarder {
        let group_bytes = self.group_blocks() * self.block_bytes;
        Discarder { mapping: self.mapping.clone(), group_bytes }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.records)
            + self.free.heap_bytes()
            + self.discarded.heap_bytes()
            + size_of::<Self>()
    }

    /// The fewest neighbouring blocks that fill whole pages.
    fn group_blocks(&self) -> usize {
        (granule() / self.block_bytes).max(1)
    }
}

/// Gives pages back while their blocks are set aside.
pub(super) struct Discarder {
    mapping: Arc<Mapping>,
    group_bytes: usize,
}

impl Discarder {
    /// Gives back the pages of `groups`, which the caller has set aside, and answers how many of
    /// them the system took, from the first on.
    pub(super) fn discard(&self, groups: &[usize]) -> usize {
        let mut discarded = 0;
        for run in runs(groups) {
            let offset = run.start * self.group_bytes;
            // SAFETY: the groups are set aside: none of their blocks is held, and none is handed
            // out before `release_idle`. Groups are whole pages of this mapping.
            if !unsafe { self.mapping.discard(offset, run.len() * self.group_bytes) } {
                break;
            }
            discarded += run.len();
        }
        discarded
    }
}

/// Joins ascending neighbours, so that each run is one call to the system.
fn runs(groups: &[usize]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for &group in groups {
        match runs.last_mut() {
            Some(run) if run.end == group => run.end += 1,
            _ => runs.push(group..group + 1),
        }
    }
    runs
}
