//! Where in a file a value stands, and text of a file made safe for a message.

use std::fmt;

/// How many characters of a file's text are repeated in a message.
const SHOWN: usize = 80;

/// The keys that lead to a value, with where each stands in the text.
#[derive(Default)]
pub(super) struct Path {
    steps: Vec<Step>,
}

struct Step {
    name: StepName,
    /// Where it stands in the text.
    at: Option<usize>,
}

enum StepName {
    /// A key as the file spells it, and as this crate would if that differs.
    Key(String, Option<String>),
    Index(usize),
}

impl Path {
    pub(super) fn enter_key(&mut self, key: &str, at: Option<usize>) {
        self.steps.push(Step { name: StepName::Key(key.to_owned(), None), at });
    }

    /// The element of a list, counted from zero.
    pub(super) fn enter_element(&mut self, index: usize, at: Option<usize>) {
        self.steps.push(Step { name: StepName::Index(index), at });
    }

    /// The last key can be spelled in several ways, and this is the one that is always the same.
    pub(super) fn spell_last(&mut self, canonical: String) {
        if let Some(Step { name: StepName::Key(_, spelling), .. }) = self.steps.last_mut() {
            *spelling = Some(canonical);
        }
    }

    pub(super) fn leave(&mut self) {
        self.steps.pop();
    }

    /// The last key, as the file spells it.
    pub(super) fn last_key(&self) -> &str {
        match self.steps.last() {
            Some(Step { name: StepName::Key(key, _), .. }) => key,
            _ => "",
        }
    }

    /// Where the last key stands in the text.
    pub(super) fn at(&self) -> Option<usize> {
        self.steps.last().and_then(|step| step.at)
    }

    /// The path in the spelling that is always the same. Whole, so that no two are alike.
    pub(super) fn canonical(&self) -> String {
        self.written(usize::MAX, |key, canonical| canonical.unwrap_or(key))
    }

    /// The path with up to so many characters of each key, in one of its spellings.
    fn written<'a>(
        &'a self,
        most: usize,
        spelling: impl Fn(&'a str, Option<&'a str>) -> &'a str,
    ) -> String {
        let mut path = String::new();
        for step in &self.steps {
            match &step.name {
                StepName::Index(index) => path += &format!("[{index}]"),
                StepName::Key(key, canonical) => {
                    path += if path.is_empty() { "" } else { "." };
                    let key = spelling(key, canonical.as_deref());
                    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                    let (shown, end) = cut(key, most);
                    path += &if !key.is_empty() && key.chars().all(bare) {
                        format!("{shown}{end}")
                    } else {
                        format!("{shown:?}{end}")
                    };
                }
            }
        }
        path
    }
}

/// As the file spells it, and shortened.
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written(SHOWN, |key, _| key))
    }
}

/// Text in quotes: shortened, and escaped so that it does no harm in a log.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shown, end) = cut(self.0, SHOWN);
        write!(f, "{shown:?}{end}")
    }
}

/// The same without quotes.
pub(super) fn shorten(text: &str) -> String {
    let (shown, end) = cut(text, SHOWN);
    let plain = |c: char| c.escape_debug().len() == 1 || matches!(c, '"' | '\'' | '\\');
    if end.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("{}{end}", shown.escape_debug())
    }
}

/// The beginning of a text, and what tells that there is more.
fn cut(text: &str, most: usize) -> (&str, &'static str) {
    match text.char_indices().nth(most) {
        None => (text, ""),
        Some((end, _)) => (&text[..end], "…"),
    }
}

#[cfg(test)]
mod tests {
    use crate::limits::LimitsFile;
    use crate::ranges::MAX_NAME_BYTES;

    /// The longest name there is: a key of a peer that is no text.
    #[test]
    fn the_path_of_every_valid_name_is_its_own() {
        let [first, second] = [1, 2].map(|last| {
            let mut key = [0xff; MAX_NAME_BYTES];
            key[MAX_NAME_BYTES - 1] = last;
            let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("peers.\"hex:{digits}\"")
        });
        let text = format!("[{first}]\nfds = 1\n[{second}]\nmemory = 1");
        let file = LimitsFile::from_toml(&text).unwrap();
        let (fds, memory) = (format!("{first}.fds"), format!("{second}.memory"));
        assert_eq!(file.paths().collect::<Vec<_>>(), [first, fds, second, memory]);
    }
}
