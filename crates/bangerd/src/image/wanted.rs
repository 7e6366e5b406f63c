//! What a user's word for an image means: a local name, else a name of the catalog, else a
//! reference.

use banger_image::catalog::{Catalog, ImageEntry};
use banger_image::reference::Reference;
use banger_protocol::error::{ApiError, ErrorKind};
use banger_protocol::name::ImageName;

/// What a pull would get.
#[derive(Clone, Debug)]
pub enum Source {
    Catalog(Box<ImageEntry>),
    Reference(Reference),
}

impl Source {
    /// As records keep it.
    pub fn text(&self) -> String {
        match self {
            Source::Catalog(entry) => format!("catalog:{}", entry.name),
            Source::Reference(reference) => reference.to_string(),
        }
    }

    /// The local name where none is given.
    pub fn default_name(&self) -> Result<ImageName, ApiError> {
        let name = match self {
            Source::Catalog(entry) => entry.name.to_lowercase(),
            Source::Reference(reference) => reference.default_name(),
        };
        name.parse()
            .map_err(|error: banger_protocol::name::NameError| {
                ApiError::new(ErrorKind::InvalidArgument, error.to_string())
                    .hint("choose a local name with --name")
            })
    }
}

/// A checked word for an image.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Set where it could be a local name.
    pub local: Option<ImageName>,
    /// Absent where it can only be a local name.
    pub source: Option<Source>,
}

impl Wanted {
    /// # Errors
    /// `invalid_argument` where it can be none of the three.
    pub fn parse(text: &str, catalog: &Catalog) -> Result<Wanted, ApiError> {
        let local = text.parse().ok();
        let source = match catalog.image(text) {
            Some(entry) => Some(Source::Catalog(Box::new(entry.clone()))),
            None => match text.parse::<Reference>() {
                Ok(reference) => Some(Source::Reference(reference)),
                Err(_) if local.is_some() => None,
                Err(error) => {
                    let shown: String = text.chars().take(120).collect();
                    return Err(ApiError::new(
                        ErrorKind::InvalidArgument,
                        format!("{shown:?} names no image: {error}"),
                    )
                    .hint("write a local name, or [REGISTRY[:PORT]/]NAME[:TAG][@sha256:DIGEST]"));
                }
            },
        };
        Ok(Wanted { local, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catalog_names_come_before_references() {
        let catalog = Catalog::load(None).unwrap();
        let source = |text: &str| {
            Wanted::parse(text, &catalog)
                .unwrap()
                .source
                .map(|source| (source.text(), source.default_name().unwrap().to_string()))
        };
        let pair = |text: &str, name: &str| Some((text.to_owned(), name.to_owned()));
        assert_eq!(source("debian-12"), pair("catalog:debian-12", "debian-12"));
        assert_eq!(
            source("debian:bookworm"),
            pair("docker.io/library/debian:bookworm", "debian-bookworm")
        );
        assert_eq!(source("debian-12."), None, "only a local name");
    }

    #[test]
    fn what_names_nothing_is_refused() {
        let catalog = Catalog::load(None).unwrap();
        for bad in [
            "",
            "UPPER",
            "a b",
            "x:",
            "http://x",
            "a\0",
            &"x/".repeat(3000),
        ] {
            let error = Wanted::parse(bad, &catalog).unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidArgument, "{bad:?}");
            assert!(error.message.len() < 400);
        }
    }
}
