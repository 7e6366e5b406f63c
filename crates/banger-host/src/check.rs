//! The unit of `banger doctor`: one thing looked at, and what it means.

use serde::{Deserialize, Serialize};

/// How bad it is; ordered, so that the worst of several is their maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Pass,
    /// Works, but less well than it could.
    Warn,
    /// Something a user will ask for cannot work.
    Fail,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    pub status: Status,
    /// One sentence each, in the order cause, consequence, remedy.
    pub details: Vec<String>,
}

impl Check {
    /// All is well; `found` says what was found.
    pub fn pass(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            status: Status::Pass,
            details: vec![found.into()],
        }
    }

    /// A problem: nobody is helped by one without its consequence and remedy.
    pub fn problem(
        name: impl Into<String>,
        status: Status,
        cause: impl Into<String>,
        consequence: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            status,
            details: vec![cause.into(), consequence.into(), remedy.into()],
        }
    }
}

/// The worst of several checks; nothing looked at is nothing wrong.
pub fn worst<'a>(checks: impl IntoIterator<Item = &'a Check>) -> Status {
    checks
        .into_iter()
        .map(|check| check.status)
        .max()
        .unwrap_or(Status::Pass)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_counts() {
        let pass = Check::pass("kvm", "works");
        let warn = Check::problem(
            "kvm",
            Status::Warn,
            "no /dev/kvm",
            "VMs are slow",
            "enable it",
        );
        let fail = Check {
            status: Status::Fail,
            ..warn.clone()
        };
        let cases: [(&[&Check], Status); 4] = [
            (&[], Status::Pass),
            (&[&pass], Status::Pass),
            (&[&pass, &warn, &pass], Status::Warn),
            (&[&fail, &warn], Status::Fail),
        ];
        for (checks, expected) in cases {
            assert_eq!(worst(checks.iter().copied()), expected);
        }
    }
}
