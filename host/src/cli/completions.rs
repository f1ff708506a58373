//! `vesta completions`

use super::output;
use clap::CommandFactory;

#[derive(clap::Args)]
pub struct Args {
    /// The shell, such as bash, zsh or fish
    shell: clap_complete::Shell,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "vesta", &mut script);
    output::bytes(&script)
}
