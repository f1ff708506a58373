//! Lines of a guest's output, attributed to its invocation.

use crate::registry::Version;
use crate::telemetry::logs::{Level, LogEntry, LogStore};
use serde_json::{Map, Value};
use std::sync::Arc;
use vesta_core::InvocationId;
use vesta_core::clock::Clock;
use vesta_engine::logs::{LogSink, Stream};

/// Hands the lines of one invocation to the log store.
pub struct GuestLog {
    pub store: Arc<LogStore>,
    pub clock: Arc<dyn Clock>,
    pub version: Arc<Version>,
    pub invocation: InvocationId,
}

impl LogSink for GuestLog {
    fn line(&self, stream: Stream, line: &str) {
        let (level, message, fields) = parse(stream, line);
        self.store.append(LogEntry {
            unix_ns: self.clock.unix_ns(),
            tenant: self.version.tenant.clone(),
            function: self.version.function.clone(),
            version: self.version.number,
            invocation: self.invocation,
            level,
            message,
            fields,
        });
    }
}

/// A JSON object with `level` and `message` is a structured line, its other keys are fields; anything else is
/// a message of its own.
fn parse(stream: Stream, line: &str) -> (Level, String, Option<Value>) {
    if line.starts_with('{')
        && let Ok(mut object) = serde_json::from_str::<Map<String, Value>>(line)
        && let (Some(Value::String(level)), Some(Value::String(message))) =
            (object.remove("level"), object.remove("message"))
        && let Some(level) = Level::from_name(&level)
    {
        return (level, message, (!object.is_empty()).then_some(Value::Object(object)));
    }
    let level = match stream {
        Stream::Stdout => Level::Info,
        Stream::Stderr => Level::Warn,
    };
    (level, line.into(), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structured_lines_keep_level_message_and_fields_and_all_others_are_messages() {
        let (level, message, fields) = parse(Stream::Stderr, r#"{"level":"error","message":"no","n":1}"#);
        assert_eq!((level, message.as_str()), (Level::Error, "no"));
        assert_eq!(fields, Some(serde_json::json!({"n": 1})));
        for plain in ["hello", "{broken", r#"{"level":"shout","message":"x"}"#, r#"{"message":"x"}"#] {
            assert_eq!(parse(Stream::Stdout, plain), (Level::Info, plain.into(), None));
        }
        assert_eq!(parse(Stream::Stderr, "panicked").0, Level::Warn);
    }
}
