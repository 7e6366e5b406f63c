//! Which image is meant: its local name, or what it was pulled as.

use banger_protocol::api::image::{Image, ImageList};
use banger_protocol::api::path;
use banger_protocol::error::{ApiError, ErrorKind};
use banger_protocol::name::ImageName;

use crate::client::Client;

/// The local name of the image that `text` names. A text that could be a local name is taken for
/// one; `debian:bookworm` cannot, so it is what an image was pulled as.
///
/// # Errors
/// No image, or several, were pulled as that.
pub async fn resolve(client: &Client, text: &str) -> Result<String, ApiError> {
    if text.parse::<ImageName>().is_ok() {
        return Ok(text.to_owned());
    }
    let list: ImageList = client.get(path::IMAGES).await?;
    by_source(text, &list.images)
}

fn by_source(text: &str, images: &[Image]) -> Result<String, ApiError> {
    let found: Vec<&str> = images
        .iter()
        .filter(|image| {
            image.source == text
                || image
                    .source
                    .strip_suffix(text)
                    .is_some_and(|before| before.ends_with('/') && !text.is_empty())
        })
        .map(|image| image.name.as_str())
        .collect();
    match found.as_slice() {
        [name] => Ok((*name).to_owned()),
        [] => Err(
            ApiError::new(ErrorKind::NotFound, format!("there is no image {text:?}"))
                .hint("see those there are with: banger image list"),
        ),
        names => Err(ApiError::new(
            ErrorKind::Ambiguous,
            format!("{text:?} was pulled as several images"),
        )
        .hint(format!("name one of: {}", names.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    #[test]
    fn sources() {
        let images = [
            example("debian-bookworm", "docker.io/library/debian:bookworm"),
            example("app-1", "ghcr.io/a/app:1"),
            example("other-app", "ghcr.io/b/app:1"),
        ];
        assert_eq!(
            by_source("debian:bookworm", &images).unwrap(),
            "debian-bookworm"
        );
        assert_eq!(by_source("ghcr.io/a/app:1", &images).unwrap(), "app-1");
        assert_eq!(by_source("a/app:1", &images).unwrap(), "app-1");
        assert_eq!(
            by_source("app:1", &images).unwrap_err().kind,
            ErrorKind::Ambiguous
        );
        for unknown in ["ian:bookworm", "", "nothing:1"] {
            assert_eq!(
                by_source(unknown, &images).unwrap_err().kind,
                ErrorKind::NotFound
            );
        }
    }
}
