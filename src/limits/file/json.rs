//! The values of a text in JSON.

use super::problem::{FileError, Position, ProblemKind};
use super::tree::Value;

/// Reads a text, or says where it is not JSON.
pub(super) fn read(text: &str) -> Result<Value, FileError> {
    let mut format = serde_json::Deserializer::from_str(text);
    let value = Value::deserialize(&mut format);
    value.and_then(|value| format.end().map(|()| value)).map_err(|error| {
        let message = error.to_string();
        // The place is told apart from the message.
        let message = message.split(" at line ").next().unwrap_or_default().to_owned();
        let position = Position::new(error.line(), error.column());
        FileError::of("", position, ProblemKind::Syntax { message })
    })
}
