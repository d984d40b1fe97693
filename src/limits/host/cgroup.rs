//! The memory that the control groups of this process allow it.
//!
//! Where the limits are takes two files to find out. `/proc/self/cgroup` names the group of the
//! process in each hierarchy: one of v2, and one or none of v1 that controls memory. On a hybrid
//! host there are both, and the memory controller may sit in either, so both are asked.
//! `/proc/self/mountinfo` tells where a hierarchy is mounted, and which of its groups is at the top
//! there: a container may see only its own group and what is below.
//!
//! A limit binds everything below it, so each group counts from that of the process to the top of
//! the mount. Nothing here fails: what cannot be read sets no limit.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// The control groups of this process that can limit its memory.
pub(super) struct Cgroups {
    places: Vec<Place>,
}

/// The group of the process in one hierarchy, as far as it can be seen.
struct Place {
    hierarchy: Hierarchy,
    /// Where the hierarchy is mounted.
    top: PathBuf,
    /// The folder of the group: `top`, or below it.
    group: PathBuf,
}

#[derive(Clone, Copy, PartialEq)]
enum Hierarchy {
    V1,
    V2,
}

impl Cgroups {
    /// Reads `proc/self/cgroup` and `proc/self/mountinfo` below `root`, and finds the groups that
    /// they name below it too.
    pub(super) fn under(root: &Path) -> Self {
        let membership = fs::read(root.join("proc/self/cgroup")).unwrap_or_default();
        let mounts = fs::read(root.join("proc/self/mountinfo")).unwrap_or_default();
        let places = [Hierarchy::V1, Hierarchy::V2]
            .into_iter()
            .filter_map(|hierarchy| Some((hierarchy, group_in(hierarchy, &membership)?)))
            .flat_map(|(hierarchy, group)| places(root, hierarchy, group, &mounts))
            .collect();
        Self { places }
    }

    /// The smallest limit of any of the groups and of their ancestors, in bytes.
    ///
    /// A group of v1 without a limit has a huge one, which no machine reaches.
    pub(super) fn memory(&self) -> Option<u64> {
        self.places.iter().filter_map(Place::memory).min()
    }
}

impl Place {
    fn memory(&self) -> Option<u64> {
        let groups = self.group.ancestors().take_while(|group| group.starts_with(&self.top));
        groups.filter_map(|group| memory_of(self.hierarchy, group)).min()
    }
}

/// The limit of one group.
fn memory_of(hierarchy: Hierarchy, group: &Path) -> Option<u64> {
    let number = |file| number(&fs::read(group.join(file)).ok()?);
    let limits = match hierarchy {
        Hierarchy::V1 => [number("memory.limit_in_bytes"), hierarchical(group)],
        Hierarchy::V2 => [number("memory.max"), number("memory.high")],
    };
    limits.into_iter().flatten().min()
}

/// What a group of v1 knows of its ancestors' limits, even of those that a container hides.
fn hierarchical(group: &Path) -> Option<u64> {
    let stat = fs::read(group.join("memory.stat")).ok()?;
    lines(&stat).find_map(|line| number(line.strip_prefix(b"hierarchical_memory_limit ")?))
}

/// A number of bytes. `max`, garbage and what is more than a `u64` are no limit.
fn number(text: &[u8]) -> Option<u64> {
    str::from_utf8(text.trim_ascii()).ok()?.parse().ok()
}

/// The path of the process's group, from lines such as `0::/user.slice` (v2) or
/// `4:cpu,memory:/docker/1f` (v1).
fn group_in(hierarchy: Hierarchy, membership: &[u8]) -> Option<&Path> {
    lines(membership).find_map(|line| {
        let mut fields = line.splitn(3, |byte| *byte == b':');
        let (id, controllers, group) = (fields.next()?, fields.next()?, fields.next()?);
        let found = match hierarchy {
            Hierarchy::V1 => names_memory(controllers),
            Hierarchy::V2 => id == b"0" && controllers.is_empty(),
        };
        found.then(|| Path::new(OsStr::from_bytes(group)))
    })
}

/// Where the group can be seen. The same hierarchy may be mounted several times, with different
/// groups at the top.
///
/// If none of these tops is an ancestor of the group, by name at least, the process looks at mounts
/// from another namespace. Then the tops stand in for it: what container it is in, they show.
fn places(root: &Path, hierarchy: Hierarchy, group: &Path, mounts: &[u8]) -> Vec<Place> {
    let mounts = lines(mounts).filter_map(mount).filter(|mount| mount.hierarchy == hierarchy);
    let (seen, unseen): (Vec<_>, Vec<_>) = mounts
        .map(|mount| {
            let top = root.join(mount.point.strip_prefix("/").unwrap_or(&mount.point));
            (top, below(&mount.top, group))
        })
        .partition(|(_, below)| below.is_some());
    let chosen = if seen.is_empty() { unseen } else { seen };
    chosen
        .into_iter()
        .map(|(top, below)| {
            let group = top.join(below.unwrap_or_default());
            Place { hierarchy, top, group }
        })
        .collect()
}

/// The path from one group down to another, if that is where it is.
fn below(top: &Path, group: &Path) -> Option<PathBuf> {
    let below = group.strip_prefix(top).ok()?;
    // A group outside of the namespace begins with `/..`, and is not below its `/`.
    let down = below.components().all(|part| matches!(part, Component::Normal(_)));
    down.then(|| below.to_path_buf())
}

/// A hierarchy of control groups and where it is mounted.
struct Mount {
    hierarchy: Hierarchy,
    /// The path of the group that is mounted there.
    top: PathBuf,
    point: PathBuf,
}

/// Reads a line such as `35 24 0:30 /docker/1f /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory`,
/// which may have more fields before the dash.
fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let (top, point) = (path(fields.nth(3)?), path(fields.next()?));
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let (kind, options) = (fields.next()?, fields.nth(1)?);
    let hierarchy = match kind {
        b"cgroup2" => Hierarchy::V2,
        b"cgroup" if names_memory(options) => Hierarchy::V1,
        _ => return None,
    };
    Some(Mount { hierarchy, top, point })
}

/// Whether `memory` is in a list such as `rw,cpu,memory`.
fn names_memory(list: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|name| name == b"memory")
}

/// A path in which a space is `\040`, and so on with tabs, line ends and backslashes.
fn path(escaped: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                bytes.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                rest = after;
            }
            _ => bytes.push(*first),
        }
    }
    PathBuf::from(OsStr::from_bytes(&bytes))
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
}
