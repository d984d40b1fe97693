//! Limits from a file, and how it spells names.

use std::fs;
use std::path::Path;

use leasehold::{LimitsFile, PeerKey};

/// A limits file and what it is called.
pub struct File {
    pub name: String,
    pub limits: LimitsFile,
}

/// Reads a file, as TOML or JSON by the end of its name. An error has all that is wrong with it.
pub fn load(path: &Path) -> Result<File, String> {
    let name = path.display().to_string();
    let read = match path.extension().and_then(|end| end.to_str()) {
        Some("toml") => LimitsFile::from_toml,
        Some("json") => LimitsFile::from_json,
        _ => return Err(format!("{name}: a limits file ends in .toml or .json")),
    };
    let text = fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
    let limits = read(&text).map_err(|error| format!("{name}: {error}"))?;
    Ok(File { name, limits })
}

impl File {
    /// Whether it has a value at a path, such as `system.memory`.
    pub fn sets(&self, path: &str) -> bool {
        self.limits.sets(path)
    }
}

/// The path of something with a name: `peers.alice`, `classes."gossip/1.0"`.
pub fn path_of(kind: &str, name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(bare) {
        format!("{kind}.{name}")
    } else {
        format!("{kind}.{name:?}")
    }
}

/// The path of a peer, whose key is in hexadecimal digits unless it is text.
pub fn path_of_peer(peer: &PeerKey) -> String {
    match str::from_utf8(peer.as_bytes()) {
        Ok(text) if !text.starts_with("hex:") && !text.contains(char::is_control) => {
            path_of("peers", text)
        }
        _ => {
            let digits = peer.as_bytes().iter().map(|byte| format!("{byte:02x}"));
            path_of("peers", &format!("hex:{}", digits.collect::<String>()))
        }
    }
}
