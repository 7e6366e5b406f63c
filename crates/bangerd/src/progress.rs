//! The image library's progress as an operation's.

use std::sync::Mutex;

use banger_image::progress::Progress;

use crate::operation::Context;

/// Hands steps to an operation: a new stage, or a detail that is not a count of bytes, becomes a
/// line of its own.
pub fn of(context: &Context) -> Progress {
    let context = context.clone();
    let last: Mutex<(&'static str, String)> = Mutex::new(("", String::new()));
    Progress::new(move |step| {
        let Ok(mut last) = last.lock() else {
            return;
        };
        let counting = step.bytes_done > 0 || step.bytes_total.is_some();
        if last.0 != step.stage || (last.1 != step.detail && !counting) {
            *last = (step.stage, step.detail.to_owned());
            context.stage(step.stage, step.detail);
        }
        if counting {
            context.bytes(step.bytes_done, step.bytes_total);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::{OperationLimits, Operations};
    use banger_protocol::api::operation::{OperationEvent, OperationKind, OperationResult};
    use futures_util::StreamExt;

    #[tokio::test]
    async fn stages_and_counts() {
        let operations = Operations::new(OperationLimits::default());
        let handle = operations
            .start(OperationKind::ImagePull, "x", |context| async move {
                let progress = of(&context);
                progress.stage("resolve", "a");
                progress.stage("resolve", "b");
                progress.bytes("fetch", "layer 1", 0, Some(10));
                progress.bytes("fetch", "layer 2", 10, Some(10));
                Ok(OperationResult::Deleted {
                    name: String::new(),
                })
            })
            .unwrap();
        let lines: Vec<(String, String, u64)> = handle
            .events()
            .filter_map(|event| async move {
                match event {
                    OperationEvent::Progress {
                        stage,
                        detail,
                        done,
                        ..
                    } => Some((stage, detail, done)),
                    _ => None,
                }
            })
            .collect()
            .await;
        let last = ("fetch".to_owned(), "layer 1".to_owned(), 10);
        assert_eq!(lines.last(), Some(&last));
        assert_eq!(lines[0], ("resolve".to_owned(), "a".to_owned(), 0));
        assert_eq!(lines[1], ("resolve".to_owned(), "b".to_owned(), 0));
    }
}
