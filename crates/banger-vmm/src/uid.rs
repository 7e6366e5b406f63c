//! A user id of its own for every VMM process of a root daemon.
//!
//! Limits: who uses which id is the caller's record; this only picks.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// Range used unless the configuration names another: above what distributions give to people
/// and below the 524288 where `/etc/subuid` ranges are usually handed out from.
pub const DEFAULT_RANGE: RangeInclusive<u32> = 200_000..=265_535;

/// The smallest id of the range that is not in use; never 0 nor the two "no such user" ids.
pub fn pick(range: &RangeInclusive<u32>, used: &BTreeSet<u32>) -> Option<u32> {
    range
        .clone()
        .find(|uid| !used.contains(uid) && !is_reserved(*uid))
}

fn is_reserved(uid: u32) -> bool {
    // 65534 is nobody; -1 means "leave as it is" to setresuid(2), in 16 and in 32 bits.
    matches!(uid, 0 | 65534 | 65535 | u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_the_first_free_one() {
        let cases: [(RangeInclusive<u32>, &[u32], Option<u32>); 7] = [
            (10..=12, &[], Some(10)),
            (10..=12, &[10, 12], Some(11)),
            (10..=12, &[10, 11, 12], None),
            (0..=1, &[], Some(1)),
            (65533..=65537, &[65533], Some(65536)),
            (u32::MAX..=u32::MAX, &[], None),
            (RangeInclusive::new(5, 4), &[], None),
        ];
        for (range, used, expected) in cases {
            let used = used.iter().copied().collect();
            assert_eq!(pick(&range, &used), expected, "{range:?} {used:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_picked_is_free(used: BTreeSet<u8>) {
            let used: BTreeSet<u32> = used.into_iter().map(u32::from).collect();
            match pick(&(1..=200), &used) {
                Some(uid) => assert!((1..=200).contains(&uid) && !used.contains(&uid)),
                None => assert!((1..=200).all(|uid| used.contains(&uid))),
            }
        }
    }
}
