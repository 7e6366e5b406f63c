//! Tables of sources as hosts have them.

use super::*;

fn rendered(sources: &[Source]) -> String {
    sources.iter().map(Source::render).collect()
}

#[test]
fn lines_become_stanzas() {
    let cases = [
        (
            "deb http://deb.debian.org/debian bookworm main contrib # comment\n",
            "Types: deb\nURIs: http://deb.debian.org/debian\nSuites: bookworm\nComponents: main contrib\n\n",
        ),
        (
            "deb [arch=amd64,arm64 signed-by=/k/a.gpg lang=none] https://x/y stable main",
            "Types: deb\nURIs: https://x/y\nSuites: stable\nComponents: main\n\
             Architectures: amd64 arm64\nSigned-By: /k/a.gpg\n\n",
        ),
        (
            "deb\t[trusted=no] file:/srv/r ./",
            "Types: deb\nURIs: file:/srv/r\nSuites: ./\n\n",
        ),
        ("deb-src http://x/ s main", ""),
        ("# deb http://x/ s main", ""),
        ("deb http://x/", ""),
        ("deb [signed-by=/x http://x/ s main", ""),
        ("deb cdrom:[Debian]/ bookworm main", ""),
        ("debug http://x/ s main", ""),
    ];
    for (line, expected) in cases {
        assert_eq!(rendered(&parse_lines(line)), expected, "{line}");
    }
}

#[test]
fn stanzas_are_carried_over() {
    let text = "Types: deb deb-src\n# why\nURIs: http://a/debian http://b/debian\n\
                Suites: bookworm bookworm-updates\nComponents: main\nTargets: Packages\n\
                Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINB\n\n\
                Types: deb-src\nURIs: http://c\nSuites: x\n\n\
                Types: deb\nEnabled: no\nURIs: http://d\nSuites: x\n";
    assert_eq!(
        rendered(&parse_deb822(text)),
        "Types: deb\nURIs: http://a/debian http://b/debian\nSuites: bookworm bookworm-updates\n\
         Components: main\nSigned-By: \n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINB\n\n"
    );
}

#[test]
fn what_is_rendered_reads_the_same() {
    let text =
        "Types: deb\nURIs: http://a\nSuites: s\nComponents: main\nSigned-By:\n KEY\n .\n X\n\n";
    let sources = parse_deb822(text);
    assert_eq!(parse_deb822(&rendered(&sources)), sources);
}

#[test]
fn sources_that_opt_out_of_signatures_are_left_out() {
    for option in [
        "trusted=yes",
        "trusted=true",
        "trusted=1",
        "Trusted=YES",
        "trusted+=yes",
        "allow-insecure=yes",
        "allow-weak=on",
        "allow-downgrade-to-insecure=yes",
        "signed-by=/k trusted=yes",
    ] {
        let line = format!("deb [{option}] http://x/ s main");
        assert_eq!(parse_lines(&line), [], "{line}");
    }
    for field in ["Trusted: yes", "trusted: anything", "Allow-Insecure: yes"] {
        let text = format!("Types: deb\nURIs: http://x\nSuites: s\n{field}\n");
        assert_eq!(parse_deb822(&text), [], "{field}");
    }
}

#[test]
fn files_are_found_as_apt_finds_them() {
    let dir = tempfile::tempdir().unwrap();
    let parts = dir.path().join("parts");
    std::fs::create_dir(&parts).unwrap();
    let line = |n: u32| format!("deb http://h{n}/ s main\n");
    std::fs::write(dir.path().join("sources.list"), line(1)).unwrap();
    std::fs::write(parts.join("b.list"), line(3)).unwrap();
    std::fs::write(
        parts.join("a.sources"),
        "Types: deb\nURIs: http://h2/\nSuites: s\nComponents: main\n",
    )
    .unwrap();
    std::fs::write(parts.join("c.list.disabled"), line(4)).unwrap();
    std::fs::write(parts.join("d e.list"), line(5)).unwrap();
    let list = dir.path().join("sources.list");
    let hosts: Vec<String> = read_files(Some(&list), Some(&parts))
        .unwrap()
        .into_iter()
        .flat_map(|s| s.uris)
        .collect();
    assert_eq!(hosts, ["http://h1/", "http://h2/", "http://h3/"]);
    let none = dir.path().join("none");
    assert_eq!(read_files(Some(&none), Some(&none)).unwrap(), []);
}
