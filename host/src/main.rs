//! The `vesta` binary: the host and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    vesta::cli::run()
}
