//! References that are asked again and again.

use super::role;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

/// A reference that answers each line of its input with a number of nanoseconds. Dropping it ends it.
pub struct Partner {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Partner {
    pub fn start(mut command: Command) -> Partner {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start the reference");
        let answers = BufReader::new(child.stdout.take().expect("its output"));
        Partner { child, answers }
    }

    /// A component in a plain wasmtime, without any metering or preemption. It is asked with paths.
    pub fn plain_guest(component: &Path) -> Partner {
        let mut command = role("reference-guest");
        command.arg(component);
        Partner::start(command)
    }

    /// Its answer, in nanoseconds; nothing where it has ended.
    pub fn try_ask(&mut self, line: &str) -> Option<f64> {
        writeln!(self.child.stdin.as_mut()?, "{line}").ok()?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).ok()?;
        answer.trim().parse().ok()
    }

    pub fn ask(&mut self, line: &str) -> f64 {
        self.try_ask(line).expect("the reference answers with a number")
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
