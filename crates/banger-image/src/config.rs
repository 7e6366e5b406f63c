//! The image configuration: how an image wants to be run, and which layers it is made of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::InvalidImage;
use crate::platform::Platform;

const DOCUMENT: &str = "the image configuration";

/// How an image wants to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    #[serde(default)]
    pub entrypoint: Vec<String>,
    #[serde(default)]
    pub cmd: Vec<String>,
    /// `NAME=value` each, in the image's order.
    #[serde(default)]
    pub env: Vec<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`; empty means root.
    #[serde(default)]
    pub user: String,
    /// Absolute; empty means `/`.
    #[serde(default)]
    pub workdir: String,
    /// Absolute paths, sorted.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// Name or number; empty means SIGTERM.
    #[serde(default)]
    pub stop_signal: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// `80/tcp` each, sorted.
    #[serde(default)]
    pub exposed_ports: Vec<String>,
}

/// A configuration document, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageDocument {
    /// Fields are empty where the document leaves them out, as some old tools did.
    pub platform: Platform,
    /// Digests of the uncompressed layers, bottom first.
    pub diff_ids: Vec<Digest>,
    pub config: ImageConfig,
}

/// A document of Docker or OCI; both have this shape. Fields that may be `null` are options.
#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    config: Option<WireConfig>,
    #[serde(default)]
    rootfs: Option<WireRootfs>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireConfig {
    #[serde(default)]
    entrypoint: Option<Vec<String>>,
    #[serde(default)]
    cmd: Option<Vec<String>>,
    #[serde(default)]
    env: Option<Vec<String>>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    working_dir: Option<String>,
    #[serde(default)]
    volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    #[serde(default)]
    stop_signal: Option<String>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
}

#[derive(Deserialize)]
struct WireRootfs {
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

impl ImageDocument {
    pub fn parse(json: &[u8]) -> Result<ImageDocument, InvalidImage> {
        let wire: Wire = serde_json::from_slice(json).map_err(|error| InvalidImage::Json {
            document: DOCUMENT,
            reason: error.to_string(),
        })?;
        let diff_ids = wire
            .rootfs
            .and_then(|rootfs| rootfs.diff_ids)
            .unwrap_or_default()
            .iter()
            .map(|text| {
                text.parse().map_err(|reason| InvalidImage::Digest {
                    document: DOCUMENT,
                    reason,
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(ImageDocument {
            platform: Platform {
                os: wire.os.unwrap_or_default(),
                architecture: wire.architecture.unwrap_or_default(),
                variant: wire.variant.unwrap_or_default(),
            },
            diff_ids,
            config: run_config(wire.config.unwrap_or_default())?,
        })
    }
}

fn run_config(wire: WireConfig) -> Result<ImageConfig, InvalidImage> {
    let config = ImageConfig {
        entrypoint: wire.entrypoint.unwrap_or_default(),
        cmd: wire.cmd.unwrap_or_default(),
        // Docker reads a bare NAME as "take it from the builder's environment": nothing here.
        env: wire
            .env
            .unwrap_or_default()
            .into_iter()
            .filter(|entry| entry.find('=').is_some_and(|position| position > 0))
            .collect(),
        user: wire.user.unwrap_or_default(),
        workdir: absolute(&wire.working_dir.unwrap_or_default()),
        volumes: wire
            .volumes
            .unwrap_or_default()
            .into_keys()
            .map(|path| volume(&path))
            .collect::<Result<_, _>>()?,
        stop_signal: wire.stop_signal.unwrap_or_default(),
        labels: wire.labels.unwrap_or_default(),
        exposed_ports: wire.exposed_ports.unwrap_or_default().into_keys().collect(),
    };
    let texts = config
        .entrypoint
        .iter()
        .chain(&config.cmd)
        .chain(&config.env)
        .chain(&config.volumes)
        .chain([&config.user, &config.workdir, &config.stop_signal]);
    for text in texts {
        if text.contains('\0') {
            return Err(unusable(format!(
                "unusable: {:?} holds a zero byte",
                shortened(text)
            )));
        }
    }
    Ok(config)
}

/// Docker takes a relative working directory as one of `/`.
fn absolute(path: &str) -> String {
    if path.is_empty() || path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

/// A volume is bound over the root file system, so it must lie within it and be less than all of it.
fn volume(path: &str) -> Result<String, InvalidImage> {
    let words: Vec<_> = path
        .split('/')
        .filter(|word| !word.is_empty() && *word != ".")
        .collect();
    if !path.starts_with('/') || words.is_empty() || words.contains(&"..") {
        return Err(unusable(format!(
            "unusable: {:?} cannot be a volume",
            shortened(path)
        )));
    }
    Ok(format!("/{}", words.join("/")))
}

fn unusable(what: String) -> InvalidImage {
    InvalidImage::Document {
        document: DOCUMENT,
        what,
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_of_docker_is_read() {
        let id = Digest::of(b"layer");
        let json = format!(
            r#"{{"architecture":"arm","variant":"v7","os":"linux","created":"2020-01-01T00:00:00Z",
            "config":{{"Hostname":"x","Entrypoint":["/init"],"Cmd":["a","b"],
              "Env":["PATH=/bin","EMPTY=","BARE","=odd"],"User":"app:staff","WorkingDir":"srv",
              "Volumes":{{"/data/":{{}},"/a//b":{{}}}},"StopSignal":"SIGQUIT",
              "Labels":{{"k":"v"}},"ExposedPorts":{{"80/tcp":{{}}}}}},
            "history":[{{}}],"rootfs":{{"type":"layers","diff_ids":["{id}"]}}}}"#
        );
        let document = ImageDocument::parse(json.as_bytes()).unwrap();
        assert_eq!(document.platform, Platform::new("linux", "arm", "v7"));
        assert_eq!(document.diff_ids, [id]);
        assert_eq!(
            document.config,
            ImageConfig {
                entrypoint: vec!["/init".into()],
                cmd: vec!["a".into(), "b".into()],
                env: vec!["PATH=/bin".into(), "EMPTY=".into()],
                user: "app:staff".into(),
                workdir: "/srv".into(),
                volumes: vec!["/a/b".into(), "/data".into()],
                stop_signal: "SIGQUIT".into(),
                labels: BTreeMap::from([("k".into(), "v".into())]),
                exposed_ports: vec!["80/tcp".into()],
            }
        );
    }

    #[test]
    fn null_and_missing_are_the_same() {
        let empty = ImageDocument {
            platform: Platform::default(),
            diff_ids: vec![],
            config: ImageConfig::default(),
        };
        for json in [
            "{}",
            r#"{"config":null,"rootfs":null,"os":null,"architecture":null}"#,
            r#"{"config":{"Entrypoint":null,"Cmd":null,"Env":null,"Volumes":null,"User":null,
                "WorkingDir":null,"Labels":null,"ExposedPorts":null},"rootfs":{"diff_ids":null}}"#,
        ] {
            assert_eq!(
                ImageDocument::parse(json.as_bytes()).unwrap(),
                empty,
                "{json}"
            );
        }
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        for (json, expected) in [
            ("", "cannot be read"),
            ("[1]", "cannot be read"),
            (r#"{"config":{"Cmd":"sh"}}"#, "cannot be read"),
            (r#"{"config":{"Cmd":["a\u0000b"]}}"#, "zero byte"),
            (r#"{"config":{"Env":["A=\u0000"]}}"#, "zero byte"),
            (r#"{"config":{"Volumes":{"/":{}}}}"#, "cannot be a volume"),
            (
                r#"{"config":{"Volumes":{"data":{}}}}"#,
                "cannot be a volume",
            ),
            (
                r#"{"config":{"Volumes":{"/a/../..":{}}}}"#,
                "cannot be a volume",
            ),
            (r#"{"rootfs":{"diff_ids":["md5:00"]}}"#, "bad digest"),
        ] {
            let error = ImageDocument::parse(json.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }
}
