//! `docs/exit-codes.md` is true.

use std::collections::BTreeMap;
use std::path::Path;

use banger::failure::{BROKEN_PIPE, USAGE};
use banger_protocol::error::ErrorKind;

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/exit-codes.md");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The cells of every row of every table.
fn rows(page: &str) -> Vec<Vec<&str>> {
    page.lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|line| line.split(" | ").map(str::trim).collect())
        .collect()
}

#[test]
fn every_kind_is_on_the_page_and_no_other() {
    let page = page();
    let documented: BTreeMap<u8, (&str, u16)> = rows(&page)
        .into_iter()
        .filter(|cells| cells.len() > 2 && cells[1].starts_with('`'))
        .map(|cells| {
            assert_eq!(cells.len(), 5, "{cells:?}");
            assert!(cells.iter().all(|cell| !cell.is_empty()), "{cells:?}");
            let code = cells[0].parse().unwrap();
            (
                code,
                (cells[1].trim_matches('`'), cells[2].parse().unwrap()),
            )
        })
        .collect();
    let names: Vec<String> = ErrorKind::ALL.iter().map(|kind| kind.as_str()).collect();
    let expected: BTreeMap<u8, (&str, u16)> = ErrorKind::ALL
        .iter()
        .zip(&names)
        .map(|(kind, name)| (kind.exit_code(), (name.as_str(), kind.http_status())))
        .collect();
    assert_eq!(documented, expected);
}

#[test]
fn the_other_codes_are_there_too() {
    let page = page();
    let first: Vec<&str> = rows(&page).iter().map(|cells| cells[0]).collect();
    for code in ["0", "126", "127", "128 + n", "129, 130, 143"] {
        assert!(first.contains(&code), "no row for {code}");
    }
    for code in [USAGE, BROKEN_PIPE] {
        assert!(
            first.contains(&code.to_string().as_str()),
            "no row for {code}"
        );
    }
    let (lowest, highest) = first
        .iter()
        .find_map(|cell| {
            cell.strip_prefix("100")?
                .strip_prefix(" to ")
                .map(|end| (100, end))
        })
        .unwrap();
    assert!(ErrorKind::ALL.iter().all(|kind| kind.exit_code() >= lowest));
    assert!(highest.parse().is_ok_and(|highest: u8| {
        ErrorKind::ALL
            .iter()
            .all(|kind| kind.exit_code() <= highest)
    }));
}
