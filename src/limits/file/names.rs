//! What peers, classes, networks and prefixes are called in a file.

use ipnet::IpNet;
use std::net::IpAddr;

use super::problem::ProblemKind;
use crate::error::NameTooLong;
use crate::name::PeerKey;
use crate::ranges::MAX_NAME_BYTES;

/// What begins a key in hexadecimal digits.
const HEX: &str = "hex:";

/// The peer whose key a text is.
pub(super) fn parse_peer(text: &str) -> Result<PeerKey, ProblemKind> {
    let key = match text.strip_prefix(HEX) {
        None => PeerKey::new(text),
        Some(digits) => match bytes_of(digits) {
            None => return Err(ProblemKind::NotHex { digits: digits.to_owned() }),
            Some(bytes) => PeerKey::new(bytes),
        },
    };
    key.map_err(ProblemKind::NameTooLong)
}

fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = digits.chars().map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| u8::try_from(high << 4 | low).ok()).collect()
}

/// A key as [`parse_peer`] reads it: as text where a person can read it and nothing is lost.
pub(super) fn format_peer(peer: &PeerKey) -> String {
    match str::from_utf8(peer.as_bytes()) {
        Ok(text) if !text.starts_with(HEX) && !text.contains(char::is_control) => text.to_owned(),
        _ => {
            let digits = peer.as_bytes().iter().map(|byte| format!("{byte:02x}"));
            HEX.chars().chain(digits.collect::<String>().chars()).collect()
        }
    }
}

/// The class whose name a text is.
pub(super) fn parse_class(text: &str) -> Result<Box<str>, ProblemKind> {
    match text.len() {
        0..=MAX_NAME_BYTES => Ok(text.into()),
        len => Err(ProblemKind::NameTooLong(NameTooLong { len })),
    }
}

/// The length of a prefix that a text is, with a slash before it or without, of an address of
/// `most` bits.
pub(super) fn parse_length(text: &str, most: u8) -> Result<u8, ProblemKind> {
    let digits = text.strip_prefix('/').unwrap_or(text);
    match digits.parse::<u64>() {
        // Neither a sign nor a zero before it.
        Ok(length) if length.to_string() == digits => match u8::try_from(length) {
            Ok(length) if length <= most => Ok(length),
            _ => Err(ProblemKind::PrefixLength { length, most }),
        },
        _ => Err(ProblemKind::NotAPrefixLength { key: text.to_owned(), most }),
    }
}

/// The network that a text is, without a bit set behind its prefix.
pub(super) fn parse_network(text: &str) -> Result<IpNet, ProblemKind> {
    let Ok(network) = text.parse::<IpNet>() else {
        let alone = text.parse::<IpAddr>().ok().map(IpNet::from);
        return Err(ProblemKind::NotANetwork { text: text.to_owned(), meant: alone });
    };
    let truncated = network.trunc();
    if network == truncated {
        Ok(network)
    } else {
        Err(ProblemKind::HostBits { network, truncated })
    }
}
