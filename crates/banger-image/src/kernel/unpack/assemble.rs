//! From an archive's contents to the directory of a stored kernel: check, choose, write.

use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::{Contents, Tree, store};
use crate::digest::Digest;
use crate::kernel::module_tree::{Module, ModuleTree};
use crate::kernel::{KernelError, feature, image, module_index};

/// What the manifest says of the files, beside where they came from.
#[derive(Debug)]
pub struct Assembled {
    pub kernel_version: String,
    pub sha256: String,
    pub size: u64,
    pub pvh: bool,
    pub boot_modules: Vec<String>,
    pub vsock_modules: Vec<String>,
    pub module_count: usize,
    pub modules_size: u64,
    pub modules_digest: String,
}

/// Writes `vmlinux` and `modules/` into `target`, an existing, empty directory on the file system
/// of the spilled modules.
pub fn assemble(mut contents: Contents, target: &Path) -> Result<Assembled, KernelError> {
    let (path, bytes) = match contents.images.len() {
        0 => {
            return Err(KernelError::NoKernel {
                members: contents.members,
            });
        }
        1 => contents.images.remove(0),
        _ => {
            return Err(KernelError::AmbiguousKernel {
                candidates: contents
                    .images
                    .into_iter()
                    .take(8)
                    .map(|(path, _)| path)
                    .collect(),
            });
        }
    };
    let image = image::open(&path, bytes)?;
    let file = store::vmlinux_in(target);
    std::fs::write(&file, &image.vmlinux).map_err(KernelError::io("write", &file))?;
    let mut assembled = Assembled {
        sha256: Digest::of(&image.vmlinux).hex(),
        size: image.vmlinux.len() as u64,
        pvh: image.pvh,
        kernel_version: image.version,
        boot_modules: Vec::new(),
        vsock_modules: Vec::new(),
        module_count: 0,
        modules_size: 0,
        modules_digest: String::new(),
    };
    drop(image.vmlinux);
    if let Some(tree) = choose_tree(&mut contents, &assembled.kernel_version)? {
        write_modules(tree, target, &mut assembled)?;
    }
    Ok(assembled)
}

/// The modules that belong to the kernel; none where the archive has none.
fn choose_tree(contents: &mut Contents, version: &str) -> Result<Option<Tree>, KernelError> {
    contents
        .trees
        .retain(|_, tree| !tree.modules.is_empty() || tree.builtin.is_some());
    let of_version = contents
        .trees
        .keys()
        .find(|path| path.rsplit('/').next() == Some(version))
        .cloned();
    match (of_version, contents.trees.len()) {
        (Some(path), _) => Ok(contents.trees.remove(&path)),
        (None, 0 | 1) => Ok(contents.trees.pop_first().map(|(_, tree)| tree)),
        (None, _) => Err(KernelError::AmbiguousModules {
            versions: contents.trees.keys().take(8).cloned().collect(),
        }),
    }
}

fn write_modules(tree: Tree, target: &Path, assembled: &mut Assembled) -> Result<(), KernelError> {
    let version = assembled.kernel_version.clone();
    let mut modules = ModuleTree::default();
    if let Some(text) = &tree.builtin {
        modules.set_builtin(&String::from_utf8_lossy(text));
    }
    if let Some(bytes) = &tree.builtin_info {
        modules.set_builtin_info(bytes);
    }
    let mut files = std::collections::BTreeMap::new();
    for spilled in tree.modules {
        check_module_path(&spilled.path)?;
        if let Some(built_for) = &spilled.info.built_for
            && *built_for != version
        {
            return Err(KernelError::ModuleVersion {
                path: spilled.path,
                built_for: built_for.clone(),
                kernel: version,
            });
        }
        files.insert(spilled.path.clone(), spilled.file);
        modules.insert(Module {
            path: spilled.path,
            info: spilled.info,
        });
    }
    let selection = feature::select(&modules, &version)?;
    let paths = |modules: &[&Module]| modules.iter().map(|m| m.path.clone()).collect();
    assembled.boot_modules = paths(&selection.boot);
    assembled.vsock_modules = paths(&selection.vsock);
    assembled.module_count = selection.kept.len();

    let root = store::modules_in(target);
    std::fs::create_dir(&root).map_err(KernelError::io("create", &root))?;
    for module in &selection.kept {
        let to = root.join(&module.path);
        if let (Some(from), Some(parent)) = (files.get(&module.path), to.parent()) {
            std::fs::create_dir_all(parent).map_err(KernelError::io("create", parent))?;
            std::fs::rename(from, &to).map_err(KernelError::io("write", &to))?;
        }
    }
    let mut lists = module_index::render(&modules, &selection.kept)?;
    lists.extend(tree.builtin.map(|bytes| ("modules.builtin", bytes)));
    lists.extend(
        tree.builtin_info
            .map(|bytes| ("modules.builtin.modinfo", bytes)),
    );
    for (name, bytes) in lists {
        let path = root.join(name);
        std::fs::write(&path, bytes).map_err(KernelError::io("write", &path))?;
    }
    digest_modules(&root, assembled)
}

/// Paths become words of modules.dep and of the initramfs.
fn check_module_path(path: &str) -> Result<(), KernelError> {
    let fine = path.len() <= 255
        && path
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b':' | b'#' | b'"' | b'\\'));
    if fine {
        return Ok(());
    }
    Err(KernelError::UnsafePath {
        path: path.chars().take(200).collect(),
        reason: "a module's path must be plain ASCII without blanks and colons",
    })
}

fn digest_modules(root: &Path, assembled: &mut Assembled) -> Result<(), KernelError> {
    let mut hash = Sha256::new();
    for relative in store::files_below(root)? {
        let path = root.join(&relative);
        let bytes = std::fs::read(&path).map_err(KernelError::io("read", &path))?;
        assembled.modules_size += bytes.len() as u64;
        // Lengths between the parts, so that no two trees hash alike.
        hash.update((relative.len() as u64).to_le_bytes());
        hash.update(relative.as_bytes());
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(&bytes);
    }
    assembled.modules_digest = Digest::from_bytes(hash.finalize().into()).hex();
    Ok(())
}
