//! One lock per key, so that two who want the same thing do it one after the other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

use crate::digest::Digest;

#[derive(Default)]
pub(crate) struct KeyedLocks {
    locks: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

impl KeyedLocks {
    /// Waits for its turn. Whoever gets it must look first whether the work is done already.
    pub async fn lock(&self, key: Digest) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| lock.strong_count() > 0);
            let found = locks.get(&key).and_then(Weak::upgrade);
            found.unwrap_or_else(|| {
                let lock = Arc::default();
                locks.insert(key, Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }
}

/// Bases that must stay, counted: a base is published before anybody records who uses it.
#[derive(Clone, Default)]
pub(crate) struct Leases(Arc<Mutex<HashMap<Digest, usize>>>);

/// Keeps one base from being removed by [`super::Images::prune`] until it is dropped.
pub struct BaseLease {
    leases: Leases,
    digest: Digest,
}

impl Leases {
    pub fn take(&self, digest: Digest) -> BaseLease {
        *self.counts().entry(digest).or_default() += 1;
        BaseLease {
            leases: self.clone(),
            digest,
        }
    }

    pub fn is_leased(&self, digest: &Digest) -> bool {
        self.counts().contains_key(digest)
    }

    /// Runs `act` on a base unless it is leased; none can be leased meanwhile.
    pub fn unless_leased<T>(&self, digest: &Digest, act: impl FnOnce() -> T) -> Option<T> {
        let counts = self.counts();
        (!counts.contains_key(digest)).then(act)
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for BaseLease {
    fn drop(&mut self) {
        let mut counts = self.leases.counts();
        if let Some(count) = counts.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.digest);
            }
        }
    }
}

impl std::fmt::Debug for BaseLease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BaseLease({})", self.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_kept_until_its_last_lease_ends() {
        let leases = Leases::default();
        let digest = Digest::of(b"x");
        let first = leases.take(digest);
        let second = leases.take(digest);
        drop(first);
        assert_eq!(leases.unless_leased(&digest, || ()), None);
        assert_eq!(leases.unless_leased(&Digest::of(b"y"), || ()), Some(()));
        drop(second);
        assert_eq!(leases.unless_leased(&digest, || ()), Some(()));
    }
}
