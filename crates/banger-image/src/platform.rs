//! Which variant of a multi-platform image this host runs.
//!
//! Names are those of the OCI specification (Go's). A guest runs on the host's own architecture:
//! foreign ones are refused rather than emulated.

use std::fmt;

use serde::Deserialize;

/// Operating system, architecture and, for some architectures, a variant of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
pub struct Platform {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub variant: String,
}

impl Platform {
    /// What guests on this host are.
    pub fn host() -> Platform {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", x86_level()),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "x86" => ("386", ""),
            "powerpc64" => ("ppc64le", ""),
            "loongarch64" => ("loong64", ""),
            other => (other, ""),
        };
        Platform::new("linux", architecture, variant)
    }

    pub fn new(os: &str, architecture: &str, variant: &str) -> Platform {
        Platform {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        }
    }

    /// How well an image of `offered` runs here: `None` not at all, else the lower the better.
    ///
    /// The baseline of amd64 comes before its higher levels, since the machine may run where the
    /// translator offers less than this host does; of the other architectures the closest variant
    /// wins.
    pub fn rank(&self, offered: &Platform) -> Option<u32> {
        if offered.os != self.os || offered.architecture != self.architecture {
            return None;
        }
        let own = level(&self.architecture, &self.variant);
        let theirs = level(&self.architecture, &offered.variant);
        match (own, theirs) {
            (Some(own), Some(theirs)) if theirs <= own => Some(if self.architecture == "amd64" {
                theirs
            } else {
                own - theirs
            }),
            _ => None,
        }
    }
}

/// Number of a variant; an image that names none means the usual one of its architecture.
fn level(architecture: &str, variant: &str) -> Option<u32> {
    match (architecture, variant) {
        ("amd64", "") => Some(1),
        ("arm64", "") => Some(8),
        ("arm", "") => Some(7),
        (_, "") => Some(0),
        (_, variant) => variant.strip_prefix('v')?.parse().ok(),
    }
}

#[cfg(target_arch = "x86_64")]
fn x86_level() -> &'static str {
    let v2 = std::is_x86_feature_detected!("sse4.2") && std::is_x86_feature_detected!("popcnt");
    let v3 = v2
        && std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("bmi2")
        && std::is_x86_feature_detected!("fma")
        && std::is_x86_feature_detected!("movbe")
        && std::is_x86_feature_detected!("lzcnt");
    match (v2, v3) {
        (_, true) => "v3",
        (true, _) => "v2",
        _ => "v1",
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn x86_level() -> &'static str {
    "v1"
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

/// The offer that runs best here; of equals the first.
pub fn choose<'a, T>(
    host: &Platform,
    offers: impl IntoIterator<Item = (&'a Platform, T)>,
) -> Option<T> {
    offers
        .into_iter()
        .filter_map(|(platform, offer)| Some((host.rank(platform)?, offer)))
        .reduce(|best, next| if next.0 < best.0 { next } else { best })
        .map(|(_, offer)| offer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Platform {
        let mut parts = text.split('/');
        let mut next = || parts.next().unwrap_or_default();
        Platform::new(next(), next(), next())
    }

    #[test]
    fn the_best_variant_that_runs_is_chosen() {
        for (host, offers, expected) in [
            ("linux/amd64/v3", "linux/arm64 linux/amd64", Some(1)),
            (
                "linux/amd64/v3",
                "linux/amd64/v3 linux/amd64 linux/amd64/v2",
                Some(1),
            ),
            ("linux/amd64/v3", "linux/amd64/v2 linux/amd64/v1", Some(1)),
            (
                "linux/amd64/v3",
                "linux/amd64/v4 linux/amd64/v3 linux/amd64/v2",
                Some(2),
            ),
            ("linux/amd64/v1", "linux/amd64/v2", None),
            ("linux/amd64/v3", "linux/amd64 linux/amd64", Some(0)),
            (
                "linux/amd64/v3",
                "windows/amd64 darwin/amd64 unknown/unknown",
                None,
            ),
            ("linux/arm64/v8", "linux/arm64", Some(0)),
            ("linux/arm64/v8", "linux/arm64/v8 linux/arm64", Some(0)),
            ("linux/arm64/v8", "linux/arm64/v9 linux/arm/v7", None),
            ("linux/arm/v7", "linux/arm/v5 linux/arm/v6", Some(1)),
            ("linux/arm/v7", "linux/arm/v6 linux/arm/v7", Some(1)),
            ("linux/riscv64", "linux/riscv64", Some(0)),
            ("linux/amd64/v3", "linux/amd64/strange", None),
            ("linux/amd64/v3", "", None),
        ] {
            let platforms: Vec<_> = offers.split(' ').map(parse).collect();
            let offers_numbered = platforms.iter().zip(0..);
            assert_eq!(
                choose(&parse(host), offers_numbered),
                expected,
                "{host}: {offers}"
            );
        }
    }

    #[test]
    fn a_host_runs_its_own_kind() {
        let host = Platform::host();
        assert_eq!(host.os, "linux");
        assert!(
            host.rank(&Platform::new("linux", &host.architecture, ""))
                .is_some()
        );
    }
}
