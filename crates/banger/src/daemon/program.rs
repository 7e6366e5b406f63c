//! Where the bangerd that would be started lies.

use std::path::{Path, PathBuf};

use banger_protocol::error::{ApiError, ErrorKind};
use time::OffsetDateTime;

use crate::environment::Environment;

/// The daemon program that is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Canonical.
    pub path: PathBuf,
    pub modified_at: OffsetDateTime,
}

/// `BANGERD`, else `bangerd` beside this program, else the first on `PATH`.
pub fn find(environment: &Environment) -> Result<Program, ApiError> {
    let beside = std::env::current_exe().ok();
    candidates(environment, beside.as_deref())
        .iter()
        .find_map(|path| inspect(path))
        .ok_or_else(|| {
            ApiError::new(
                ErrorKind::MissingDependency,
                "bangerd is neither beside banger nor on PATH",
            )
            .hint("install both, or set BANGERD to its path")
        })
}

fn candidates(environment: &Environment, this_program: Option<&Path>) -> Vec<PathBuf> {
    if let Some(bangerd) = &environment.bangerd {
        return vec![bangerd.clone()];
    }
    let beside = this_program.and_then(Path::parent).map(Path::to_owned);
    let path = environment.path.iter().flat_map(std::env::split_paths);
    beside
        .into_iter()
        .chain(path)
        // A relative entry of PATH would start whatever lies in the current directory.
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join("bangerd"))
        .collect()
}

fn inspect(path: &Path) -> Option<Program> {
    let path = path.canonicalize().ok()?;
    let metadata = path.metadata().ok()?;
    let executable = rustix::fs::access(&path, rustix::fs::Access::EXEC_OK).is_ok();
    (metadata.is_file() && executable).then_some(())?;
    Some(Program {
        modified_at: metadata.modified().ok()?.into(),
        path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_order() {
        let mut environment = Environment {
            path: Some("/usr/bin:relative::/opt/bin".into()),
            ..Environment::default()
        };
        let this = Path::new("/home/u/bin/banger");
        assert_eq!(
            candidates(&environment, Some(this)),
            [
                "/home/u/bin/bangerd",
                "/usr/bin/bangerd",
                "/opt/bin/bangerd"
            ]
            .map(PathBuf::from)
        );
        environment.bangerd = Some("/my/bangerd".into());
        assert_eq!(
            candidates(&environment, Some(this)),
            [PathBuf::from("/my/bangerd")]
        );
    }

    #[test]
    fn only_an_executable_file_will_do() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("bangerd");
        assert_eq!(inspect(&file), None);
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(inspect(&file), None);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(inspect(&file).unwrap().path, file.canonicalize().unwrap());
        assert_eq!(inspect(directory.path()), None);
    }
}
