//! Which apt sources an image is built from: those of the host that hold its release. Pure.

use crate::apt::Source;

use super::ImageEntry;

/// The sources for `entry`, in deb822 text, from the signed sources of the host.
///
/// First the host's sources that name the release itself, so that its mirrors, keys and proxies are
/// used as they are. Else the mirror of another release of the distribution, with the release put
/// in. Else the catalog's mirror and keyring.
pub fn sources(entry: &ImageEntry, host: &[Source]) -> String {
    let mut chosen: Vec<Source> = host
        .iter()
        .filter_map(|source| of_release(source, entry))
        .collect();
    if !holds(&chosen, &entry.suite) {
        chosen = host
            .iter()
            .find_map(|source| other_release(source, entry))
            .into_iter()
            .collect();
    }
    if chosen.is_empty() {
        chosen.push(Source {
            uris: vec![entry.mirror.clone()],
            suites: vec![entry.suite.clone(), format!("{}-updates", entry.suite)],
            components: entry.components.clone(),
            options: vec![(
                "Signed-By".into(),
                entry.keyring.to_string_lossy().into_owned(),
            )],
        });
    }
    chosen.iter().map(Source::render).collect()
}

/// Whether the release itself is there; updates or security alone are no system.
fn holds(sources: &[Source], suite: &str) -> bool {
    sources.iter().any(|s| s.suites.iter().any(|s| s == suite))
}

/// What a host's source has of the release: the release, its updates, its security fixes. Backports
/// and third parties' packages for it are not part of it.
fn of_release(source: &Source, entry: &ImageEntry) -> Option<Source> {
    if !is_of_distro(source, entry) {
        return None;
    }
    let suite = &entry.suite;
    let wanted = [
        suite.clone(),
        format!("{suite}-updates"),
        format!("{suite}-security"),
        format!("{suite}/updates"),
    ];
    narrowed(
        source,
        entry,
        source
            .suites
            .iter()
            .filter(|suite| wanted.contains(suite))
            .cloned()
            .collect(),
    )
}

/// The distribution's main archive, with another release than the host's.
fn other_release(source: &Source, entry: &ImageEntry) -> Option<Source> {
    let is_archive = |uri: &String| {
        uri.trim_end_matches('/')
            .ends_with(&format!("/{}", entry.distro))
    };
    if !source.uris.iter().all(is_archive) || source.suites.iter().any(|s| s.contains("security")) {
        return None;
    }
    narrowed(
        source,
        entry,
        vec![entry.suite.clone(), format!("{}-updates", entry.suite)],
    )
}

fn narrowed(source: &Source, entry: &ImageEntry, suites: Vec<String>) -> Option<Source> {
    let components: Vec<String> = source
        .components
        .iter()
        .filter(|component| entry.components.contains(component))
        .cloned()
        .collect();
    (!suites.is_empty() && !components.is_empty()).then(|| Source {
        suites,
        components,
        ..source.clone()
    })
}

/// A mirror's path tells its distribution: `…/debian`, `…/debian-security`. A third party's
/// repository that names its suite after a release has another.
fn is_of_distro(source: &Source, entry: &ImageEntry) -> bool {
    source.uris.iter().all(|uri| {
        uri.trim_end_matches('/')
            .split('/')
            .any(|part| part == entry.distro || part == format!("{}-security", entry.distro))
    })
}

#[cfg(test)]
mod tests {
    use super::super::Catalog;
    use super::*;
    use crate::apt::sources::parse_lines;

    #[test]
    fn the_hosts_own_sources_come_first() {
        let catalog = Catalog::load(None).unwrap();
        let entry = catalog.image("debian-12").unwrap();
        let cases = [
            // A Debian 12 host with backports, non-free and a third party.
            (
                "deb [signed-by=/k.gpg] http://m/debian bookworm bookworm main contrib\n\
                 deb http://m/debian bookworm-backports main\n\
                 deb http://m/debian-security bookworm-security main\n\
                 deb https://download.docker.com/linux/other bookworm stable main\n",
                "Types: deb\nURIs: http://m/debian\nSuites: bookworm\nComponents: main\n\
                 Signed-By: /k.gpg\n\nTypes: deb\nURIs: http://m/debian-security\n\
                 Suites: bookworm-security\nComponents: main\n\n",
            ),
            // A Debian 13 host: its mirror, our release.
            (
                "deb [signed-by=/k.gpg] http://m/debian trixie main\n\
                 deb http://m/debian-security trixie-security main\n",
                "Types: deb\nURIs: http://m/debian\nSuites: bookworm bookworm-updates\n\
                 Components: main\nSigned-By: /k.gpg\n\n",
            ),
            // Not Debian at all.
            (
                "deb http://archive.ubuntu.com/ubuntu noble main\n",
                "Types: deb\nURIs: http://deb.debian.org/debian\nSuites: bookworm bookworm-updates\n\
                 Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n",
            ),
            // Security fixes alone are no system.
            (
                "deb http://m/debian-security bookworm-security main\n",
                "Types: deb\nURIs: http://deb.debian.org/debian\nSuites: bookworm bookworm-updates\n\
                 Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n",
            ),
        ];
        for (host, expected) in cases {
            assert_eq!(sources(entry, &parse_lines(host)), expected, "{host}");
        }
    }
}
