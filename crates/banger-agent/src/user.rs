//! Users and groups of the image, read from its own files: a static program has no name service.

use std::collections::HashSet;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Larger files are refused: the image is not trusted.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// The kernel takes no more groups of one process (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 65_536;

/// Whom a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    pub name: Vec<u8>,
    pub home: Vec<u8>,
    pub shell: Vec<u8>,
}

/// The text of /etc/passwd and /etc/group.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    passwd: Vec<u8>,
    group: Vec<u8>,
}

struct Account<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
    shell: &'a [u8],
}

struct Group<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

impl Accounts {
    pub fn new(passwd: impl Into<Vec<u8>>, group: impl Into<Vec<u8>>) -> Self {
        Accounts {
            passwd: passwd.into(),
            group: group.into(),
        }
    }

    /// Those of a root directory; a file that is missing or odd counts as empty.
    pub fn read(root: &Path) -> Self {
        Accounts {
            passwd: read(&root.join("etc/passwd")),
            group: read(&root.join("etc/group")),
        }
    }

    /// The user of `user`, `uid`, `user:group` or `uid:gid`. Numbers need no entry; a name does.
    pub fn resolve(&self, spec: &str) -> Result<User, String> {
        let (user, group) = match spec.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (spec, None),
        };
        let user = if user.is_empty() { "0" } else { user };
        // An image without accounts still has root.
        let root = user == "root" && self.accounts().all(|account| account.name != b"root");
        let number = if root {
            Some(0)
        } else {
            number(user.as_bytes())
        };
        let account = self.accounts().find(|account| match number {
            Some(uid) => account.uid == uid,
            None => account.name == user.as_bytes(),
        });
        let mut found = match (account, number) {
            (Some(account), _) => User {
                uid: account.uid,
                gid: account.gid,
                groups: self.memberships(&account),
                name: account.name.to_vec(),
                home: account.home.to_vec(),
                shell: account.shell.to_vec(),
            },
            (None, Some(uid)) => User {
                uid,
                gid: 0,
                groups: Vec::new(),
                name: if uid == 0 {
                    b"root".to_vec()
                } else {
                    user.as_bytes().to_vec()
                },
                home: Vec::new(),
                shell: Vec::new(),
            },
            (None, None) => return Err(format!("there is no user {user:?}")),
        };
        if let Some(group) = group.filter(|group| !group.is_empty()) {
            found.gid = self.group_id(group)?;
            // A group that is named stands for all.
            found.groups.clear();
        }
        if !found.groups.contains(&found.gid) {
            found.groups.insert(0, found.gid);
        }
        if found.home.is_empty() {
            found.home = if found.uid == 0 {
                b"/root".to_vec()
            } else {
                b"/".to_vec()
            };
        }
        if found.shell.is_empty() {
            found.shell = b"/bin/sh".to_vec();
        }
        Ok(found)
    }

    /// Home directories of people: owner, group and path.
    pub fn homes(&self) -> impl Iterator<Item = (u32, u32, &[u8])> {
        self.accounts()
            .filter(|account| (1000..60_000).contains(&account.uid))
            .map(|account| (account.uid, account.gid, account.home))
    }

    fn accounts(&self) -> impl Iterator<Item = Account<'_>> {
        self.passwd.split(|byte| *byte == b'\n').filter_map(|line| {
            let mut fields = line.split(|byte| *byte == b':');
            Some(Account {
                name: fields.next().filter(|name| !name.is_empty())?,
                uid: number(fields.nth(1)?)?,
                gid: number(fields.next()?)?,
                home: fields.nth(1)?,
                shell: fields.next().unwrap_or_default(),
            })
        })
    }

    fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        self.group.split(|byte| *byte == b'\n').filter_map(|line| {
            let mut fields = line.split(|byte| *byte == b':');
            Some(Group {
                name: fields.next().filter(|name| !name.is_empty())?,
                gid: number(fields.nth(1)?)?,
                members: fields.next().unwrap_or_default(),
            })
        })
    }

    fn group_id(&self, group: &str) -> Result<u32, String> {
        if let Some(gid) = number(group.as_bytes()) {
            return Ok(gid);
        }
        self.groups()
            .find(|entry| entry.name == group.as_bytes())
            .map(|entry| entry.gid)
            .ok_or_else(|| format!("there is no group {group:?}"))
    }

    fn memberships(&self, account: &Account<'_>) -> Vec<u32> {
        let mut groups = vec![account.gid];
        let mut seen = HashSet::from([account.gid]);
        for group in self.groups() {
            if groups.len() == MAX_GROUPS {
                break;
            }
            let is_member = group
                .members
                .split(|byte| *byte == b',')
                .any(|member| member == account.name);
            if is_member && seen.insert(group.gid) {
                groups.push(group.gid);
            }
        }
        groups
    }
}

/// A plain decimal number; 2^32 - 1 means "unchanged" to the kernel, so nobody is it.
fn number(text: &[u8]) -> Option<u32> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number != u32::MAX).then_some(number)
}

fn read(path: &Path) -> Vec<u8> {
    let mut text = Vec::new();
    let file = std::fs::OpenOptions::new()
        .read(true)
        // A pipe in place of the file must not stop us.
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path);
    if let Ok(file) = file
        && file.metadata().is_ok_and(|metadata| metadata.is_file())
        && file.take(MAX_FILE + 1).read_to_end(&mut text).is_ok()
        && text.len() as u64 <= MAX_FILE
    {
        return text;
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
        # comment\n\
        daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
        joe:x:1000:100:Joe,,,:/home/joe:/bin/zsh\n\
        broken:x:abc:1::/:/bin/sh\n\
        short:x:7\n\
        noshell:x:8:8::/srv";
    const GROUP: &str = "root:x:0:\nusers:x:100:\nwheel:x:10:root,joe\naudio:x:29:joe\n:x:3:joe\n";

    fn resolved(spec: &str) -> String {
        match Accounts::new(PASSWD, GROUP).resolve(spec) {
            Ok(user) => format!(
                "{}:{} {:?} {} {} {}",
                user.uid,
                user.gid,
                user.groups,
                String::from_utf8_lossy(&user.name),
                String::from_utf8_lossy(&user.home),
                String::from_utf8_lossy(&user.shell),
            ),
            Err(message) => message,
        }
    }

    #[test]
    fn specs_resolve_as_docker_does() {
        let cases = [
            ("root", "0:0 [0, 10] root /root /bin/bash"),
            ("0", "0:0 [0, 10] root /root /bin/bash"),
            ("", "0:0 [0, 10] root /root /bin/bash"),
            ("joe", "1000:100 [100, 10, 29] joe /home/joe /bin/zsh"),
            ("1000", "1000:100 [100, 10, 29] joe /home/joe /bin/zsh"),
            ("joe:audio", "1000:29 [29] joe /home/joe /bin/zsh"),
            ("joe:77", "1000:77 [77] joe /home/joe /bin/zsh"),
            ("joe:", "1000:100 [100, 10, 29] joe /home/joe /bin/zsh"),
            (":wheel", "0:10 [10] root /root /bin/bash"),
            ("4711", "4711:0 [0] 4711 / /bin/sh"),
            ("4711:4712", "4711:4712 [4712] 4711 / /bin/sh"),
            ("noshell", "8:8 [8] noshell /srv /bin/sh"),
            ("nobody", "there is no user \"nobody\""),
            ("broken", "there is no user \"broken\""),
            ("short", "there is no user \"short\""),
            ("joe:nogroup", "there is no group \"nogroup\""),
            ("4294967295", "there is no user \"4294967295\""),
            ("-1", "there is no user \"-1\""),
        ];
        for (spec, expected) in cases {
            assert_eq!(resolved(spec), expected, "{spec:?}");
        }
    }

    /// An image may have as many groups as its file has room for. Looking each up among all found
    /// so far would take minutes, in which process 1 does nothing else.
    #[test]
    fn very_many_groups_are_bounded_and_soon_read() {
        let group: String = (1..=300_000).map(|gid| format!("g::{gid}:u\n")).collect();
        let accounts = Accounts::new("u:x:1000:1::/:\n", group);
        let start = std::time::Instant::now();
        let user = accounts.resolve("u").unwrap();
        assert_eq!(user.groups.len(), MAX_GROUPS);
        assert_eq!(user.groups[..3], [1, 2, 3]);
        assert!(start.elapsed().as_secs() < 20);
    }

    #[test]
    fn without_files_there_is_root() {
        for spec in ["root", "0"] {
            let user = Accounts::default().resolve(spec).unwrap();
            assert_eq!((user.uid, user.home), (0, b"/root".to_vec()));
        }
    }

    #[test]
    fn odd_files_count_as_empty() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("passwd");
        assert_eq!(read(&path), b"");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
        assert_eq!(read(&path), b"");
    }

    proptest! {
        #[test]
        fn any_files_are_harmless(passwd: Vec<u8>, group: Vec<u8>, spec: String) {
            let accounts = Accounts::new(passwd, group);
            let _ = accounts.resolve(&spec);
            let _ = accounts.resolve("1");
            let _ = accounts.homes().count();
        }
    }
}
