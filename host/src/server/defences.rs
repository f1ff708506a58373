//! What the kernel lacks of the defences that confine inference workers and preparing children.

use anyhow::{Result, bail};
use vesta_engine::confine::{Missing, hand_on_no_descriptors, probe};

/// Before any child is started.
pub(super) fn prepare() -> Result<()> {
    if let Err(error) = hand_on_no_descriptors() {
        tracing::warn!(%error, "what this process has inherited is inherited by its children");
    }
    check(&probe())
}

/// Logs each defence that the kernel lacks. Fails where it lacks one without which no worker starts.
fn check(missing: &[Missing]) -> Result<()> {
    for missing in missing {
        let (defence, since) = (missing.defence(), missing.since());
        tracing::warn!(
            defence,
            since,
            "the kernel lacks a defence of the host against models and components"
        );
    }
    if missing.contains(&Missing::Seccomp) {
        let since = Missing::Seccomp.since();
        bail!(
            "this kernel has no system call filters (seccomp), and models are not run without them: they need {since}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex, PoisonError};

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What [`check`] logs, and what comes of it.
    fn checked(missing: &[Missing]) -> (Vec<String>, Result<()>) {
        let log = Log::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let result = tracing::subscriber::with_default(subscriber, || check(missing));
        let text = log.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let text = String::from_utf8(text).expect("UTF-8");
        (text.lines().map(str::to_owned).collect(), result)
    }

    #[test]
    fn each_defence_that_the_kernel_lacks_is_a_line_in_the_log() {
        let missing = [Missing::Landlock, Missing::Scopes];
        let (lines, result) = checked(&missing);
        assert!(result.is_ok());
        assert_eq!(lines.len(), 2, "{lines:?}");
        for (line, missing) in lines.iter().zip(missing) {
            for word in ["WARN", missing.defence()] {
                assert!(line.contains(word), "no {word:?} in {line:?}");
            }
            // The log escapes quotes.
            let version = missing.since().split(',').next().expect("a version");
            assert!(line.contains(version), "no {version:?} in {line:?}");
        }
    }

    #[test]
    fn a_kernel_that_lacks_nothing_is_not_worth_a_line() {
        let (lines, result) = checked(&[]);
        assert!(lines.is_empty() && result.is_ok(), "{lines:?}");
    }

    #[test]
    fn without_system_call_filters_the_host_does_not_start() {
        let (lines, result) = checked(&[Missing::Seccomp]);
        let error = result.expect_err("no start").to_string();
        assert!(lines.len() == 1 && error.contains("seccomp") && error.contains("Linux 3.17"), "{error}");
    }
}
