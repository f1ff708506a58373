//! Structured logs: `log::info!("...", key = value)`.
//!
//! A line is one JSON object on stderr, `{"level":"info","message":"...","key":...}`. Vesta adds the time,
//! the function, the version and the invocation, and shows it with `vesta logs`. Lines are cut at 8 KiB, and
//! after 64 KiB an invocation logs no more.
//!
//! ```
//! use vesta_sdk::log;
//!
//! let label = "seven";
//! log::info!("classified as {label}", score = 0.98, pixels = [0, 16]);
//! log::warn!("{} of {} images are blank", 2, 10, name = "batch-3");
//! ```
//!
//! The message is formatted as by [`format!`]; after its arguments come fields, `key = value`, of any type
//! that serde can write as JSON. Only values that are logged are written: there is no set-up and no logger to
//! keep.

use std::fmt;
use std::io::Write;

use serde::Serialize;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Detail for whoever looks for a fault.
    Debug,
    /// What happened.
    Info,
    /// What someone may have to look at.
    Warn,
    /// What went wrong.
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
}

/// A line in the making; what the macros use.
#[doc(hidden)]
pub struct Line(Vec<u8>);

impl Line {
    pub fn new(level: Level, message: fmt::Arguments<'_>) -> Line {
        let mut line = Line(Vec::with_capacity(128));
        line.0.extend_from_slice(b"{\"level\":\"");
        line.0.extend_from_slice(level.name().as_bytes());
        line.0.push(b'"');
        match message.as_str() {
            Some(message) => line.field("message", message),
            None => line.field("message", &message.to_string()),
        }
        line
    }

    pub fn field<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) {
        let start = self.0.len();
        self.0.push(b',');
        let written = serde_json::to_writer(&mut self.0, key).and_then(|()| {
            self.0.push(b':');
            serde_json::to_writer(&mut self.0, value)
        });
        if written.is_err() {
            // A value without a JSON form loses its field, not the line.
            self.0.truncate(start);
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.extend_from_slice(b"}\n");
        self.0
    }

    pub fn write(self) {
        // With stderr gone there is nobody left to tell.
        let _ = std::io::stderr().write_all(&self.finish());
    }
}

/// Makes a panic one line at level `error`, in place of the standard library's three lines of text.
pub(crate) fn panics_as_lines() {
    std::panic::set_hook(Box::new(|panic| {
        let what = panic.payload_as_str().unwrap_or("(no message)");
        match panic.location() {
            Some(at) => crate::log::error!("panicked: {what}", at = format!("{}:{}", at.file(), at.line())),
            None => crate::log::error!("panicked: {what}"),
        }
    }));
}

/// Splits the macros' arguments into those of the message and the fields.
#[doc(hidden)]
#[macro_export]
macro_rules! __log {
    ($level:ident, $format:literal $(, $($rest:tt)*)?) => {
        $crate::__log!(@split $level [$format] [] $($($rest)*)?)
    };
    (@split $level:ident [$($format:tt)*] [$($fields:tt)*] $key:ident = $value:expr, $($rest:tt)*) => {
        $crate::__log!(@split $level [$($format)*] [$($fields)* ($key $value)] $($rest)*)
    };
    (@split $level:ident [$($format:tt)*] [$($fields:tt)*] $key:ident = $value:expr) => {
        $crate::__log!(@split $level [$($format)*] [$($fields)* ($key $value)])
    };
    (@split $level:ident [$($format:tt)*] [] $argument:expr, $($rest:tt)*) => {
        $crate::__log!(@split $level [$($format)*, $argument] [] $($rest)*)
    };
    (@split $level:ident [$($format:tt)*] [] $argument:expr) => {
        $crate::__log!(@split $level [$($format)*, $argument] [])
    };
    (@split $level:ident [$($format:tt)*] [$(($key:ident $value:expr))*]) => {{
        #[allow(unused_mut)]
        let mut line = $crate::log::Line::new($crate::log::Level::$level, ::core::format_args!($($format)*));
        $(line.field(::core::stringify!($key), &$value);)*
        line.write();
    }};
}

/// Logs at level `debug`.
#[doc(hidden)]
#[macro_export]
macro_rules! __debug { ($($all:tt)*) => { $crate::__log!(Debug, $($all)*) }; }
/// Logs at level `info`.
#[doc(hidden)]
#[macro_export]
macro_rules! __info { ($($all:tt)*) => { $crate::__log!(Info, $($all)*) }; }
/// Logs at level `warn`.
#[doc(hidden)]
#[macro_export]
macro_rules! __warn { ($($all:tt)*) => { $crate::__log!(Warn, $($all)*) }; }
/// Logs at level `error`.
#[doc(hidden)]
#[macro_export]
macro_rules! __error { ($($all:tt)*) => { $crate::__log!(Error, $($all)*) }; }

#[doc(inline)]
pub use crate::{__debug as debug, __error as error, __info as info, __warn as warn};

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: Line) -> String {
        String::from_utf8(line.finish()).unwrap()
    }

    #[test]
    fn a_line_is_one_json_object() {
        let name = "a \"b\"\n\u{1}";
        let mut line = Line::new(Level::Warn, format_args!("hi {name}"));
        line.field("n", &[1.5, 2.0]);
        let expected = r#"{"level":"warn","message":"hi a \"b\"\n\u0001","n":[1.5,2.0]}"#;
        assert_eq!(text(line), format!("{expected}\n"));
    }

    #[test]
    fn a_value_without_json_form_loses_only_its_field() {
        let mut line = Line::new(Level::Info, format_args!("m"));
        line.field("map", &std::collections::HashMap::from([((1, 2), 3)]));
        assert_eq!(text(line), "{\"level\":\"info\",\"message\":\"m\"}\n");
    }

    #[test]
    fn the_macros_take_arguments_and_fields() {
        let n = 3;
        crate::log::debug!("plain");
        crate::log::info!("{n} of {}", 4, key = "value", other = n,);
        crate::log::error!("{:?}", Some(1),);
    }
}
