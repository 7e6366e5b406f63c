//! How people name a VM: by name, by id, or by the beginning of an id that only one VM has.

use banger_protocol::error::{ApiError, ErrorKind};

/// The id meant by `reference`, among pairs of name and id. A name comes before an id.
///
/// # Errors
/// `not_found` or `ambiguous`.
pub fn resolve<'a>(
    reference: &str,
    vms: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<&'a str, ApiError> {
    let mut found: Vec<(&str, &str)> = Vec::new();
    for (name, id) in vms {
        if name == reference {
            return Ok(id);
        }
        if !reference.is_empty() && id.starts_with(reference) {
            found.push((name, id));
        }
    }
    match found.as_slice() {
        [] => Err(not_found(reference)),
        [(_, id)] => Ok(id),
        _ => {
            found.sort_unstable();
            let listed: Vec<String> = found
                .iter()
                .take(8)
                .map(|(name, id)| format!("{name} ({id})"))
                .collect();
            Err(ApiError::new(
                ErrorKind::Ambiguous,
                format!("{reference} is the beginning of {} ids", found.len()),
            )
            .hint(format!(
                "write more of it; it could be {}",
                listed.join(", ")
            )))
        }
    }
}

pub fn not_found(reference: &str) -> ApiError {
    // An error must not carry a megabyte of someone's input.
    let shown: String = reference.chars().take(80).collect();
    ApiError::new(ErrorKind::NotFound, format!("there is no VM {shown:?}"))
        .hint("banger vm list shows those there are")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        let vms = [
            ("web", "a1b2c3d4e5f6"),
            ("api", "a1ffffffffff"),
            // A name that looks like the beginning of an id.
            ("a1b", "000000000001"),
        ];
        for (reference, expected) in [
            ("web", Ok("a1b2c3d4e5f6")),
            ("a1b2c3d4e5f6", Ok("a1b2c3d4e5f6")),
            ("a1b2", Ok("a1b2c3d4e5f6")),
            ("a1b", Ok("000000000001")),
            ("0", Ok("000000000001")),
            ("a1", Err(ErrorKind::Ambiguous)),
            ("", Err(ErrorKind::NotFound)),
            ("nope", Err(ErrorKind::NotFound)),
            ("A1B2", Err(ErrorKind::NotFound)),
        ] {
            let got = resolve(reference, vms.into_iter()).map_err(|error| error.kind);
            assert_eq!(got, expected, "{reference}");
        }
    }
}
