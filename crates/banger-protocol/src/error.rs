//! How failures look to a user: what kind, what failed, what to do next.
//!
//! Each [`ErrorKind`] has one exit code of the CLI and one HTTP status. banger's own exit codes
//! are 2 and 100 to 125; a command run in a VM may exit with any number, which is why the CLI also
//! begins its own errors on stderr with `banger: ` and why `--json` marks them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $exit:literal, $status:literal;)*) => {
        /// What kind of failure an error is. Kinds are only ever added.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum ErrorKind {
            $($(#[$doc])* $variant,)*
        }

        impl ErrorKind {
            pub const ALL: &[ErrorKind] = &[$(ErrorKind::$variant,)*];

            /// Exit code of the CLI.
            pub fn exit_code(self) -> u8 {
                match self { $(ErrorKind::$variant => $exit,)* }
            }

            /// Status of an HTTP response whose body carries this kind.
            pub fn http_status(self) -> u16 {
                match self { $(ErrorKind::$variant => $status,)* }
            }
        }
    };
}

kinds! {
    /// A value is malformed or out of range.
    InvalidArgument = 100, 400;
    /// The VM, image, kernel, tag or operation does not exist.
    NotFound = 101, 404;
    /// An id prefix names more than one thing.
    Ambiguous = 102, 409;
    /// The name is taken.
    AlreadyExists = 103, 409;
    /// The thing exists but is in a state that does not allow this.
    WrongState = 104, 409;
    /// Something still uses it.
    InUse = 105, 409;
    /// The operating system or a registry refused.
    PermissionDenied = 106, 403;
    /// A registry wants other credentials.
    Unauthorized = 107, 424;
    /// A registry asked us to slow down, and still does.
    RateLimited = 108, 424;
    /// A registry or mirror cannot be reached.
    Unreachable = 109, 424;
    /// Bytes do not match their digest or size.
    Corrupt = 110, 424;
    /// An image, archive or kernel breaks the rules of its format.
    InvalidImage = 111, 422;
    /// No variant of the image runs on this host.
    UnsupportedPlatform = 112, 422;
    /// A configured limit was exceeded.
    TooLarge = 113, 413;
    /// The disk is full.
    NoSpace = 114, 507;
    /// A program or device that is needed is not there.
    MissingDependency = 115, 424;
    /// This host or driver cannot do it.
    Unsupported = 116, 422;
    /// The machine ended or hung before its agent was ready.
    BootFailed = 117, 424;
    /// The VM's agent does not answer.
    GuestUnreachable = 118, 424;
    /// The VMM died.
    MachineDied = 119, 424;
    /// A bounded wait ran out.
    Timeout = 120, 408;
    /// The client or another one cancelled it.
    Cancelled = 121, 409;
    /// bangerd does not answer, or another one holds the root directory or socket.
    DaemonUnavailable = 122, 503;
    /// CLI, daemon, agent or store are of versions that do not go together.
    VersionMismatch = 123, 400;
    /// The configuration file or store is not usable as it is.
    BadConfig = 124, 500;
    /// A fault of banger itself.
    Internal = 125, 500;
}

impl ErrorKind {
    /// The name in JSON.
    pub fn as_str(self) -> String {
        serde_json::to_value(self)
            .ok()
            .and_then(|value| value.as_str().map(str::to_owned))
            .unwrap_or_default()
    }

    /// What to do about one that says nothing better itself. `None` where only the message can
    /// tell.
    pub fn remedy(self) -> Option<&'static str> {
        Some(match self {
            ErrorKind::PermissionDenied => "check owner and mode of what is named",
            ErrorKind::Unauthorized => "log in with: docker login REGISTRY",
            ErrorKind::RateLimited => {
                "wait, or log in with docker login: most registries allow more to those they know"
            }
            ErrorKind::Unreachable => {
                "check its name, the network, and the proxy variables of bangerd"
            }
            ErrorKind::Corrupt => "try again; if it stays, the registry or the archive is damaged",
            ErrorKind::InvalidImage => "build or export it again, or take another",
            ErrorKind::UnsupportedPlatform => "choose an image or tag for this platform",
            ErrorKind::TooLarge => "where it is to be trusted, raise the limit in config.toml",
            ErrorKind::NoSpace => "make room with: banger image prune, banger vm delete",
            ErrorKind::MissingDependency => "see what is needed with: banger doctor",
            ErrorKind::BootFailed => "look at its console with: banger vm logs --console VM",
            ErrorKind::GuestUnreachable => "ask its agent with: banger vm health VM",
            ErrorKind::MachineDied => "see the reason with: banger vm show VM",
            ErrorKind::DaemonUnavailable => "see how it is with: banger daemon status",
            ErrorKind::VersionMismatch => {
                "install all of one version, then run: banger daemon stop"
            }
            ErrorKind::BadConfig => "correct what is named",
            ErrorKind::Internal => {
                "report it, with the log of bangerd (banger daemon status names it)"
            }
            ErrorKind::InvalidArgument
            | ErrorKind::NotFound
            | ErrorKind::Ambiguous
            | ErrorKind::AlreadyExists
            | ErrorKind::WrongState
            | ErrorKind::InUse
            | ErrorKind::Unsupported
            | ErrorKind::Timeout
            | ErrorKind::Cancelled => return None,
        })
    }
}

/// One failure, as every response and every failed operation carries it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub kind: ErrorKind,
    /// What failed, on what, and why. One sentence, no trailing full stop.
    pub message: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Further lines worth seeing: the end of the serial console, a program's stderr.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

impl ApiError {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        ApiError {
            kind,
            message: message.into(),
            hint: None,
            details: Vec::new(),
        }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn details(mut self, details: Vec<String>) -> Self {
        self.details = details;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_kind_has_an_exit_code_of_its_own() {
        let codes: HashSet<u8> = ErrorKind::ALL.iter().map(|kind| kind.exit_code()).collect();
        assert_eq!(codes.len(), ErrorKind::ALL.len());
        assert!(codes.iter().all(|code| (100..=125).contains(code)));
    }

    #[test]
    fn names_are_snake_case() {
        assert_eq!(ErrorKind::BootFailed.as_str(), "boot_failed");
        assert_eq!(
            serde_json::to_string(&ApiError::new(ErrorKind::NotFound, "no VM web")).unwrap(),
            r#"{"kind":"not_found","message":"no VM web"}"#
        );
    }
}
