//! What was probably meant by a name that is not known.

/// The known name that is most like a wrong one, if any is at all.
pub(super) fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    /// How alike two names must be, from 0 to 1: `conns` and `connections` are, `foo` and `fds`
    /// are not.
    const ALIKE: f64 = 0.8;
    /// No name that is known is nearly as long, and comparing takes time with the length.
    const LONGEST: usize = 64;

    if name.len() > LONGEST {
        return None;
    }
    let name = snake_case(name);
    let likeness = |known: &&'static str| strsim::jaro_winkler(&name, known);
    known
        .iter()
        .copied()
        .map(|known| (likeness(&known), known))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

/// A name in the way the keys are written, from `ConnsInbound`, `connections-inbound` and the like.
fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    let mut after_lower = false;
    for c in name.chars() {
        if c.is_uppercase() && after_lower {
            snake.push('_');
        }
        after_lower = c.is_lowercase();
        snake.extend(c.to_lowercase());
    }
    snake.replace(['-', ' '], "_").replace("conns", "connections")
}

/// What was probably meant by a word in the place of a limit, by what other programs call it.
pub(super) fn meant_limit(word: &str) -> Option<&'static str> {
    const UNLIMITED: [&str; 7] = ["∞", "any", "inf", "infinite", "infinity", "max", "no limit"];
    const BLOCKED: [&str; 8] =
        ["block", "blockall", "block_all", "deny", "disabled", "forbidden", "nothing", "zero"];
    let lower = word.to_lowercase();
    if UNLIMITED.contains(&lower.as_str()) {
        Some("unlimited")
    } else if BLOCKED.contains(&lower.as_str()) {
        Some("blocked")
    } else {
        nearest(word, &["unlimited", "blocked"])
    }
}

#[cfg(test)]
mod tests {
    use super::super::shape::RESOURCES;
    use super::*;

    #[test]
    fn other_programs_names_are_near() {
        for (name, known) in [
            ("Conns", Some("connections")),
            ("ConnsInbound", Some("connections_inbound")),
            ("FD", Some("fds")),
            ("streams-outbound", Some("streams_outbound")),
            ("memry", Some("memory")),
            ("colour", None),
        ] {
            assert_eq!(nearest(name, &RESOURCES), known, "{name}");
        }
    }
}
