//! The CLI, and all that is done as the user.
//!
//! ```text
//! main ─► cli (parse) ─► commands/GROUP/VERB ─► client ─► bangerd
//!                          │      │      └─► attach (exec frames, terminal, signals)
//!                          │      └─► source, archive, credentials (local files, as the user)
//!                          └─► daemon (which one, start, replace)
//! ```
//!
//! stdout is data, stderr is talk; `--json` prints the API's types. [`failure`] lists the exit
//! codes, [`environment`] the variables.
//!
//! Limits: it keeps no state and decides nothing about VMs; whatever it knows it asks bangerd for.

pub mod archive;
pub mod attach;
pub mod cli;
pub mod client;
pub mod commands;
pub mod completion;
pub mod credentials;
pub mod daemon;
pub mod duration;
pub mod environment;
pub mod failure;
pub mod manual;
pub mod operate;
pub mod output;
pub mod progress;
pub mod signal;
pub mod source;
pub mod terminal;

use std::ffi::OsString;
use std::process::ExitCode;

use crate::cli::Parsed;
use crate::commands::Context;
use crate::environment::Environment;
use crate::failure::{Failure, Outcome};

/// One run of the CLI: parses, does it, tells what went wrong.
pub fn run(arguments: impl IntoIterator<Item = OsString>, environment: Environment) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let (json, outcome) = match cli::parse(&arguments, &environment) {
        Parsed::Run(cli) => {
            let context = Context {
                environment,
                json: cli.global.json,
                quiet: cli.global.quiet,
            };
            (context.json, block_on(commands::run(&context, cli.command)))
        }
        Parsed::Print(text) => (false, output::print(&text).map(|()| 0)),
        Parsed::Failed { json, failure } => (json, Err(failure)),
    };
    let failure = match outcome {
        Ok(code) => return ExitCode::from(code),
        Err(failure) => failure,
    };
    failure.report(json);
    if let Failure::Interrupted(signal) = failure {
        die_of(signal);
    }
    ExitCode::from(failure.exit_code())
}

/// One thread is enough for a client, and starts faster than a pool.
fn block_on(outcome: impl Future<Output = Outcome>) -> Outcome {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::output(&error))?
        .block_on(outcome)
}

/// Ends by the signal itself, so that a shell sees an interrupted command and stops its loop.
fn die_of(signal: i32) {
    // SAFETY: resets one signal's disposition to the default and raises it; no Rust code runs in
    // a handler, and nothing is left to clean up.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}
