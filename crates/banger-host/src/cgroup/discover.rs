//! Where the caller's own cgroups are, read from two files of `/proc`.

use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// One mounted cgroup tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    pub version: Version,
    /// Version 1 controllers; empty for version 2, where they are a property of each cgroup.
    pub controllers: Vec<String>,
    /// Directory of the caller's own cgroup.
    pub own: PathBuf,
}

impl Hierarchy {
    /// Version 1 has a tree per controller and we limit only two of them.
    pub(super) fn is_wanted(&self) -> bool {
        self.version == Version::V2
            || self
                .controllers
                .iter()
                .any(|controller| controller == "memory" || controller == "pids")
    }
}

/// Joins `/proc/self/mountinfo` (where trees are mounted, and which part of them) with
/// `/proc/self/cgroup` (where in each tree we are). A tree of which our part is not mounted is
/// left out.
pub fn discover(mountinfo: &str, cgroup: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for mount in mountinfo.lines().filter_map(parse_mount) {
        let membership = cgroup.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            let matches = match mount.version {
                Version::V2 => controllers.is_empty(),
                Version::V1 => {
                    !controllers.is_empty()
                        && controllers
                            .split(',')
                            .all(|controller| mount.options.split(',').any(|o| o == controller))
                }
            };
            matches.then_some((controllers, path))
        });
        let Some((controllers, path)) = membership else {
            continue;
        };
        let Ok(below) = Path::new(path).strip_prefix(&mount.root) else {
            continue;
        };
        if below.components().any(|part| part.as_os_str() == "..") {
            continue;
        }
        let hierarchy = Hierarchy {
            version: mount.version,
            controllers: match mount.version {
                Version::V2 => Vec::new(),
                Version::V1 => controllers.split(',').map(str::to_owned).collect(),
            },
            own: mount.point.join(below),
        };
        // The same tree may be mounted twice.
        let known = found.iter().any(|other| {
            other.version == hierarchy.version && other.controllers == hierarchy.controllers
        });
        if !known {
            found.push(hierarchy);
        }
    }
    found
}

struct Mount<'a> {
    version: Version,
    root: PathBuf,
    point: PathBuf,
    options: &'a str,
}

/// `36 35 98:0 /root /mount/point rw,noatime master:1 - type source super,options`
fn parse_mount(line: &str) -> Option<Mount<'_>> {
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    let version = match after.next()? {
        "cgroup" => Version::V1,
        "cgroup2" => Version::V2,
        _ => return None,
    };
    let options = after.nth(1).unwrap_or_default();
    let mut before = before.split(' ').skip(3);
    let root = unescape(before.next()?);
    let point = unescape(before.next()?);
    Some(Mount {
        version,
        root,
        point,
        options,
    })
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(position) = rest.find('\\') {
        out.push_str(&rest[..position]);
        let code = rest
            .get(position + 1..position + 4)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) if code.is_ascii() => {
                out.push(char::from(code));
                rest = &rest[position + 4..];
            }
            _ => {
                out.push('\\');
                rest = &rest[position + 1..];
            }
        }
    }
    out.push_str(rest);
    PathBuf::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(mountinfo: &str, cgroup: &str) -> Vec<String> {
        discover(mountinfo, cgroup)
            .into_iter()
            .map(|hierarchy| {
                format!(
                    "{:?} [{}] {}",
                    hierarchy.version,
                    hierarchy.controllers.join(","),
                    hierarchy.own.display()
                )
            })
            .collect()
    }

    #[test]
    fn finds_our_own_place() {
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let memory = "31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let cpu = "32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
        let unified = "33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n";
        let part = "34 30 0:30 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        let spaced = "35 30 0:30 / /mnt/a\\040b\\134c rw - cgroup2 cgroup rw\n";
        let cases: [(String, &str, &[&str]); 9] = [
            (
                v2.into(),
                "0::/user.slice/x.scope\n",
                &["V2 [] /sys/fs/cgroup/user.slice/x.scope"],
            ),
            (format!("{v2}{v2}"), "0::/\n", &["V2 [] /sys/fs/cgroup/"]),
            (
                format!("{memory}{cpu}{unified}"),
                "8:memory:/a\n3:cpu,cpuacct:/b\n1:name=systemd:/c\n0::/d\n",
                &[
                    "V1 [memory] /sys/fs/cgroup/memory/a",
                    "V1 [cpu,cpuacct] /sys/fs/cgroup/cpu,cpuacct/b",
                    "V2 [] /sys/fs/cgroup/unified/d",
                ],
            ),
            (
                part.into(),
                "0::/docker/abc/inner\n",
                &["V2 [] /sys/fs/cgroup/inner"],
            ),
            (part.into(), "0::/docker/other\n", &[]),
            (v2.into(), "0::/../outside\n", &[]),
            (spaced.into(), "0::/x\n", &["V2 [] /mnt/a b\\c/x"]),
            (memory.into(), "0::/\n", &[]),
            (String::new(), "", &[]),
        ];
        for (mountinfo, cgroup, expected) in cases {
            assert_eq!(render(&mountinfo, cgroup), expected, "{mountinfo}{cgroup}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(mountinfo: String, cgroup: String) {
            discover(&mountinfo, &cgroup);
        }
    }
}
