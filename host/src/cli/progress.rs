//! Bars and spinners on stderr; nothing at all where stderr is not a terminal.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, Read};
use std::time::Duration;

/// A bar of bytes for one upload.
pub fn upload(name: &str, size: u64) -> ProgressBar {
    let bar = ProgressBar::new(size).with_message(name.to_string());
    let style = ProgressStyle::with_template("{msg:20!} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// A spinner whose message tells what is waited for.
pub fn spinner(message: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(message.to_string());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// A reader that moves a bar.
pub struct Counted<R> {
    pub inner: R,
    pub bar: ProgressBar,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.bar.inc(n as u64);
        Ok(n)
    }
}
