//! `banger doctor`.

use banger_protocol::api::daemon::{CheckStatus, DoctorReport};
use banger_protocol::api::path;
use banger_protocol::error::ErrorKind;
use clap::Args;

use super::Context;
use crate::failure::{Failure, Outcome, printable};
use crate::output;

const EXAMPLES: &str = "\
Examples:
  banger doctor
  banger doctor --json | jq -r '.checks[] | select(.status != \"pass\").name'";

/// Check whether this host is ready, and say what to do where it is not
///
/// Exits with 115 where a check fails. Warnings fail nothing.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Doctor {}

pub async fn run(context: &Context, _args: Doctor) -> Outcome {
    let client = context.client().await?;
    let report: DoctorReport = client.get(path::DOCTOR).await?;
    if context.json {
        output::print_json(&report)?;
    } else {
        output::print(&text(&report))?;
    }
    match report.status {
        CheckStatus::Pass | CheckStatus::Warn => Ok(0),
        CheckStatus::Fail => Err(Failure::Told(ErrorKind::MissingDependency.exit_code())),
    }
}

fn text(report: &DoctorReport) -> String {
    let mut text = String::new();
    for check in &report.checks {
        let status = match check.status {
            CheckStatus::Pass => "PASS",
            CheckStatus::Warn => "WARN",
            CheckStatus::Fail => "FAIL",
        };
        text.push_str(&format!("{status}  {}\n", printable(&check.name)));
        for detail in &check.details {
            text.push_str(&format!("      - {}\n", printable(detail)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_protocol::api::daemon::Check;

    #[test]
    fn the_report() {
        let report = DoctorReport {
            status: CheckStatus::Warn,
            checks: vec![
                Check {
                    name: "qemu".into(),
                    status: CheckStatus::Pass,
                    details: Vec::new(),
                },
                Check {
                    name: "kvm".into(),
                    status: CheckStatus::Warn,
                    details: vec!["no /dev/kvm".into(), "machines are slow".into()],
                },
            ],
        };
        assert_eq!(
            text(&report),
            "PASS  qemu\nWARN  kvm\n      - no /dev/kvm\n      - machines are slow\n"
        );
    }
}
