//! The committed OpenAPI document is the one that is served, and has a path for each the protocol
//! names.

use std::collections::BTreeSet;
use std::path::Path;

use bangerd::api::document;
use serde_json::Value;

/// `BANGER_UPDATE_SCHEMA=1 cargo test -p bangerd --test api schema` writes it anew.
#[test]
fn the_committed_document_is_current() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../banger-protocol/schema/openapi.json");
    let current = document::text();
    if std::env::var_os("BANGER_UPDATE_SCHEMA").is_some() {
        std::fs::write(&file, &current).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        committed == current,
        "schema/openapi.json is not what handlers and types say: run this test with \
         BANGER_UPDATE_SCHEMA=1 and look at the difference"
    );
}

fn document() -> Value {
    serde_json::from_str(&document::text()).unwrap()
}

#[test]
fn every_path_of_the_protocol_is_there_and_no_other() {
    // Constants are read from the source, so that none can be forgotten here.
    let source = include_str!("../../../banger-protocol/src/api/path.rs");
    let named: BTreeSet<&str> = source
        .lines()
        .filter(|line| line.starts_with("pub const "))
        .filter_map(|line| line.split('"').nth(1))
        .collect();
    let document = document();
    let served: BTreeSet<&str> = document["paths"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(served, named);
}

#[test]
fn every_operation_says_its_version_and_its_errors() {
    let document = document();
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let what = format!("{method} {path}");
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id), "{what}: {id} is used twice");
            let versions = operation["parameters"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|parameter| parameter["name"] == "banger-api-version")
                .count();
            assert_eq!(versions, usize::from(path != "/v1/daemon"), "{what}");
            for (status, response) in operation["responses"].as_object().unwrap() {
                if status.starts_with(['4', '5']) {
                    assert_eq!(
                        response["content"]["application/json"]["schema"]["$ref"],
                        "#/components/schemas/ApiError",
                        "{what} {status}"
                    );
                }
            }
            for status in ["400", "403", "500"] {
                assert!(
                    operation["responses"][status].is_object(),
                    "{what} {status}"
                );
            }
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    found.insert(reference);
                }
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}
