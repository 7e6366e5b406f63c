//! Pulls and imports against real and hostile peers, all on the loopback interface.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set itself up has failed"
)]

mod archives;
mod authorization;
mod cache;
mod cancel;
mod fake;
mod hostile;
mod images;
mod real;
mod registry;
mod umoci;

#[path = "../base_layers/compare.rs"]
mod compare;
#[path = "../base_layers/everything.rs"]
mod everything;
#[path = "../base_layers/mounted.rs"]
mod mounted;

use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_image::error::ImageError;
use banger_image::import::{ImageOptions, Images, Imported};
use banger_image::platform::Platform;
use banger_image::progress::Progress;
use banger_image::reference::Reference;
use banger_image::registry::{Credentials, FetchPolicy};

/// An image root that goes with the test.
struct Root {
    directory: tempfile::TempDir,
    images: Images,
}

impl Root {
    fn new() -> Root {
        Root::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut ImageOptions)) -> Root {
        let directory = tempfile::tempdir().unwrap();
        let images = Images::open(directory.path(), options(change)).unwrap();
        Root { directory, images }
    }

    /// One that takes silence for a broken connection.
    fn impatient() -> Root {
        Root::with(|options| options.fetch.read_timeout = Duration::from_millis(200))
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    async fn pull(&self, reference: &str) -> Result<Imported, ImageError> {
        self.pull_as(reference, Credentials::Anonymous).await
    }

    async fn pull_as(
        &self,
        reference: &str,
        credentials: Credentials,
    ) -> Result<Imported, ImageError> {
        let reference: Reference = reference.parse().unwrap();
        self.images
            .pull(&reference, credentials, &Progress::none())
            .await
    }

    /// Paths of all files and of what is in the staging directory, relative to the root.
    fn files(&self, directory: &str) -> Vec<PathBuf> {
        let mut names: Vec<_> = std::fs::read_dir(self.path().join(directory))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into())
            .collect();
        names.sort();
        names
    }

    /// A failed import leaves neither a base nor anything half done.
    #[track_caller]
    fn assert_nothing_published(&self) {
        assert_eq!(self.files("bases"), Vec::<PathBuf>::new());
        assert_eq!(self.files("staging"), Vec::<PathBuf>::new());
    }
}

/// Options under which a test waits for nothing.
fn options(change: impl FnOnce(&mut ImageOptions)) -> ImageOptions {
    let mut options = ImageOptions {
        platform: Platform::new("linux", "amd64", "v2"),
        fetch: FetchPolicy {
            attempts: 4,
            first_delay: Duration::from_millis(2),
            longest_delay: Duration::from_millis(10),
            longest_retry_after: Duration::from_secs(1),
            // Longer than any test, however busy the host.
            read_timeout: Duration::from_secs(60),
            ..FetchPolicy::default()
        },
        ..ImageOptions::default()
    };
    change(&mut options);
    options
}

/// Whether the base, which is not compressed, holds these bytes.
fn base_holds(imported: &Imported, marker: &str) -> bool {
    let base = std::fs::read(&imported.base).unwrap();
    memchr::memmem::find(&base, marker.as_bytes()).is_some()
}

/// An error and all its causes in one line.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The daemon runs each import as a task of its own.
#[tokio::test]
async fn imports_can_be_spawned() {
    fn sendable<T: Send>(_: &T) {}
    let root = Root::new();
    let none = Progress::none();
    let reference = "debian".parse().unwrap();
    sendable(&root.images.pull(&reference, Credentials::Anonymous, &none));
    let mut stream = tokio::io::empty();
    let kind = banger_image::import::ArchiveKind::OciArchive;
    sendable(
        &root
            .images
            .import_archive(kind, None, "x", &mut stream, &none),
    );
}
