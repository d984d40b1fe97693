//! The values of a text in TOML, each with its place.

use toml::de::{DeTable, DeValue};
use toml_parser::parser::EventReceiver;
use toml_parser::{ErrorSink, Source, Span};

use super::problem::{FileError, ProblemKind, Problems};
use super::tree::{Entry, MAX_DEPTH, Node, Value};

/// Reads a text, or says all that is wrong with its syntax.
pub(super) fn read(text: &str) -> Result<Value, FileError> {
    let mut problems = Problems::default();
    if let Some(at) = first_too_deep(text) {
        problems.add("", Some(at), ProblemKind::TooDeep { most: MAX_DEPTH });
        return Err(problems.into_error(text));
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let message = error.message().to_owned();
        let at = error.span().map(|span| span.start);
        problems.add("", at, ProblemKind::Syntax { message });
    }
    if problems.is_empty() {
        Ok(table_of(table.into_inner()))
    } else {
        Err(problems.into_error(text))
    }
}

fn table_of(table: DeTable<'_>) -> Value {
    let mut entries: Vec<Entry> = table
        .into_iter()
        .map(|(key, value)| Entry {
            at: Some(key.span().start),
            key: key.into_inner().into_owned(),
            value: value_of(value.into_inner()),
        })
        .collect();
    // The parser sorts by key.
    entries.sort_by_key(|entry| entry.at);
    Value::Table(entries)
}

fn value_of(value: DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => {
            let text = number.as_str();
            let end = if text.starts_with('-') { i128::MIN } else { i128::MAX };
            Value::Integer(i128::from_str_radix(text, number.radix()).unwrap_or(end))
        }
        // Beyond what a float holds it is infinite, which is no limit either.
        DeValue::Float(number) => Value::Fraction(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Value::Other(if value { "true" } else { "false" }),
        DeValue::Datetime(_) => Value::Other("a date or time"),
        DeValue::Array(list) => Value::List(
            list.into_iter()
                .map(|value| Node {
                    at: Some(value.span().start),
                    value: value_of(value.into_inner()),
                })
                .collect(),
        ),
        DeValue::Table(table) => table_of(table),
    }
}

/// Where a text is first nested deeper than [`MAX_DEPTH`]. Found out before there is anything to
/// nest, since values that are too deep overflow the stack when they are built, or dropped.
fn first_too_deep(text: &str) -> Option<usize> {
    let source = Source::new(text);
    let tokens = source.lex().into_vec();
    let mut depth = Depth::default();
    toml_parser::parser::parse_document(&tokens, &mut depth, &mut ());
    depth.exceeded
}

/// Follows the parser, and counts how deep each key and value lies.
#[derive(Default)]
struct Depth {
    /// How many keys the last header has.
    header: usize,
    /// How many keys the entry has that was begun last, below `header` and `open`.
    keys: usize,
    /// Whether the next key continues the one before.
    dotted: bool,
    /// The keys outside each table and list that is open, and itself.
    open: Vec<usize>,
    /// The sum of `open`.
    outside: usize,
    exceeded: Option<usize>,
}

impl Depth {
    /// Notes the place of the first that is too deep. Whether that was all right.
    fn check(&mut self, span: Span) -> bool {
        let fits = self.header + self.outside + self.keys <= MAX_DEPTH;
        if !fits {
            self.exceeded.get_or_insert(span.start());
        }
        fits
    }

    fn open(&mut self, span: Span) -> bool {
        let keys = std::mem::take(&mut self.keys) + 1;
        self.open.push(keys);
        self.outside += keys;
        self.check(span)
    }

    fn close(&mut self) {
        self.outside -= self.open.pop().unwrap_or(0);
        self.keys = 0;
    }

    fn open_header(&mut self) {
        (self.header, self.keys, self.dotted) = (0, 0, false);
        (self.outside, self.open) = (0, Vec::new());
    }

    fn close_header(&mut self) {
        self.header = std::mem::take(&mut self.keys);
    }
}

impl EventReceiver for Depth {
    fn std_table_open(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.open_header();
    }

    fn std_table_close(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.close_header();
    }

    fn array_table_open(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.open_header();
        // The list itself.
        self.keys = 1;
        self.dotted = true;
    }

    fn array_table_close(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.close_header();
    }

    fn inline_table_open(&mut self, span: Span, _: &mut dyn ErrorSink) -> bool {
        self.open(span)
    }

    fn inline_table_close(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.close();
    }

    fn array_open(&mut self, span: Span, _: &mut dyn ErrorSink) -> bool {
        self.open(span)
    }

    fn array_close(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.close();
    }

    fn simple_key(
        &mut self,
        span: Span,
        _: Option<toml_parser::decoder::Encoding>,
        _: &mut dyn ErrorSink,
    ) {
        self.keys = if std::mem::take(&mut self.dotted) { self.keys + 1 } else { 1 };
        self.check(span);
    }

    fn key_sep(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.dotted = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_keys_lists_and_tables() {
        let dotted = |keys: usize| vec!["a"; keys].join(".");
        let fits = [
            format!("{} = 1", dotted(16)),
            format!("[{}]\n{} = 1\n{} = 1", dotted(8), dotted(8), dotted(8)),
            format!("a = {}1{}", "[".repeat(15), "]".repeat(15)),
            format!("a = [{}]", vec!["[[1]]"; 50].join(", ")),
            format!("[[{}]]", dotted(15)),
            format!("a = {{ {} = 1, b = 2 }}\n{} = 1", dotted(14), dotted(16)),
        ];
        for text in fits {
            assert_eq!(first_too_deep(&text), None, "{text}");
        }
        let exceeds = [
            (format!("{} = 1", dotted(17)), 32),
            (format!("[{}]\n{} = 1", dotted(8), dotted(9)), 34),
            (format!("a = {}1{}", "[".repeat(16), "]".repeat(16)), 19),
            (format!("[[{}]]", dotted(16)), 32),
            (format!("a = {{ {} = 1 }}", dotted(15)), 34),
            (format!("a = [{{ b = {{ {} = 1 }} }}]", dotted(12)), 0),
        ];
        for (text, at) in exceeds {
            let found = first_too_deep(&text);
            assert!(found == Some(at) || at == 0 && found.is_some(), "{text}: {found:?}");
        }
    }
}
