//! What an operation announced so far: bounded, coalesced, replayable.
//!
//! Followers pull: each remembers the number of the last line it saw and asks for what is newer.
//! A slow follower therefore costs nothing, and sees fewer intermediate byte counts.

use std::collections::VecDeque;
use std::time::Duration;

use banger_protocol::api::operation::OperationEvent;

/// Lines kept. An operation has some ten stages; more than this is a loop, whose oldest lines go.
const MAX_LINES: usize = 256;
/// Longest stage or detail text kept, in bytes: details may quote a registry.
const MAX_TEXT: usize = 1024;
/// Byte counts of one stage become visible at most this often.
const BYTES_INTERVAL: Duration = Duration::from_millis(100);

struct Line {
    /// Grows with every visible change; the line a byte count updates moves to a new number.
    number: u64,
    stage: String,
    detail: String,
    done: u64,
    total: Option<u64>,
    at: Duration,
}

/// The lines of one operation.
#[derive(Default)]
pub struct Log {
    lines: VecDeque<Line>,
    last_number: u64,
    last_bytes_shown: Duration,
    /// The last line holds a byte count that no follower was told.
    unshown: bool,
}

impl Log {
    /// A new stage begins, `at` after the operation did.
    pub fn stage(&mut self, stage: &str, detail: &str, at: Duration) {
        self.show();
        self.last_number += 1;
        self.lines.push_back(Line {
            number: self.last_number,
            stage: bounded(stage),
            detail: bounded(detail),
            done: 0,
            total: None,
            at,
        });
        if self.lines.len() > MAX_LINES {
            self.lines.pop_front();
        }
        // The first count of a stage is shown at once.
        self.last_bytes_shown = Duration::ZERO;
    }

    /// Bytes done in the current stage. Returns whether followers should look.
    pub fn bytes(&mut self, done: u64, total: Option<u64>, at: Duration) -> bool {
        let Some(line) = self.lines.back_mut() else {
            return false;
        };
        if line.done == done && line.total == total {
            return false;
        }
        line.done = done;
        line.total = total;
        line.at = at;
        self.unshown = true;
        if self.last_bytes_shown != Duration::ZERO
            && at.saturating_sub(self.last_bytes_shown) < BYTES_INTERVAL
        {
            return false;
        }
        self.last_bytes_shown = at.max(Duration::from_nanos(1));
        self.show();
        true
    }

    /// Makes a byte count visible that was held back. Returns whether there was one.
    pub fn show(&mut self) -> bool {
        let held_back = std::mem::take(&mut self.unshown);
        if held_back && let Some(line) = self.lines.back_mut() {
            self.last_number += 1;
            line.number = self.last_number;
        }
        held_back
    }

    /// The latest stage; empty before the first.
    pub fn current_stage(&self) -> &str {
        self.lines.back().map_or("", |line| &line.stage)
    }

    /// Lines newer than `seen`, and the number to ask with next time.
    pub fn newer_than(&self, seen: u64) -> (Vec<OperationEvent>, u64) {
        let events = self
            .lines
            .iter()
            .filter(|line| line.number > seen)
            .map(|line| OperationEvent::Progress {
                stage: line.stage.clone(),
                detail: line.detail.clone(),
                done: line.done,
                total: line.total,
                at_ms: u64::try_from(line.at.as_millis()).unwrap_or(u64::MAX),
            })
            .collect();
        (events, self.last_number)
    }
}

fn bounded(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn lines(events: &[OperationEvent]) -> Vec<(String, u64)> {
        events
            .iter()
            .map(|event| match event {
                OperationEvent::Progress { stage, done, .. } => (stage.clone(), *done),
                other => panic!("a log holds progress only, not {other:?}"),
            })
            .collect()
    }

    #[test]
    fn late_followers_get_the_stages_so_far() {
        let mut log = Log::default();
        log.stage("resolve", "", ms(0));
        log.stage("fetch", "3 layers", ms(5));
        let (events, seen) = log.newer_than(0);
        assert_eq!(
            lines(&events),
            [("resolve".to_owned(), 0), ("fetch".to_owned(), 0)]
        );
        assert!(log.newer_than(seen).0.is_empty());
        log.stage("import", "", ms(9));
        assert_eq!(lines(&log.newer_than(seen).0), [("import".to_owned(), 0)]);
    }

    #[test]
    fn byte_counts_are_coalesced_and_the_last_is_never_lost() {
        let mut log = Log::default();
        log.stage("fetch", "", ms(0));
        let shown: Vec<u64> = (1..=1000)
            .filter(|at| log.bytes(*at, Some(1000), ms(*at)))
            .collect();
        assert_eq!(shown.len(), 10, "{shown:?}");
        let (_, seen) = log.newer_than(0);
        log.stage("import", "", ms(1001));
        assert_eq!(
            lines(&log.newer_than(seen).0),
            [("fetch".to_owned(), 1000), ("import".to_owned(), 0)],
            "the count held back comes before the next stage"
        );
    }

    #[test]
    fn a_repeated_count_is_no_news() {
        let mut log = Log::default();
        assert!(!log.bytes(1, None, ms(0)), "no stage yet");
        log.stage("fetch", "", ms(0));
        assert!(log.bytes(1, None, ms(1)));
        assert!(!log.bytes(1, None, ms(900)));
        assert!(!log.show());
    }

    #[test]
    fn lines_and_texts_are_bounded() {
        let mut log = Log::default();
        for _ in 0..10 * MAX_LINES {
            log.stage(
                "ä".repeat(MAX_TEXT).as_str(),
                &"x".repeat(10 * MAX_TEXT),
                ms(1),
            );
        }
        let (events, _) = log.newer_than(0);
        assert_eq!(events.len(), MAX_LINES);
        assert!(
            matches!(&events[0], OperationEvent::Progress { stage, detail, .. }
            if stage.len() == MAX_TEXT && detail.len() == MAX_TEXT)
        );
    }
}
