//! Which build a program is.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Version, commit and time of one program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BuildInfo {
    /// Semantic version of the release.
    pub version: String,
    /// Abbreviated git commit; `unknown` when built outside a checkout.
    pub commit: String,
    /// RFC 3339 time of the sources that were built; `unknown` when not recorded.
    pub built_at: String,
}

/// The build this code is part of. `BANGER_COMMIT` and `BANGER_BUILT_AT` are read at compile
/// time; the Makefile sets both.
pub fn this_build() -> BuildInfo {
    BuildInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: option_env!("BANGER_COMMIT").unwrap_or("unknown").to_owned(),
        built_at: option_env!("BANGER_BUILT_AT")
            .unwrap_or("unknown")
            .to_owned(),
    }
}
