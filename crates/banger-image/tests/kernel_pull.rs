//! Kernels through real apt, from repositories on this disk: what is accepted, what is refused, and
//! what is left behind. The archive of Debian itself is in `kernel_debian.rs`.
#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is wrong, and not only in its `#[test]` function"
)]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use banger_image::apt::sources::parse_lines;
use banger_image::apt::{AptError, Source};
use banger_image::catalog::{Catalog, KernelEntry};
use banger_image::kernel::import::{ImportRequest, import};
use banger_image::kernel::pull::{PullRequest, Pulled, pull_from};
use banger_image::kernel::{KernelError, KernelStore};
use banger_image::progress::Progress;

#[path = "kernel_pull/fake.rs"]
mod fake;

use fake::{Repository, VERSION};

const NEEDS: &[&str] = &["apt-get", "dpkg-deb", "gpg", "gpgv", "tar", "sha256sum"];

fn entry() -> KernelEntry {
    let mut entry = Catalog::load(None).unwrap().kernels[0].clone();
    entry.package = "linux-image-fake-amd64".into();
    entry
}

fn request(replace: bool) -> PullRequest {
    PullRequest {
        entry: entry(),
        name: None,
        replace,
        imported_at: "2026-01-01T00:00:00Z".into(),
    }
}

async fn pull(store: &KernelStore, sources: &str, replace: bool) -> Result<Pulled, KernelError> {
    let sources: Vec<Source> = parse_lines(sources);
    pull_from(store, request(replace), Some(sources), &Progress::none()).await
}

/// A store, and a signed repository with one kernel.
struct Setup {
    dir: tempfile::TempDir,
    store: KernelStore,
    repository: Repository,
    source: String,
}

fn setup() -> Option<Setup> {
    if !fake::installed(NEEDS) {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut repository = Repository::new(dir.path());
    repository.add_kernel(VERSION);
    repository.index();
    let keyring = repository.sign(dir.path());
    Some(Setup {
        store: KernelStore::new(dir.path().join("kernels")),
        source: repository.source(&format!("signed-by={}", keyring.display())),
        repository,
        dir,
    })
}

fn staging_is_empty(store_root: &Path) {
    let left: Vec<_> = match std::fs::read_dir(store_root.join(".staging")) {
        Ok(entries) => entries.map(|e| e.unwrap().path()).collect(),
        Err(_) => Vec::new(),
    };
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_signed_repository_gives_a_kernel_once() {
    let Some(s) = setup() else { return };
    // Beside a source that refuses connections and one that does not exist.
    let sources = format!(
        "{}deb http://127.0.0.1:9/x stable main\ndeb file:/nonexistent/repository ./\n",
        s.source
    );
    let stages = Arc::new(Mutex::new(Vec::new()));
    let seen = stages.clone();
    let progress = Progress::new(move |step| {
        let mut seen = seen.lock().unwrap();
        if seen.last() != Some(&step.stage) {
            seen.push(step.stage);
        }
    });
    let pulled = pull_from(
        &s.store,
        request(false),
        Some(parse_lines(&sources)),
        &progress,
    )
    .await
    .unwrap();
    assert!(pulled.fresh);
    assert_eq!(
        *stages.lock().unwrap(),
        ["resolve", "download", "unpack", "publish"]
    );
    let manifest = &pulled.kernel.manifest;
    assert_eq!(manifest.kernel_version, VERSION);
    assert!(
        manifest
            .source
            .starts_with("apt:linux-image-6.1.0-1-fake-amd64=1-1 sha256:"),
        "{}",
        manifest.source
    );
    assert_eq!(
        manifest.boot_modules,
        [
            "kernel/drivers/virtio/virtio.ko",
            "kernel/drivers/virtio/virtio_pci.ko",
            "kernel/fs/overlayfs/overlay.ko"
        ]
    );
    let files = pulled.kernel.module_files().unwrap();
    assert!(files.contains(&"kernel/drivers/net/virtio_net.ko".to_owned()));
    assert!(!files.iter().any(|file| file.contains("snd")), "{files:?}");
    assert_eq!(
        std::fs::read(pulled.kernel.vmlinux()).unwrap(),
        fake::vmlinux(VERSION)
    );
    staging_is_empty(&s.dir.path().join("kernels"));

    // Again: nothing is fetched, not even when nothing could be.
    std::fs::remove_dir_all(&s.repository.directory).unwrap();
    let again = pull(&s.store, &s.source, false).await.unwrap();
    assert!(!again.fresh);
    assert_eq!(again.kernel, pulled.kernel);
    // Forced: it is fetched, and a failure leaves the old one.
    let error = pull(&s.store, &s.source, true).await.unwrap_err();
    assert!(matches!(error, KernelError::Package { .. }), "{error}");
    assert_eq!(s.store.list().unwrap(), [pulled.kernel]);
    staging_is_empty(&s.dir.path().join("kernels"));
}

#[tokio::test]
async fn two_pulls_do_the_work_once() {
    let Some(s) = setup() else { return };
    for replace in [false, true] {
        let (one, two) = tokio::join!(
            pull(&s.store, &s.source, replace),
            pull(&s.store, &s.source, replace)
        );
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_eq!(one.kernel, two.kernel);
        // The times are the same here, so a forced pair cannot tell that the other was faster.
        if !replace {
            assert_ne!(one.fresh, two.fresh);
        }
    }
    assert_eq!(s.store.list().unwrap().len(), 1);
}

#[tokio::test]
async fn a_pull_given_up_leaves_nothing() {
    let Some(s) = setup() else { return };
    let pulling = pull(&s.store, &s.source, false);
    assert!(
        tokio::time::timeout(Duration::from_millis(60), pulling)
            .await
            .is_err()
    );
    assert!(s.store.list().unwrap().is_empty());
    // apt is killed, not waited for: what it wrote in its last moment is swept at the next start.
    s.store.sweep().unwrap();
    staging_is_empty(&s.dir.path().join("kernels"));
    assert!(pull(&s.store, &s.source, false).await.unwrap().fresh);
}

#[tokio::test]
async fn what_is_not_signed_is_not_taken() {
    let Some(mut s) = setup() else { return };
    let root = s.dir.path().to_owned();
    let offered = |result: Result<Pulled, KernelError>| match result.unwrap_err() {
        KernelError::Package { source, .. } => source,
        other => panic!("{other}"),
    };

    // A key that the source does not name.
    let other = s
        .repository
        .source("signed-by=/usr/share/keyrings/debian-archive-keyring.gpg");
    assert!(matches!(
        offered(pull(&s.store, &other, false).await),
        AptError::NotOffered { .. }
    ));
    // An administrator's shortcut does not make an unsigned source signed.
    for options in ["trusted=yes", "allow-insecure=yes"] {
        let error = offered(pull(&s.store, &s.repository.source(options), false).await);
        assert!(matches!(error, AptError::NoSources), "{error}");
    }
    // A package changed after it was indexed.
    let package = s
        .repository
        .directory
        .join(format!("linux-image-{VERSION}.deb"));
    let whole = std::fs::read(&package).unwrap();
    let mut changed = whole.clone();
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(&package, &changed).unwrap();
    let error = offered(pull(&s.store, &s.source, false).await);
    assert!(
        matches!(error, AptError::Command(_) | AptError::Digest { .. }),
        "{error}"
    );
    // An index changed after it was signed.
    s.repository.index();
    assert!(matches!(
        offered(pull(&s.store, &s.source, false).await),
        AptError::NotOffered { .. }
    ));
    // Not signed at all.
    std::fs::remove_file(s.repository.directory.join("InRelease")).unwrap();
    let error = offered(pull(&s.store, &s.source, false).await);
    assert!(matches!(error, AptError::NotOffered { .. }), "{error}");
    assert!(s.store.list().unwrap().is_empty());
    staging_is_empty(&root.join("kernels"));

    // The same bytes, signed again, are taken.
    std::fs::write(&package, &whole).unwrap();
    s.repository.index();
    s.repository.sign(&root);
    assert!(pull(&s.store, &s.source, false).await.unwrap().fresh);
}

#[tokio::test]
async fn another_series_is_refused() {
    let Some(s) = setup() else { return };
    let mut request = request(false);
    request.entry.series = "6.12".into();
    let sources = Some(parse_lines(&s.source));
    let error = pull_from(&s.store, request, sources, &Progress::none())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "linux-image-fake-amd64 is linux-image-6.1.0-1-fake-amd64, and debian-6.1-cloud must be Linux 6.12"
    );
    assert!(error.hint().is_some());
}

/// apt complains about root's private directories, and about users without one.
#[test]
fn an_ordinary_user_can_pull() {
    const MARK: &str = "BANGER_TEST_AS_USER";
    if std::env::var_os(MARK).is_some() {
        assert!(!rustix_is_root());
        let Some(s) = setup() else { return };
        tokio::runtime::Runtime::new()
            .unwrap()
            .block_on(async { assert!(pull(&s.store, &s.source, false).await.unwrap().fresh) });
        return;
    }
    if !rustix_is_root() {
        eprintln!("skipped: root (the other tests ran as an ordinary user already)");
        return;
    }
    if !fake::installed(&["setpriv"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(65534), Some(65534)).unwrap();
    let program = dir.path().join("test");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    std::fs::set_permissions(
        &program,
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let text = fake::run(
        std::process::Command::new("setpriv")
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(&program)
            .args(["--exact", "an_ordinary_user_can_pull"])
            .env(MARK, "1")
            .env("HOME", "/nonexistent")
            .env("TMPDIR", dir.path())
            .current_dir("/"),
    );
    assert!(text.contains("1 passed"), "{text}");
}

fn rustix_is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn import_request(name: &str, replace: bool) -> ImportRequest {
    ImportRequest {
        name: name.parse().unwrap(),
        distro: "mine".into(),
        source: "~/build".into(),
        replace,
        imported_at: "2026-01-01T00:00:00Z".into(),
        kernel_arguments: vec!["x=1".into()],
    }
}

#[tokio::test]
async fn directories_and_files_are_imported() {
    let dir = tempfile::tempdir().unwrap();
    let store = KernelStore::new(dir.path().join("kernels"));
    let tree = dir.path().join("tree");
    fake::kernel_tree(&tree, VERSION);
    let archive = fake::tar_of(&tree);
    let progress = Progress::none();
    let kernel = import(
        &store,
        import_request("mine", false),
        &archive[..],
        &progress,
    )
    .await
    .unwrap();
    assert_eq!(kernel.manifest.source, "import:~/build");
    assert_eq!(kernel.manifest.boot_modules.len(), 3);

    // One file, all built in.
    let single = dir.path().join("single");
    fake::write(&single.join("anything"), fake::vmlinux("6.12.1"));
    let file = fake::tar_of(&single);
    let kernel = import(
        &store,
        import_request("single", false),
        &file[..],
        &progress,
    )
    .await
    .unwrap();
    assert_eq!(kernel.manifest.kernel_version, "6.12.1");
    assert!(kernel.manifest.boot_modules.is_empty());
    assert!(kernel.module_files().unwrap().is_empty());

    let error = import(&store, import_request("mine", false), &file[..], &progress)
        .await
        .unwrap_err();
    assert!(matches!(error, KernelError::Exists { .. }), "{error}");
    let kernel = import(&store, import_request("mine", true), &file[..], &progress)
        .await
        .unwrap();
    assert_eq!(kernel.manifest.kernel_version, "6.12.1");
    staging_is_empty(&dir.path().join("kernels"));
}

#[tokio::test]
async fn imports_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = KernelStore::new(dir.path().join("kernels"));
    type Change = fn(&Path);
    let cases: &[(&str, Change, &str)] = &[
        (
            "foreign module",
            |root| {
                let path = format!("lib/modules/{VERSION}/kernel/net/veth.ko");
                fake::write(&root.join(path), fake::module("veth", "", "6.12.0"));
            },
            "module kernel/net/veth.ko is built for kernel 6.12.0, not for 6.1.0-1-fake-amd64",
        ),
        (
            "missing dependency",
            |root| {
                let path = format!("lib/modules/{VERSION}/kernel/net/veth.ko");
                fake::write(&root.join(path), fake::module("veth", "gone", VERSION));
            },
            "module veth needs gone, which is neither a module nor built in",
        ),
        (
            "no overlay",
            |root| {
                let path = format!("lib/modules/{VERSION}/kernel/fs/overlayfs/overlay.ko");
                std::fs::remove_file(root.join(path)).unwrap();
            },
            "kernel 6.1.0-1-fake-amd64 has no overlayfs (overlay), neither built in nor as a module",
        ),
        (
            "two images",
            |root| fake::write(&root.join("vmlinux"), fake::vmlinux(VERSION)),
            "more than one kernel image found",
        ),
        (
            "blank in a module's path",
            |root| {
                let path = format!("lib/modules/{VERSION}/kernel/a b.ko");
                fake::write(&root.join(path), fake::module("ab", "", VERSION));
            },
            "refused \"kernel/a b.ko\" in the archive",
        ),
        (
            "modules of two others",
            |root| {
                let modules = root.join("lib/modules");
                std::fs::rename(modules.join(VERSION), modules.join("6.5.0")).unwrap();
                fake::write(
                    &modules.join("6.6.0/kernel/x.ko"),
                    fake::module("x", "", "6.6.0"),
                );
            },
            "modules of more than one kernel version found: lib/modules/6.5.0, lib/modules/6.6.0",
        ),
    ];
    for (what, change, expected) in cases {
        let tree = tempfile::tempdir().unwrap();
        fake::kernel_tree(tree.path(), VERSION);
        change(tree.path());
        let archive = fake::tar_of(tree.path());
        let error = import(
            &store,
            import_request("k", false),
            &archive[..],
            &Progress::none(),
        )
        .await
        .expect_err(what)
        .to_string();
        assert!(error.starts_with(expected), "{what}: {error}");
    }
    assert!(store.list().unwrap().is_empty());
    staging_is_empty(&dir.path().join("kernels"));
}

#[tokio::test]
async fn an_import_given_up_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = KernelStore::new(dir.path().join("kernels"));
    let tree = dir.path().join("tree");
    fake::kernel_tree(&tree, VERSION);
    let archive = fake::tar_of(&tree);
    // A client that sends half and then nothing more.
    let (mut client, server) = tokio::io::duplex(1 << 20);
    tokio::io::AsyncWriteExt::write_all(&mut client, &archive[..archive.len() / 2])
        .await
        .unwrap();
    let progress = Progress::none();
    let importing = import(&store, import_request("k", false), server, &progress);
    assert!(
        tokio::time::timeout(Duration::from_millis(200), importing)
            .await
            .is_err()
    );
    // The thread notices that nobody feeds it, and takes its directory with it.
    let root = dir.path().join("kernels");
    for _ in 0..100 {
        if std::fs::read_dir(root.join(".staging")).unwrap().count() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    staging_is_empty(&root);
    assert!(store.list().unwrap().is_empty());
}
