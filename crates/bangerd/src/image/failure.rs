//! What an image's failure is to the API.

use banger_image::apt::AptError;
use banger_image::catalog::recipe::RecipeError;
use banger_image::error::{ImageError, ImageErrorKind};
use banger_protocol::error::{ApiError, ErrorKind};

use crate::store::with_sources;

pub fn image(error: &ImageError) -> ApiError {
    let kind = match error.kind() {
        // A stream that broke off is the client's doing.
        ImageErrorKind::InvalidArgument | ImageErrorKind::SourceBroken => {
            ErrorKind::InvalidArgument
        }
        ImageErrorKind::NotFound => ErrorKind::NotFound,
        ImageErrorKind::Unauthorized => ErrorKind::Unauthorized,
        ImageErrorKind::RateLimited => ErrorKind::RateLimited,
        ImageErrorKind::Unreachable => ErrorKind::Unreachable,
        ImageErrorKind::Corrupt => ErrorKind::Corrupt,
        ImageErrorKind::InvalidImage => ErrorKind::InvalidImage,
        ImageErrorKind::UnsupportedPlatform => ErrorKind::UnsupportedPlatform,
        ImageErrorKind::TooLarge => ErrorKind::TooLarge,
        ImageErrorKind::NoSpace => ErrorKind::NoSpace,
        ImageErrorKind::Io => ErrorKind::Internal,
    };
    api(kind, error, error.hint())
}

pub fn recipe(error: &RecipeError) -> ApiError {
    let kind = match error {
        RecipeError::NotInstalled { .. } | RecipeError::NoKeyring { .. } => {
            ErrorKind::MissingDependency
        }
        RecipeError::ForeignArchitecture { .. } => ErrorKind::UnsupportedPlatform,
        RecipeError::NoUserMode { .. } => ErrorKind::Unsupported,
        RecipeError::Network { .. } => ErrorKind::Unreachable,
        RecipeError::NoSpace { .. } => ErrorKind::NoSpace,
        RecipeError::Sources(AptError::NotInstalled { .. } | AptError::NoSources) => {
            ErrorKind::MissingDependency
        }
        RecipeError::Sources(_) | RecipeError::Build { .. } => ErrorKind::Internal,
    };
    api(kind, error, error.hint())
}

fn api(kind: ErrorKind, error: &dyn std::error::Error, hint: Option<String>) -> ApiError {
    let mut api = ApiError::new(kind, with_sources(error));
    api.hint = hint;
    api
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_hints_are_kept() {
        let error = image(&ImageError::NotFound {
            what: "the tag nope".to_owned(),
            place: "docker.io/library/debian".to_owned(),
        });
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert!(error.hint.is_some());
        let error = recipe(&RecipeError::NotInstalled {
            program: "mmdebstrap",
        });
        assert_eq!(error.kind, ErrorKind::MissingDependency);
        assert_eq!(error.message, "mmdebstrap is not installed");
    }
}
