//! Everything the project does to itself: build, check, test, measure.
//!
//! `cargo xtask COMMAND`; without one, this list. Each command prints what it runs, stops at the
//! first failure, and needs no shell.

use std::process::ExitCode;

mod bench;
mod build;
mod check;
mod fuzz;
mod run;
mod soak;
mod test;
mod tools;

const USAGE: &str = "usage: cargo xtask COMMAND

  agent            build the static guest agent
  dist             build release programs into target/dist, laid out as installed
  run [--root DIR] the main job: boot a VM from the default image and print where time went
  check            formatting, clippy, policy, licences, shellcheck
  test             crate tests, end-to-end tests, fuzz targets for a bounded time
  e2e [--full] [NAME]
                   end-to-end tests only; --full adds the slow ones
  fuzz [SECONDS]   each fuzz target for so long (default 10)
  bench [NAME]     measure; JSON lines on stdout
  soak boots N     boot N times in a row
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["agent"] => build::agent().map(drop),
        ["dist"] => build::dist().map(drop),
        ["run", rest @ ..] => run::run(rest),
        ["check"] => check::check(),
        ["test"] => test::test(),
        ["e2e", rest @ ..] => test::e2e(rest),
        ["fuzz", rest @ ..] => test::fuzz(rest),
        ["bench", rest @ ..] => bench::bench(rest),
        ["soak", "boots", count] => soak::boots(count),
        _ => {
            print!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
