//! Where an image comes from: a reference that bangerd fetches, or a local source which the CLI
//! opens as the user and streams. bangerd never opens a path that a client names.

mod name;

use std::io::Write;
use std::path::{Path, PathBuf};

use banger_protocol::api::image::ArchiveKind;
use banger_protocol::error::{ApiError, ErrorKind};

use crate::archive;

pub use name::default_name;

/// What `image pull` was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A catalog name or a reference.
    Reference(String),
    Local(Local),
}

/// A local source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    pub kind: LocalKind,
    pub path: PathBuf,
    /// Which of several images in it.
    pub tag: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalKind {
    /// `oci:DIR[:TAG]`, an OCI image layout.
    OciDirectory,
    /// `oci-archive:FILE[:TAG]`, an OCI image layout as tar.
    OciArchive,
    /// `docker-archive:FILE[:REFERENCE]`, what `docker save` writes.
    DockerArchive,
    /// `rootfs:DIR` or `rootfs:TAR`, a root file system without any configuration.
    Rootfs,
}

impl LocalKind {
    const ALL: [LocalKind; 4] = [
        LocalKind::OciArchive,
        LocalKind::OciDirectory,
        LocalKind::DockerArchive,
        LocalKind::Rootfs,
    ];

    fn prefix(self) -> &'static str {
        match self {
            LocalKind::OciDirectory => "oci",
            LocalKind::OciArchive => "oci-archive",
            LocalKind::DockerArchive => "docker-archive",
            LocalKind::Rootfs => "rootfs",
        }
    }

    fn has_tag(self) -> bool {
        self != LocalKind::Rootfs
    }
}

/// Reads what the user wrote. `exists` says whether a path does, which decides where a colon in a
/// path is the path's own.
///
/// # Errors
/// A local source without a path or with an empty tag.
pub fn parse(text: &str, exists: impl Fn(&Path) -> bool) -> Result<Source, ApiError> {
    let Some((kind, rest)) = LocalKind::ALL.into_iter().find_map(|kind| {
        text.strip_prefix(kind.prefix())
            .and_then(|rest| rest.strip_prefix(':'))
            .map(|rest| (kind, rest))
    }) else {
        return reference(text);
    };
    let (path, tag) = if !kind.has_tag() || exists(Path::new(rest)) {
        (rest, None)
    } else {
        match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        }
    };
    if path.is_empty() || tag.is_some_and(str::is_empty) {
        let prefix = kind.prefix();
        let form = if kind.has_tag() { "PATH[:TAG]" } else { "PATH" };
        return Err(ApiError::new(
            ErrorKind::InvalidArgument,
            format!("{text:?} is not of the form {prefix}:{form}"),
        ));
    }
    Ok(Source::Local(Local {
        kind,
        path: PathBuf::from(path),
        tag: tag.map(str::to_owned),
    }))
}

/// What no prefix says to be local. No reference begins like a path.
fn reference(text: &str) -> Result<Source, ApiError> {
    if text.starts_with(['.', '/', '~']) {
        return Err(ApiError::new(
            ErrorKind::InvalidArgument,
            format!("{text:?} is a path, which does not say what is there"),
        )
        .hint(format!(
            "write oci:{text}, oci-archive:{text}, docker-archive:{text} or rootfs:{text}"
        )));
    }
    Ok(Source::Reference(text.to_owned()))
}

impl Local {
    /// The same source under an absolute path, checked to exist and to be of its kind.
    ///
    /// # Errors
    /// What the path says, or that it is a file where a directory is needed, or the reverse.
    pub fn locate(self) -> Result<Local, ApiError> {
        let path = archive::locate(&self.path)?;
        let wrong = |what: &str, instead: &str| {
            Err(ApiError::new(
                ErrorKind::InvalidArgument,
                format!("{} is {what}", self.path.display()),
            )
            .hint(format!("write {instead}:{}", self.path.display())))
        };
        match (self.kind, path.is_dir()) {
            (LocalKind::OciDirectory, false) => wrong("no directory", "oci-archive"),
            (LocalKind::OciArchive, true) => wrong("a directory", "oci"),
            (LocalKind::DockerArchive, true) => wrong("a directory, not an archive", "oci"),
            _ => Ok(Local { path, ..self }),
        }
    }

    /// How bangerd shall read the stream.
    pub fn archive_kind(&self) -> ArchiveKind {
        match self.kind {
            LocalKind::OciDirectory | LocalKind::OciArchive => ArchiveKind::OciArchive,
            LocalKind::DockerArchive => ArchiveKind::DockerArchive,
            LocalKind::Rootfs => ArchiveKind::Rootfs,
        }
    }

    /// For the record.
    pub fn text(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}"));
        format!(
            "{}:{}{}",
            self.kind.prefix(),
            self.path.display(),
            tag.unwrap_or_default()
        )
    }

    /// Writes it as one stream.
    ///
    /// # Errors
    /// What cannot be read, by its path.
    pub fn write(&self, out: &mut dyn Write) -> Result<(), ApiError> {
        match self.kind {
            LocalKind::OciDirectory => archive::directory(&self.path, of_an_oci_layout, out),
            LocalKind::Rootfs if self.path.is_dir() => {
                archive::directory(&self.path, |_| true, out)
            }
            _ => archive::plain(&self.path, out),
        }
    }
}

fn of_an_oci_layout(name: &[u8]) -> bool {
    matches!(name, b"oci-layout" | b"index.json" | b"blobs")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(kind: LocalKind, path: &str, tag: Option<&str>) -> Source {
        Source::Local(Local {
            kind,
            path: path.into(),
            tag: tag.map(str::to_owned),
        })
    }

    #[test]
    fn sources() {
        use LocalKind::*;
        for (text, expected) in [
            (
                "debian:bookworm",
                Source::Reference("debian:bookworm".into()),
            ),
            (
                "oci-archive.example/x",
                Source::Reference("oci-archive.example/x".into()),
            ),
            ("ocidir", Source::Reference("ocidir".into())),
            ("oci:./d", local(OciDirectory, "./d", None)),
            ("oci:d:v1", local(OciDirectory, "d", Some("v1"))),
            (
                "oci-archive:/a/b.tar:v1",
                local(OciArchive, "/a/b.tar", Some("v1")),
            ),
            (
                "docker-archive:b.tar:debian:bookworm",
                local(DockerArchive, "b.tar", Some("debian:bookworm")),
            ),
            ("rootfs:tree:1", local(Rootfs, "tree:1", None)),
            // A path with a colon that is there.
            ("oci:with:colon", local(OciDirectory, "with:colon", None)),
        ] {
            let found = parse(text, |path| path == Path::new("with:colon")).unwrap();
            assert_eq!(found, expected, "{text}");
        }
        for bad in [
            "oci:",
            "oci::x",
            "oci:d:",
            "rootfs:",
            "docker-archive::",
            ".",
            "./d",
            "/d",
            "~/d",
        ] {
            assert!(parse(bad, |_| false).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_is_not_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        std::fs::write(&file, "").unwrap();
        let at = |kind, path: &Path| Local {
            kind,
            path: path.into(),
            tag: None,
        };
        assert!(at(LocalKind::OciDirectory, &file).locate().is_err());
        let error = at(LocalKind::OciArchive, directory.path())
            .locate()
            .unwrap_err();
        assert!(error.hint.unwrap().starts_with("write oci:"));
        assert!(at(LocalKind::Rootfs, &file).locate().is_ok());
        assert!(at(LocalKind::Rootfs, directory.path()).locate().is_ok());
        let missing = at(LocalKind::Rootfs, &directory.path().join("no")).locate();
        assert_eq!(missing.unwrap_err().kind, ErrorKind::NotFound);
    }
}
