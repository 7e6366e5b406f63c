//! Layers and trees as short texts, so that a case is a line and not a page.
//!
//! A layer is a list of entries apart by `;`: `d PATH`, `f PATH=TEXT`, `s PATH=TARGET`,
//! `h PATH=TARGET`, `p PATH` (a fifo). `d PATH=MODE` gives a directory a mode. A tree is the list of what is found, sorted; a file that
//! has several names is shown with its link count behind `#`.

use std::collections::BTreeMap;

use crate::archive::{Member, archive};
use crate::image::{Content, File};

pub fn layer(text: &str) -> Vec<u8> {
    let members: Vec<Member> = text
        .split(';')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .map(|entry| {
            let (kind, rest) = entry.split_once(' ').expect("an entry has a kind");
            let (path, value) = rest.split_once('=').unwrap_or((rest, ""));
            match kind {
                "d" if value.is_empty() => Member::directory(path),
                "d" => Member::directory(path)
                    .mode(u32::from_str_radix(value, 8).expect("a mode is octal")),
                "f" => Member::file(path, value),
                "s" => Member::symlink(path, value),
                "h" => Member::hard_link(path, value),
                "p" => Member::new(b'6', path),
                other => panic!("no such kind: {other}"),
            }
        })
        .collect();
    archive(&members)
}

pub fn render(files: &BTreeMap<Vec<u8>, File>) -> String {
    let lines: Vec<String> = files
        .iter()
        .filter(|(path, _)| !path.is_empty())
        .map(|(path, file)| {
            let path = String::from_utf8_lossy(path);
            let text = match &file.content {
                Content::Directory if file.mode & 0o7777 == 0o755 => format!("d {path}"),
                Content::Directory => format!("d {path}={:o}", file.mode & 0o7777),
                Content::File(bytes) => format!("f {path}={}", String::from_utf8_lossy(bytes)),
                Content::Symlink(target) => {
                    format!("s {path}={}", String::from_utf8_lossy(target))
                }
                Content::Special => format!("p {path}"),
            };
            match file.links {
                links if links > 1 && file.content != Content::Directory => {
                    format!("{text}#{links}")
                }
                _ => text,
            }
        })
        .collect();
    lines.join("; ")
}
