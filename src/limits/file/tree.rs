//! What TOML, JSON and every other format of serde come down to: values with every entry they were
//! given, duplicates included, and as deep as is of use.

use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserializer, Serialize, Serializer};

/// How deep tables and lists may be nested. No value of a limits file is deeper than five levels.
pub(super) const MAX_DEPTH: usize = 16;

/// One value and where it stands in the text, if that is known.
pub(super) struct Node {
    pub(super) at: Option<usize>,
    pub(super) value: Value,
}

pub(super) enum Value {
    /// A number too large for it stands at the end.
    Integer(i128),
    Fraction(f64),
    Text(String),
    List(Vec<Node>),
    Table(Vec<Entry>),
    /// A value of a type that no limit has, by how a message calls it.
    Other(&'static str),
    /// A table or list below [`MAX_DEPTH`].
    TooDeep,
}

/// One entry of a table.
pub(super) struct Entry {
    pub(super) key: String,
    /// Where the key stands in the text.
    pub(super) at: Option<usize>,
    pub(super) value: Value,
}

impl Value {
    /// What a message calls it.
    pub(super) fn describe(&self) -> String {
        match self {
            Value::Integer(number) => format!("the number {number}"),
            Value::Fraction(number) => format!("the number {number:?}"),
            Value::Text(text) => super::path::Quoted(text).to_string(),
            Value::List(_) => "a list".into(),
            Value::Table(_) => "a table".into(),
            Value::Other(what) => (*what).into(),
            Value::TooDeep => "something nested too deep".into(),
        }
    }

    /// The first entry of a table that has this key.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        match self {
            Value::Table(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// Whether anything in it is [too deep](Self::TooDeep).
    pub(super) fn is_too_deep(&self) -> bool {
        match self {
            Value::List(nodes) => nodes.iter().any(|node| node.value.is_too_deep()),
            Value::Table(entries) => entries.iter().any(|entry| entry.value.is_too_deep()),
            Value::TooDeep => true,
            _ => false,
        }
    }

    /// Reads a value in any format that describes itself.
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(format: D) -> Result<Self, D::Error> {
        Depth(0).deserialize(format)
    }
}

/// Reads a value at a depth.
struct Depth(usize);

impl<'de> DeserializeSeed<'de> for Depth {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, format: D) -> Result<Value, D::Error> {
        format.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Depth {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("limits")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Other(if value { "true" } else { "false" }))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(Value::Integer(i128::try_from(value).unwrap_or(i128::MAX)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        /// From here on numbers in JSON come as fractions because nothing else holds them.
        const BEYOND_U64: f64 = 18_446_744_073_709_551_616.0;
        let whole = value.fract() == 0.0 && value.abs() >= BEYOND_U64;
        Ok(if whole { Value::Integer(value as i128) } else { Value::Fraction(value) })
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Other("null"))
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Other("null"))
    }

    fn visit_some<D: Deserializer<'de>>(self, format: D) -> Result<Value, D::Error> {
        format.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, format: D) -> Result<Value, D::Error> {
        format.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        if self.0 == MAX_DEPTH {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Value::TooDeep);
        }
        let mut nodes = Vec::new();
        while let Some(value) = list.next_element_seed(Depth(self.0 + 1))? {
            nodes.push(Node { at: None, value });
        }
        Ok(Value::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        if self.0 == MAX_DEPTH {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Value::TooDeep);
        }
        let mut entries = Vec::new();
        while let Some(key) = map.next_key()? {
            let value = map.next_value_seed(Depth(self.0 + 1))?;
            entries.push(Entry { key, at: None, value });
        }
        Ok(Value::Table(entries))
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, format: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Integer(number) => match i64::try_from(*number) {
                Ok(number) => format.serialize_i64(number),
                Err(_) => format.serialize_i128(*number),
            },
            Value::Fraction(number) => format.serialize_f64(*number),
            Value::Text(text) => format.serialize_str(text),
            Value::List(nodes) => format.collect_seq(nodes.iter().map(|node| &node.value)),
            Value::Table(entries) => {
                let mut map = format.serialize_map(Some(entries.len()))?;
                for entry in entries {
                    map.serialize_entry(&entry.key, &entry.value)?;
                }
                map.end()
            }
            Value::Other(_) | Value::TooDeep => format.serialize_unit(),
        }
    }
}
