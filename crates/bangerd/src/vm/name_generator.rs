//! Readable names for VMs: an adjective and a noun, and a number once those run short.

use std::collections::HashSet;

use banger_protocol::name::VmName;
use rustix::rand::{GetRandomFlags, getrandom};

const ADJECTIVES: [&str; 64] = [
    "able", "agile", "airy", "amber", "ample", "apt", "bold", "brave", "breezy", "bright", "brisk",
    "calm", "clean", "clear", "clever", "cosy", "crisp", "deft", "eager", "early", "easy", "fair",
    "fast", "fine", "firm", "fond", "fresh", "gentle", "glad", "golden", "grand", "happy", "hardy",
    "honest", "jolly", "keen", "kind", "lively", "loyal", "lucid", "lucky", "mellow", "merry",
    "mild", "neat", "nimble", "noble", "plain", "plucky", "polite", "prime", "proud", "quick",
    "quiet", "ready", "rustic", "sharp", "silent", "smooth", "snug", "solid", "steady", "sunny",
    "swift",
];

const NOUNS: [&str; 64] = [
    "acorn", "anchor", "aspen", "badger", "beacon", "beaver", "birch", "bison", "brook", "canyon",
    "cedar", "clover", "comet", "coral", "crane", "creek", "dune", "falcon", "fern", "finch",
    "fjord", "forest", "fox", "garnet", "glacier", "grove", "harbor", "hazel", "heron", "island",
    "ivy", "juniper", "kestrel", "lagoon", "lantern", "lark", "lynx", "maple", "marten", "meadow",
    "meteor", "mole", "moss", "oak", "orchid", "otter", "owl", "pebble", "pine", "plover",
    "quartz", "raven", "reef", "ridge", "robin", "sparrow", "spruce", "stream", "summit",
    "thistle", "thrush", "tundra", "willow", "wren",
];

/// A name that is not among `taken`.
pub fn generate(taken: &HashSet<&str>) -> VmName {
    generate_from(random_u64(), taken)
}

/// Walks from `seed` through all pairs once, then through all pairs with 2, with 3, and so on, so
/// that it ends for any finite `taken`.
fn generate_from(seed: u64, taken: &HashSet<&str>) -> VmName {
    let pairs = (ADJECTIVES.len() * NOUNS.len()) as u64;
    // Odd, and the number of pairs is a power of two: so the walk meets every pair.
    let stride = (seed >> 32) | 1;
    let mut round = 1u64;
    loop {
        for step in 0..pairs {
            let pair = (seed.wrapping_add(step.wrapping_mul(stride)) % pairs) as usize;
            let adjective = ADJECTIVES[pair / NOUNS.len()];
            let noun = NOUNS[pair % NOUNS.len()];
            let text = if round == 1 {
                format!("{adjective}-{noun}")
            } else {
                format!("{adjective}-{noun}-{round}")
            };
            if !taken.contains(text.as_str())
                && let Ok(name) = text.parse()
            {
                return name;
            }
        }
        round += 1;
    }
}

fn random_u64() -> u64 {
    let mut bytes = [0u8; 8];
    loop {
        if getrandom(&mut bytes, GetRandomFlags::empty()) == Ok(8) {
            return u64::from_ne_bytes(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_distinct_and_pairs_a_power_of_two() {
        assert_eq!(HashSet::from(ADJECTIVES).len(), ADJECTIVES.len());
        assert_eq!(HashSet::from(NOUNS).len(), NOUNS.len());
        assert!((ADJECTIVES.len() * NOUNS.len()).is_power_of_two());
    }

    #[test]
    fn every_name_is_new_and_all_pairs_are_used_before_a_number() {
        for seed in [0, u64::MAX, 0x1234_5678_9abc_def0] {
            let mut names: Vec<String> = Vec::new();
            for _ in 0..4 {
                // Sharing the set would make this test quadratic in the number of pairs.
                let taken: HashSet<&str> = names.iter().map(String::as_str).collect();
                names.push(generate_from(seed, &taken).to_string());
            }
            assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
            assert!(names.iter().all(|name| name.matches('-').count() == 1));
        }
        let all: Vec<String> = ADJECTIVES
            .iter()
            .flat_map(|adjective| NOUNS.iter().map(move |noun| format!("{adjective}-{noun}")))
            .collect();
        let mut taken: HashSet<&str> = all.iter().map(String::as_str).collect();
        let numbered = generate_from(7, &taken).to_string();
        assert!(numbered.ends_with("-2"), "{numbered}");
        taken.remove("calm-otter");
        assert_eq!(generate_from(7, &taken).as_str(), "calm-otter");
    }
}
