//! What a daemon must not leave behind.

use std::fs;
use std::path::Path;

/// Everything on this host that still belongs to the daemon in `root`, after all its VMs were
/// deleted and it was stopped.
pub fn find(root: &Path, instance: &str) -> Vec<String> {
    let mut left = Vec::new();
    processes(root, &mut left);
    directory(&root.join("state/vms"), &mut left);
    directory(&root.join("state/images/staging"), &mut left);
    left.extend(cgroups(instance));
    // Empty disks by size, from which VMs' disks are copied: a cache.
    left.retain(|path| !path.ends_with("/state/vms/templates"));
    left
}

/// Processes that run in the directory, or name it.
fn processes(root: &Path, left: &mut Vec<String>) {
    let name = root.to_string_lossy().into_owned();
    let own = std::process::id().to_string();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if pid == own || !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let works_there =
            fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(root));
        if works_there || command.contains(&name) {
            left.push(format!("process {pid}: {command}"));
        }
    }
}

fn directory(path: &Path, left: &mut Vec<String>) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        left.push(entry.path().display().to_string());
    }
}

/// Control groups named after the daemon's instance.
fn cgroups(instance: &str) -> Vec<String> {
    let mut left = Vec::new();
    let mut pending = vec![Path::new("/sys/fs/cgroup").to_owned()];
    while let Some(path) = pending.pop() {
        for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                if !instance.is_empty() && name.contains(instance) {
                    left.push(entry.path().display().to_string());
                }
                pending.push(entry.path());
            }
        }
    }
    left
}
