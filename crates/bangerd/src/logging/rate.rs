//! How many lines are written: a bucket that fills at a steady rate.

use std::time::{Duration, Instant};

/// Lines at once.
const BURST: u32 = 2000;
/// Time in which one more becomes possible.
const REFILL: Duration = Duration::from_millis(5);

/// What becomes of a line.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Write it, after a note that so many were dropped before it.
    Write {
        dropped: u64,
    },
    Drop,
}

pub struct Rate {
    left: u32,
    /// Up to when `left` was filled.
    filled: Instant,
    dropped: u64,
}

impl Rate {
    pub fn new(now: Instant) -> Rate {
        Rate {
            left: BURST,
            filled: now,
            dropped: 0,
        }
    }

    pub fn next(&mut self, now: Instant) -> Verdict {
        let passed = now.saturating_duration_since(self.filled);
        let fresh = u32::try_from(passed.as_nanos() / REFILL.as_nanos()).unwrap_or(u32::MAX);
        if fresh >= BURST - self.left {
            self.left = BURST;
            self.filled = now;
        } else {
            self.left += fresh;
            self.filled += REFILL * fresh;
        }
        if self.left == 0 {
            self.dropped += 1;
            return Verdict::Drop;
        }
        self.left -= 1;
        Verdict::Write {
            dropped: std::mem::take(&mut self.dropped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_to_the_rate_and_counted() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        let second = start + Duration::from_secs(1);
        let at_once = (0..10_000)
            .filter(|_| rate.next(start) != Verdict::Drop)
            .count();
        assert_eq!(at_once, 2000);
        assert_eq!(rate.next(second), Verdict::Write { dropped: 8000 });
        let later = (0..10_000)
            .filter(|_| rate.next(second) != Verdict::Drop)
            .count();
        assert_eq!(later, 199);
        assert_eq!(
            rate.next(second + Duration::from_secs(3600)),
            Verdict::Write { dropped: 9801 }
        );
    }
}
