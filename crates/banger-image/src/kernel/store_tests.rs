//! Publishing, replacing, deleting, and what a crash leaves.

use super::*;

fn manifest(name: &str, source: &str) -> Manifest {
    Manifest {
        name: name.parse().unwrap(),
        distro: "test".into(),
        arch: "x86_64".into(),
        kernel_version: "6.1.0".into(),
        sha256: "00".into(),
        size: 1,
        source: source.into(),
        catalog_entry: None,
        imported_at: "2026-01-01T00:00:00Z".into(),
        pvh: true,
        boot_modules: vec!["kernel/a.ko".into()],
        vsock_modules: vec![],
        module_count: 1,
        modules_size: 1,
        modules_digest: "00".into(),
        kernel_arguments: vec![],
    }
}

fn publish(
    store: &KernelStore,
    name: &str,
    source: &str,
    replace: bool,
) -> Result<Kernel, KernelError> {
    let staging = store.staging_directory()?;
    let target = staging.path().join("kernel");
    std::fs::create_dir_all(target.join("modules/kernel")).unwrap();
    std::fs::write(target.join("vmlinux"), source).unwrap();
    std::fs::write(target.join("modules/kernel/a.ko"), "m").unwrap();
    store.publish(&target, &manifest(name, source), replace)
}

fn names(store: &KernelStore) -> Vec<String> {
    store
        .list()
        .unwrap()
        .iter()
        .map(|k| k.manifest.name.to_string())
        .collect()
}

#[test]
fn kernels_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let store = KernelStore::new(dir.path().join("kernels"));
    assert!(names(&store).is_empty());
    publish(&store, "b", "one", false).unwrap();
    publish(&store, "a", "one", false).unwrap();
    assert_eq!(names(&store), ["a", "b"]);
    let kernel = store.show(&"b".parse().unwrap()).unwrap();
    assert_eq!(kernel.manifest, manifest("b", "one"));
    assert_eq!(kernel.module_files().unwrap(), ["kernel/a.ko"]);
    assert_eq!(std::fs::read(kernel.vmlinux()).unwrap(), b"one");

    store.delete(&"b".parse().unwrap()).unwrap();
    assert_eq!(names(&store), ["a"]);
    for result in [
        store.show(&"b".parse().unwrap()).map(drop),
        store.delete(&"b".parse().unwrap()),
    ] {
        assert!(matches!(result, Err(KernelError::NotFound { .. })));
    }
    let left: Vec<_> = std::fs::read_dir(dir.path().join("kernels/.staging"))
        .unwrap()
        .collect();
    assert!(left.is_empty());
}

#[test]
fn a_name_is_only_replaced_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    let store = KernelStore::new(dir.path());
    publish(&store, "k", "one", false).unwrap();
    let error = publish(&store, "k", "two", false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a kernel named k is already here (from one)"
    );
    let pinned = dir.path().join("pinned");
    std::fs::hard_link(dir.path().join("k/vmlinux"), &pinned).unwrap();
    let kernel = publish(&store, "k", "two", true).unwrap();
    assert_eq!(std::fs::read(kernel.vmlinux()).unwrap(), b"two");
    // What a VM holds stays what it was.
    assert_eq!(std::fs::read(pinned).unwrap(), b"one");
}

#[test]
fn a_crash_leaves_only_staging_which_sweep_clears() {
    let dir = tempfile::tempdir().unwrap();
    let store = KernelStore::new(dir.path());
    publish(&store, "k", "one", false).unwrap();
    let staging = store.staging_directory().unwrap().keep();
    std::fs::write(staging.join("half"), "x").unwrap();
    assert_eq!(names(&store), ["k"]);
    store.sweep().unwrap();
    assert!(!staging.exists());
    store.sweep().unwrap();
    assert_eq!(names(&store), ["k"]);
}

#[test]
fn a_damaged_manifest_is_named_and_can_be_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let store = KernelStore::new(dir.path());
    publish(&store, "k", "one", false).unwrap();
    std::fs::write(dir.path().join("k/manifest.json"), "{").unwrap();
    let name = "k".parse().unwrap();
    let error = store.show(&name).unwrap_err();
    assert!(matches!(error, KernelError::BadManifest { .. }));
    assert!(names(&store).is_empty());
    store.delete(&name).unwrap();
    assert!(!dir.path().join("k").exists());
}

#[tokio::test]
async fn a_lock_is_per_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = KernelStore::new(dir.path());
    let (a, b): (KernelName, KernelName) = ("a".parse().unwrap(), "b".parse().unwrap());
    let first = store.lock(&a).await;
    store.lock(&b).await;
    let other = store.clone();
    let waiting = tokio::spawn(async move { drop(other.lock(&a).await) });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(first);
    waiting.await.unwrap();
}
