//! What a kernel's failure is to the API.

use banger_image::apt::AptError;
use banger_image::kernel::KernelError;
use banger_protocol::error::{ApiError, ErrorKind};

use crate::store::with_sources;

pub fn failure(error: KernelError) -> ApiError {
    let mut api = ApiError::new(kind(&error), with_sources(&error));
    api.hint = error.hint();
    api
}

fn kind(error: &KernelError) -> ErrorKind {
    match error {
        KernelError::InvalidName { .. } => ErrorKind::InvalidArgument,
        KernelError::NotFound { .. } | KernelError::WrongSeries { .. } => ErrorKind::NotFound,
        KernelError::Exists { .. } => ErrorKind::AlreadyExists,
        KernelError::NoKernel { .. }
        | KernelError::AmbiguousKernel { .. }
        | KernelError::AmbiguousModules { .. }
        | KernelError::NotAKernel { .. }
        | KernelError::Decompress { .. }
        | KernelError::BadModule { .. }
        | KernelError::ModuleVersion { .. }
        | KernelError::MissingDependency { .. }
        | KernelError::DependencyCycle { .. }
        | KernelError::MissingFeature { .. }
        | KernelError::UnsafePath { .. }
        | KernelError::Archive { .. } => ErrorKind::InvalidImage,
        KernelError::WrongArchitecture { .. } => ErrorKind::UnsupportedPlatform,
        KernelError::UnsupportedCompression { .. } => ErrorKind::Unsupported,
        KernelError::TooLarge { .. } => ErrorKind::TooLarge,
        KernelError::BadManifest { .. } => ErrorKind::Corrupt,
        KernelError::DynamicAgent { .. } => ErrorKind::MissingDependency,
        KernelError::NoSpace { .. } => ErrorKind::NoSpace,
        KernelError::Io { .. } => ErrorKind::Internal,
        KernelError::Package { source, .. } => match source {
            AptError::NotInstalled { .. } | AptError::NoSources => ErrorKind::MissingDependency,
            AptError::NotOffered { .. } | AptError::Command(_) => ErrorKind::Unreachable,
            AptError::Digest { .. } => ErrorKind::Corrupt,
            AptError::NoSpace { .. } => ErrorKind::NoSpace,
            AptError::ReadSources { .. } | AptError::Io { .. } => ErrorKind::Internal,
        },
        KernelError::Abandoned { .. } => ErrorKind::Cancelled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_in_the_text_and_the_hint_is_kept() {
        let error = failure(KernelError::Package {
            package: "linux-image-cloud-amd64".to_owned(),
            source: AptError::NotInstalled {
                program: "apt-get".to_owned(),
            },
        });
        assert_eq!(error.kind, ErrorKind::MissingDependency);
        assert_eq!(
            error.message,
            "cannot get the package linux-image-cloud-amd64: apt-get is not installed"
        );
        assert!(error.hint.is_some());
    }
}
