//! Limits from a file.

use std::collections::BTreeSet;
use std::path::Path;

use leasehold::{Host, Limits, NodeType};

/// What a file sets, on top of what its type of node has.
pub struct File {
    node_type: Option<NodeType>,
    /// Such as `system.memory`.
    paths: BTreeSet<String>,
    limits: Limits,
}

/// Reads a file, as TOML or JSON by the end of its name.
pub fn load(path: &Path) -> Result<File, String> {
    Err(format!("{}: limits cannot be read from a file yet", path.display()))
}

impl File {
    /// The type of node that it begins with.
    pub fn node_type(&self) -> Option<NodeType> {
        self.node_type
    }

    /// Its limits on a host.
    pub fn limits(&self, _host: &Host) -> Limits {
        self.limits.clone()
    }

    /// Whether it sets the limit at a path, or all of those below which the path lies.
    pub fn sets(&self, path: &str) -> bool {
        let ends = path.match_indices('.').map(|(end, _)| end).chain([path.len()]);
        ends.into_iter().any(|end| self.paths.contains(&path[..end]))
    }
}
