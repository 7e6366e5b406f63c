//! Progress of operations on stderr: bars on a terminal, one line per stage elsewhere, nothing
//! with `--quiet` or `--json`.

use std::io::IsTerminal;
use std::time::Duration;

use banger_protocol::api::operation::OperationEvent;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::{printable, tell};

/// How often a spinner turns.
const TICK: Duration = Duration::from_millis(100);

/// Where the progress of all operations of one run is shown.
pub enum Progress {
    Bars(MultiProgress),
    Lines,
    Silent,
}

impl Progress {
    pub fn new(silent: bool) -> Self {
        if silent {
            Progress::Silent
        } else if std::io::stderr().is_terminal() {
            Progress::Bars(MultiProgress::with_draw_target(ProgressDrawTarget::stderr()))
        } else {
            Progress::Lines
        }
    }

    /// Begins to show one operation; `label` tells it from others of the same run.
    pub fn operation(&self, label: Option<&str>) -> Shown {
        let label = label.map(printable);
        match self {
            Progress::Silent => Shown::Silent,
            Progress::Lines => Shown::Lines {
                label,
                last: String::new(),
            },
            Progress::Bars(all) => {
                let bar = all.add(ProgressBar::new_spinner());
                bar.set_style(spinner());
                bar.enable_steady_tick(TICK);
                Shown::Bar { label, bar }
            }
        }
    }
}

/// One operation on show. Its bar goes away with it.
pub enum Shown {
    Bar {
        label: Option<String>,
        bar: ProgressBar,
    },
    Lines {
        label: Option<String>,
        /// The line printed last, which is not repeated while only the bytes grow.
        last: String,
    },
    Silent,
}

impl Shown {
    pub fn event(&mut self, event: &OperationEvent) {
        let OperationEvent::Progress {
            stage,
            detail,
            done,
            total,
            ..
        } = event
        else {
            return;
        };
        match self {
            Shown::Silent => {}
            Shown::Lines { label, last } => {
                let line = line(label.as_deref(), stage, detail);
                if line != *last {
                    tell(&line);
                    *last = line;
                }
            }
            Shown::Bar { label, bar } => {
                bar.set_message(line(label.as_deref(), stage, detail).trim_end().to_owned());
                match total {
                    Some(total) if *total > 0 => {
                        if bar.length() != Some(*total) {
                            bar.set_length(*total);
                            bar.set_style(bytes());
                        }
                        bar.set_position((*done).min(*total));
                    }
                    _ => {
                        if bar.length().is_some() {
                            bar.unset_length();
                            bar.set_style(spinner());
                        }
                        bar.set_position(*done);
                    }
                }
            }
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Shown::Bar { bar, .. } = self {
            bar.finish_and_clear();
        }
    }
}

/// `[stage] detail`, after the label of one among several.
fn line(label: Option<&str>, stage: &str, detail: &str) -> String {
    let mut line = String::new();
    if let Some(label) = label {
        line.push_str(label);
        line.push(' ');
    }
    line.push('[');
    line.push_str(&printable(stage));
    line.push(']');
    if !detail.is_empty() {
        line.push(' ');
        line.push_str(&printable(detail));
    }
    line.push('\n');
    line
}

fn spinner() -> ProgressStyle {
    ProgressStyle::default_spinner()
}

fn bytes() -> ProgressStyle {
    ProgressStyle::with_template("{bar:24} {binary_bytes}/{binary_total_bytes} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        assert_eq!(
            line(None, "fetch", "layer 1 of 3"),
            "[fetch] layer 1 of 3\n"
        );
        assert_eq!(line(Some("web"), "stop", ""), "web [stop]\n");
        assert_eq!(line(None, "fetch", "\x1b[2J"), "[fetch] \u{fffd}[2J\n");
    }

    #[test]
    fn the_template_of_the_bar_is_valid() {
        assert!(
            ProgressStyle::with_template("{bar:24} {binary_bytes}/{binary_total_bytes} {msg}")
                .is_ok()
        );
    }

    #[test]
    fn growing_bytes_repeat_no_line() {
        let mut shown = Shown::Lines {
            label: None,
            last: String::new(),
        };
        for done in [0, 10, 20] {
            shown.event(&OperationEvent::Progress {
                stage: "fetch".into(),
                detail: "a".into(),
                done,
                total: Some(20),
                at_ms: 0,
            });
            let Shown::Lines { last, .. } = &shown else {
                unreachable!()
            };
            assert_eq!(last, "[fetch] a\n");
        }
    }
}
