//! The `vesta` command as a user types it.

use crate::{Host, guests, host};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// A user with a home directory of their own.
pub struct Cli {
    home: tempfile::TempDir,
}

/// What a command printed, and how it ended.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    line: String,
}

impl Cli {
    /// A user who has not logged in.
    pub fn stranger() -> Self {
        Self { home: tempfile::tempdir().expect("a temporary directory") }
    }

    /// A user who is logged in with a key.
    pub fn of(host: &Host, key: &str) -> Self {
        let cli = Self::stranger();
        let url = format!("http://{}", host.control_address());
        let invoke = format!("http://{}", host.invoke_address());
        cli.run(&["login", &url, "--key", key, "--invoke-url", &invoke]).ok();
        cli
    }

    pub fn home(&self) -> PathBuf {
        self.home.path().to_path_buf()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(guests::vesta());
        host::isolate(&mut command, self.home.path());
        command.args(arguments).stdin(Stdio::null()).current_dir(self.home.path());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        let line = format!("vesta {}", arguments.join(" "));
        let Output { status, stdout, stderr } = self.command(arguments).output().expect("run vesta");
        let text = |b: Vec<u8>| String::from_utf8_lossy(&b).into_owned();
        let code = status.code().unwrap_or_else(|| panic!("{line}: ended by a signal: {status}"));
        Ran { code, stdout: text(stdout), stderr: text(stderr), line }
    }
}

impl Ran {
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}:\n{}{}", self.line, self.stdout, self.stderr);
        self
    }

    /// Panics unless the command failed and said `words` on standard error.
    #[track_caller]
    pub fn fails(self, words: &[&str]) -> Self {
        assert_ne!(self.code, 0, "{} should fail:\n{}{}", self.line, self.stdout, self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{}: no {word:?} in:\n{}", self.line, self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}:\n{}", self.line, self.stderr);
        self
    }

    /// Panics unless the command said `words` on standard output.
    #[track_caller]
    pub fn says(&self, words: &[&str]) {
        for word in words {
            assert!(self.stdout.contains(word), "{}: no {word:?} in:\n{}", self.line, self.stdout);
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("{}: not JSON ({e}):\n{}{}", self.line, self.stdout, self.stderr))
    }
}
