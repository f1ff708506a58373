//! The command line, one file for each command. It builds packages itself, and does everything else over
//! the HTTP API, like any other client.
//!
//! Exit codes are those of [`exit::Exit`]. What a command was asked for goes to stdout (with `--json` as
//! one JSON value), everything else to stderr.

mod api;
mod build;
mod client;
mod completions;
mod config;
mod delete;
mod demo;
mod deploy;
mod engines;
mod exit;
mod inspect;
mod invoke;
mod key;
mod list;
mod login;
mod logs;
mod new;
mod output;
mod progress;
mod rollback;
mod target;
mod tenant;
mod usage;

use clap::{Parser, Subcommand};
use exit::Exit;
use std::process::ExitCode;

/// Serverless inference functions on WebAssembly.
#[derive(Parser)]
#[command(name = "vesta", version, max_term_width = 100, after_help = exit::HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print JSON on stdout instead of text and tables
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Build the examples, run them on a temporary host, and show the answers and the bill
    Demo(demo::Args),
    /// Run the host
    Serve(crate::server::ServeArgs),
    /// Make the folder of a new function
    New(new::Args),
    /// Build the package of a function
    Build(build::Args),
    /// Build a function, upload it, and make it live
    Deploy(deploy::Args),
    /// List functions
    List(list::Args),
    /// Show a function, its versions, limits and models
    Inspect(inspect::Args),
    /// Send a request to a function
    Invoke(invoke::Args),
    /// Show what a function wrote
    Logs(logs::Args),
    /// Show what was used, and what it costs
    Usage(usage::Args),
    /// Make an earlier version live again
    Rollback(rollback::Args),
    /// Delete a function, or one version of it
    Delete(delete::Args),
    /// Check a key and keep it in the configuration file
    Login(login::Args),
    /// Create and list tenants (operator)
    Tenant(tenant::Args),
    /// Create, list and revoke API keys
    Key(key::Args),
    /// List a host's inference engines, and install those that are not part of this program
    Engines(engines::Args),
    /// Print a shell's completion script
    Completions(completions::Args),
    /// The child process in which the host compiles components and checks models
    #[command(hide = true)]
    PrepareWorker,
    /// The worker process in which the host runs a model
    #[command(hide = true)]
    InferenceWorker {
        host: u32,
        /// The library of ONNX Runtime
        #[arg(long, value_name = "PATH")]
        onnx_runtime: Option<std::path::PathBuf>,
    },
}

/// Runs the command of the process's arguments.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    match &cli.command {
        Command::PrepareWorker => return ExitCode::from(vesta_engine::child_main()),
        Command::InferenceWorker { host, onnx_runtime } => {
            return ExitCode::from(vesta_engine::worker_main(*host, onnx_runtime.as_deref()));
        }
        _ => {}
    }
    match cli.command.run(cli.json) {
        Ok(()) => Exit::Success.into(),
        Err(error) => exit::report(&error).into(),
    }
}

impl Command {
    fn run(self, json: bool) -> anyhow::Result<()> {
        match self {
            Command::Demo(args) => demo::run(&args, json),
            Command::Serve(args) => crate::server::run(args),
            Command::New(args) => new::run(&args, json),
            Command::Build(args) => build::run(&args, json),
            Command::Deploy(args) => deploy::run(&args, json),
            Command::List(args) => list::run(&args, json),
            Command::Inspect(args) => inspect::run(&args, json),
            Command::Invoke(args) => invoke::run(&args, json),
            Command::Logs(args) => logs::run(&args, json),
            Command::Usage(args) => usage::run(&args, json),
            Command::Rollback(args) => rollback::run(&args, json),
            Command::Delete(args) => delete::run(&args, json),
            Command::Login(args) => login::run(&args, json),
            Command::Tenant(args) => tenant::run(&args, json),
            Command::Key(args) => key::run(&args, json),
            Command::Engines(args) => engines::run(&args, json),
            Command::Completions(args) => completions::run(&args),
            Command::PrepareWorker | Command::InferenceWorker { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_commands_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
