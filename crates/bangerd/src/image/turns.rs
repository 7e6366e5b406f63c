//! One at a time for each key: of two that want the same made, the second waits for the first and
//! then looks at what it made.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

#[derive(Default)]
pub struct Turns {
    by_key: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

/// Until this is dropped, nobody else has the key.
pub struct Turn {
    _guard: OwnedMutexGuard<()>,
    /// Somebody else had it meanwhile.
    pub waited: bool,
}

impl Turns {
    pub async fn take(&self, key: &str) -> Turn {
        let turn = {
            let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
            by_key.retain(|_, turn| turn.strong_count() > 0);
            let known = by_key.get(key).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let turn = Arc::default();
                by_key.insert(key.to_owned(), Arc::downgrade(&turn));
                turn
            })
        };
        match turn.clone().try_lock_owned() {
            Ok(guard) => Turn {
                _guard: guard,
                waited: false,
            },
            Err(_) => Turn {
                _guard: turn.lock_owned().await,
                waited: true,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn one_key_is_had_by_one() {
        let turns = Turns::default();
        let first = turns.take("a").await;
        assert!(!first.waited);
        assert!(!turns.take("b").await.waited, "another key is free");
        let mut second = Box::pin(turns.take("a"));
        assert!((&mut second).now_or_never().is_none());
        // Whoever gives up waiting holds up nobody.
        let mut third = Box::pin(turns.take("a"));
        assert!((&mut third).now_or_never().is_none());
        drop(second);
        drop(first);
        assert!(third.await.waited);
        assert!(!turns.take("a").await.waited);
        assert_eq!(turns.by_key.lock().unwrap().len(), 1, "nothing piles up");
    }
}
