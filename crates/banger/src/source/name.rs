//! The name an image gets where the user gives none.

use banger_protocol::name::ImageName;

use super::{Local, LocalKind};

/// Endings of file names that say nothing about the image.
const ENDINGS: [&str; 9] = [
    ".tar.gz", ".tar.xz", ".tar.zst", ".tgz", ".txz", ".tzst", ".tar", ".oci", ".rootfs",
];

/// The last component of the path without its endings, and the tag: `./web.tar:v1` is `web-v1`. A
/// docker archive's reference speaks for itself: `debian:bookworm` is `debian-bookworm`. `None`
/// where nothing of a name is left.
pub fn default_name(local: &Local) -> Option<ImageName> {
    let stem = local.path.file_name()?.to_str()?.to_owned();
    let text = match (local.kind, local.tag.as_deref()) {
        (LocalKind::DockerArchive, Some(reference)) => {
            let repository = reference.rsplit('/').next().unwrap_or(reference);
            repository.replace(':', "-")
        }
        (_, Some(tag)) => format!("{}-{tag}", without_endings(&stem)),
        (_, None) => without_endings(&stem).to_owned(),
    };
    valid(&text)
}

fn without_endings(name: &str) -> &str {
    let mut name = name;
    while let Some(shorter) = ENDINGS
        .iter()
        .find_map(|ending| name.strip_suffix(ending))
        .filter(|shorter| !shorter.is_empty())
    {
        name = shorter;
    }
    name
}

/// The text with what no name may hold replaced.
fn valid(text: &str) -> Option<ImageName> {
    let text: String = text
        .to_lowercase()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '-'
            }
        })
        .collect();
    let text = text.trim_start_matches(['.', '_', '-']);
    let end = text.len().min(128);
    text[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(kind: LocalKind, path: &str, tag: Option<&str>) -> Option<String> {
        let local = Local {
            kind,
            path: path.into(),
            tag: tag.map(str::to_owned),
        };
        default_name(&local).map(String::from)
    }

    #[test]
    fn names() {
        use LocalKind::*;
        for (kind, path, tag, expected) in [
            (Rootfs, "/a/My Tree.tar.gz", None, "my-tree"),
            (Rootfs, "/a/tree", None, "tree"),
            (OciArchive, "/a/web.oci.tar", Some("v1.2"), "web-v1.2"),
            (OciDirectory, "/a/.hidden", None, "hidden"),
            (
                DockerArchive,
                "/a/x.tar",
                Some("reg.example/team/app:1"),
                "app-1",
            ),
            (DockerArchive, "/a/x.tar", None, "x"),
        ] {
            assert_eq!(name(kind, path, tag).as_deref(), Some(expected), "{path}");
        }
        assert_eq!(name(Rootfs, "/", None), None);
        assert_eq!(name(Rootfs, "/a/日本", None), None);
    }

    proptest! {
        #[test]
        fn no_path_panics(path: String, tag: Option<String>) {
            let _ = name(LocalKind::OciArchive, &path, tag.as_deref());
            let _ = name(LocalKind::DockerArchive, &path, tag.as_deref());
        }
    }
}
