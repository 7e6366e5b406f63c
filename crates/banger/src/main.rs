//! The command line client. See `banger::run`.

use std::process::ExitCode;

fn main() -> ExitCode {
    banger::completion::answer_if_asked();
    banger::run(
        std::env::args_os(),
        banger::environment::Environment::of_this_process(),
    )
}
