use std::process::ExitCode;

use banger_agent::{hook, init, local, log};
use banger_protocol::build::this_build;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    let program = arguments.next().unwrap_or_default();
    let first = arguments.next();
    if std::process::id() == 1 {
        if program.ends_with("shutdown") {
            hook::run(first.as_deref().unwrap_or("poweroff"));
        }
        if let Err(error) = init::run() {
            let mut message = error.to_string();
            if let Some(source) = std::error::Error::source(&error) {
                message = format!("{message}: {source}");
            }
            log::warn(&message);
        }
        return ExitCode::FAILURE;
    }
    match first.as_deref() {
        Some("check") => match local::check() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("the agent does not answer: {error}");
                ExitCode::FAILURE
            }
        },
        Some("--version") => {
            let build = this_build();
            println!(
                "banger-agent {} ({} {})",
                build.version, build.commit, build.built_at
            );
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("banger-agent runs as process 1 of a VM, or as: banger-agent check");
            ExitCode::from(2)
        }
    }
}
