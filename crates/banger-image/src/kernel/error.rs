//! Why a kernel could not be fetched, checked, stored or found.

use std::io;
use std::path::PathBuf;

use crate::apt::AptError;

/// One error per deed; [`KernelError::hint`] says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("invalid kernel name {name:?}: {reason}")]
    InvalidName { name: String, reason: &'static str },
    #[error("no kernel named {name}")]
    NotFound { name: String },
    #[error("a kernel named {name} is already here (from {from})")]
    Exists { name: String, from: String },
    #[error("no kernel image found among the {members} files given")]
    NoKernel { members: usize },
    #[error("more than one kernel image found: {}", candidates.join(", "))]
    AmbiguousKernel { candidates: Vec<String> },
    #[error("modules of more than one kernel version found: {}", versions.join(", "))]
    AmbiguousModules { versions: Vec<String> },
    #[error("{path} is not a Linux kernel image: {reason}")]
    NotAKernel { path: String, reason: String },
    #[error("{path} is a kernel for {found}, not for x86-64")]
    WrongArchitecture { path: String, found: String },
    #[error("{path} is compressed with {method}, which is not supported")]
    UnsupportedCompression { path: String, method: &'static str },
    #[error("{what} is larger than {limit} bytes")]
    TooLarge { what: String, limit: u64 },
    #[error("cannot decompress {what}")]
    Decompress {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not a usable kernel module: {reason}")]
    BadModule { path: String, reason: String },
    #[error("module {path} is built for kernel {built_for}, not for {kernel}")]
    ModuleVersion {
        path: String,
        built_for: String,
        kernel: String,
    },
    #[error("module {module} needs {needs}, which is neither a module nor built in")]
    MissingDependency { module: String, needs: String },
    #[error("module {module} depends on itself")]
    DependencyCycle { module: String },
    #[error("kernel {version} has no {feature} ({}), neither built in nor as a module", names.join(" or "))]
    MissingFeature {
        version: String,
        feature: &'static str,
        names: Vec<String>,
    },
    #[error("refused {path:?} in the archive: {reason}")]
    UnsafePath { path: String, reason: &'static str },
    #[error("cannot read the archive: {reason}")]
    Archive { reason: String },
    #[error("{package} is {found}, and {name} must be Linux {series}")]
    WrongSeries {
        name: String,
        package: String,
        found: String,
        series: String,
    },
    #[error(
        "{path} is linked dynamically, so it would not start in a guest that holds nothing else"
    )]
    DynamicAgent { path: String },
    #[error("the manifest {path} is damaged")]
    BadManifest {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("no space left to write {path}")]
    NoSpace { path: PathBuf },
    #[error("cannot {deed} {path}")]
    Io {
        deed: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot get the package {package}")]
    Package {
        package: String,
        #[source]
        source: AptError,
    },
    #[error("the work on kernel {name} was given up")]
    Abandoned { name: String },
}

impl KernelError {
    /// What the person who sees this error can do.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            KernelError::InvalidName { .. } => {
                "a kernel name has 1 to 64 letters, digits, '.', '-' or '_'".into()
            }
            KernelError::NotFound { .. } => {
                "`banger kernel list` shows what is here, `banger kernel pull` gets one".into()
            }
            KernelError::Exists { name, .. } => {
                format!("`--force` replaces it; `banger kernel show {name}` shows it")
            }
            KernelError::NoKernel { .. } => {
                "give a directory that holds vmlinux, vmlinux-VERSION, bzImage or vmlinuz".into()
            }
            KernelError::AmbiguousKernel { .. } | KernelError::AmbiguousModules { .. } => {
                "give a directory that holds one kernel, or the image file itself".into()
            }
            KernelError::UnsupportedCompression { .. } => {
                "give the uncompressed vmlinux of the build directory".into()
            }
            KernelError::ModuleVersion { .. } => {
                "give the modules that were built together with this image".into()
            }
            KernelError::MissingFeature { .. } => {
                "enable it in the kernel's configuration (=y or =m) and give its modules as well"
                    .into()
            }
            KernelError::WrongSeries { .. } => {
                "the host's apt sources hold another series: add sources that hold this one, or \
                 pull the catalog entry of theirs"
                    .into()
            }
            KernelError::BadManifest { .. } => {
                "`banger kernel delete` removes it; then pull or import it again".into()
            }
            KernelError::DynamicAgent { .. } => {
                "`cargo xtask agent` builds a static one; BANGER_AGENT names it to bangerd".into()
            }
            KernelError::NoSpace { .. } => "free some space on that file system".into(),
            KernelError::Package { source, .. } => return source.hint(),
            _ => return None,
        })
    }

    /// An I/O error on a path we own, with "disk full" told apart.
    pub(crate) fn io(
        deed: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> KernelError {
        let path = path.into();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                KernelError::NoSpace { path }
            }
            _ => KernelError::Io { deed, path, source },
        }
    }
}
