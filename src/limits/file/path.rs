//! Where in a file a value stands, and text of a file made safe for a message.

use std::borrow::Cow;
use std::fmt;

/// How many characters of what somebody wrote are repeated in a message. More than any valid name
/// has, so that the paths of different valid keys differ.
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

#[derive(Clone)]
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

    /// The path in the spelling that is always the same.
    pub(super) fn canonical(&self) -> String {
        let canonical = |step: &Step| match &step.name {
            StepName::Key(_, Some(spelling)) => StepName::Key(spelling.clone(), None),
            name => name.clone(),
        };
        let steps = self.steps.iter().map(|step| Step { name: canonical(step), at: None });
        Self { steps: steps.collect() }.to_string()
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, step) in self.steps.iter().enumerate() {
            match &step.name {
                StepName::Index(index) => write!(f, "[{index}]")?,
                StepName::Key(key, _) => {
                    f.write_str(if n > 0 { "." } else { "" })?;
                    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                    if !key.is_empty() && key.chars().all(bare) {
                        f.write_str(&shorten(key))?;
                    } else {
                        Quoted(key).fmt(f)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Text in quotes: shortened, and escaped so that it does no harm in a log.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", Shortened::of(self.0))
    }
}

/// The same without quotes.
pub(super) fn shorten(text: &str) -> Cow<'_, str> {
    let shortened = Shortened::of(text);
    let plain = |c: char| c.escape_debug().len() == 1 || matches!(c, '"' | '\'' | '\\');
    if !shortened.cut && text.chars().all(plain) {
        Cow::Borrowed(text)
    } else {
        let mut escaped: String = shortened.text.escape_debug().collect();
        escaped.push_str(if shortened.cut { "…" } else { "" });
        Cow::Owned(escaped)
    }
}

struct Shortened<'a> {
    text: &'a str,
    cut: bool,
}

impl<'a> Shortened<'a> {
    fn of(text: &'a str) -> Self {
        match text.char_indices().nth(SHOWN) {
            None => Self { text, cut: false },
            Some((end, _)) => Self { text: &text[..end], cut: true },
        }
    }
}

impl fmt::Debug for Shortened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{}", self.text, if self.cut { "…" } else { "" })
    }
}
