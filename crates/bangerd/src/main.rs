//! `bangerd`: parses its arguments, builds the parts, runs.
//!
//! The hidden word `launch` makes the same program the launcher of a VMM: see [`banger_vmm::jail`].

mod arguments;

use std::process::ExitCode;
use std::time::Duration;

use banger_host::layout::{Environment, Layout};
use banger_protocol::build::this_build;
use banger_protocol::error::{ApiError, ErrorKind};
use bangerd::config::{Config, LOG_LEVEL_VARIABLE};
use bangerd::daemon::{Daemon, Start};
use bangerd::{logging, process, real};

use arguments::{Arguments, HELP};

/// How long work that cannot be cancelled, such as writing out a file, holds up the daemon's end.
const THREADS_BOUND: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    match arguments::parse(std::env::args_os().skip(1)) {
        Ok(Arguments::Launch) => banger_vmm::jail::launcher_main(),
        Ok(Arguments::Help) => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        Ok(Arguments::Version) => {
            let build = this_build();
            println!(
                "bangerd {} ({} {})",
                build.version, build.commit, build.built_at
            );
            ExitCode::SUCCESS
        }
        Ok(Arguments::Serve { started_by_client }) => match serve(started_by_client) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        },
        Err(message) => {
            eprintln!("bangerd: {message}");
            // As all programs of banger do for a wrong command line.
            ExitCode::from(2)
        }
    }
}

fn serve(by_client: bool) -> Result<(), ApiError> {
    // SAFETY-relevant order: nothing has started a thread yet.
    process::prepare();
    let environment = Environment::of_this_process();
    let uid = rustix::process::geteuid().as_raw();
    let layout = Layout::own(&environment, uid)
        .map_err(|error| ApiError::new(ErrorKind::BadConfig, error.to_string()))?;
    let config = Config::load(&layout.config_file)?;
    let level = config.log_level(std::env::var(LOG_LEVEL_VARIABLE).ok().as_deref())?;
    let log = by_client.then(|| layout.log());
    if log.is_some() {
        bangerd::daemon::prepare(&layout)?;
    }
    logging::start(level, log.as_deref().map(|path| (path, config.log_size.0)))?;
    process::log_panics();
    let runtime = process::runtime()
        .map_err(|error| ApiError::new(ErrorKind::Internal, format!("cannot start: {error}")))?;
    let served = runtime.block_on(async {
        let start = Start { by_client, log };
        let parts = real::parts(&layout, &config);
        let daemon = Daemon::open(layout, config, start, parts)
            .await
            .inspect_err(|error| tracing::error!(%error, "cannot start"))?;
        daemon.serve().await
    });
    // Dropping it would wait as long as a thread is stuck, say on a file system that is gone. What
    // is cut short here is swept at the next start.
    runtime.shutdown_timeout(THREADS_BOUND);
    served
}

fn failed(error: &ApiError) -> ExitCode {
    eprintln!("bangerd: {error}");
    for line in &error.details {
        eprintln!("  {line}");
    }
    if let Some(hint) = &error.hint {
        eprintln!("hint: {hint}");
    }
    ExitCode::from(error.kind.exit_code())
}
