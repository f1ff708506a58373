//! How a command ends: the exit codes that scripts rely on, and what is said about a failure.

use super::client::{ApiError, Unreachable};
use super::output::StdoutClosed;
use crate::package::{ArchiveError, BuildError};
use std::io::Write;
use std::process::ExitCode;

pub const HELP: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 not authorised, \
                        5 refused by validation, 6 no host reached";

/// The exit codes. Wrong usage (2) is mostly told by clap itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Success = 0,
    Failure = 1,
    Usage = 2,
    NotFound = 3,
    NotAuthorised = 4,
    Refused = 5,
    Unreachable = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

impl Exit {
    /// The exit code for a status of the API, or of the platform on the data plane.
    pub fn of_status(status: u16) -> Self {
        match status {
            200..=399 => Exit::Success,
            401 | 403 => Exit::NotAuthorised,
            404 => Exit::NotFound,
            400 | 409 | 411..=417 | 422 | 431 => Exit::Refused,
            _ => Exit::Failure,
        }
    }

    fn of(error: &anyhow::Error) -> Self {
        for cause in error.chain() {
            if let Some(failure) = cause.downcast_ref::<Failure>() {
                return failure.exit;
            }
            if let Some(api) = cause.downcast_ref::<ApiError>() {
                return Exit::of_status(api.status);
            }
            if cause.is::<Unreachable>() {
                return Exit::Unreachable;
            }
            if cause.is::<StdoutClosed>() {
                return Exit::Success;
            }
            match cause.downcast_ref::<BuildError>() {
                Some(BuildError::Cargo(_) | BuildError::Io { .. }) => return Exit::Failure,
                Some(_) => return Exit::Refused,
                None => {}
            }
            match cause.downcast_ref::<ArchiveError>() {
                Some(ArchiveError::Read(_) | ArchiveError::Sink(_)) => return Exit::Failure,
                Some(_) => return Exit::Refused,
                None => {}
            }
        }
        Exit::Failure
    }
}

/// A failure whose exit code its place knows.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
}

impl Failure {
    pub fn error(exit: Exit, message: impl Into<String>) -> anyhow::Error {
        Failure { exit, message: message.into() }.into()
    }
}

/// Says what went wrong on stderr, and gives the exit code.
pub fn report(error: &anyhow::Error) -> Exit {
    let exit = Exit::of(error);
    // A closed stdout is the reader's way to say that it has seen enough (`vesta list | head -1`).
    if exit != Exit::Success && !error.to_string().is_empty() {
        let text = told_once(error).replace('\n', "\n       ");
        let _ = writeln!(std::io::stderr(), "error: {text}");
    }
    exit
}

/// An error and its causes, without those that another has told already.
fn told_once(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(|cause| cause.to_string()) {
        if cause.contains(&text) {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_exit_code_survives_context() {
        let error =
            Err::<(), _>(Failure::error(Exit::NotFound, "no")).context("looking").expect_err("an error");
        assert_eq!(Exit::of(&error), Exit::NotFound);
        assert_eq!(Exit::of(&anyhow::anyhow!("x")), Exit::Failure);
        assert_eq!(Exit::of(&StdoutClosed.into()), Exit::Success);
        let refused = ArchiveError::TrailingData;
        assert_eq!(Exit::of(&refused.into()), Exit::Refused);
    }

    #[test]
    fn causes_are_told_once() {
        let io = std::io::Error::other("disk on fire");
        let source = BuildError::Io { path: "a.wasm".into(), source: io };
        let error = Err::<(), _>(source).context("building").expect_err("an error");
        assert_eq!(told_once(&error), "building: a.wasm: disk on fire");
    }

    #[test]
    fn statuses_become_exit_codes() {
        let of = |s| Exit::of_status(s) as u8;
        assert_eq!([200, 401, 403, 404, 409, 413, 422, 500, 503].map(of), [0, 4, 4, 3, 5, 5, 5, 1, 1]);
    }
}
