//! Small images made in memory, by the letter of the specification.

use std::collections::BTreeMap;
use std::io::Write;

use banger_image::digest::Digest;
use serde_json::{Value, json};

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A tar archive of regular files.
pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in files {
        archive.extend_from_slice(&header(name, b'0', "", content.len()));
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// One ustar header.
pub fn header(name: &str, kind: u8, target: &str, size: usize) -> [u8; 512] {
    let mut header = [0; 512];
    let mut put = |offset: usize, text: &str| {
        header[offset..offset + text.len()].copy_from_slice(text.as_bytes());
    };
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    put(148, "        ");
    put(157, target);
    put(257, "ustar\x0000");
    header[156] = kind;
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Bytes that no compression makes smaller, different for each seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// An image: its blobs, and the digest of its manifest.
#[derive(Clone, Default)]
pub struct TestImage {
    pub blobs: BTreeMap<Digest, Vec<u8>>,
    pub manifest: Vec<u8>,
    pub layers: Vec<Digest>,
}

impl TestImage {
    /// Gzip layers of these archives, on amd64.
    pub fn new(archives: &[Vec<u8>]) -> TestImage {
        let layers = archives
            .iter()
            .map(|archive| {
                (
                    format!("{OCI_LAYER}+gzip"),
                    gzip(archive),
                    Digest::of(archive),
                )
            })
            .collect();
        TestImage::of(layers, json!({"os": "linux", "architecture": "amd64"}))
    }

    /// One layer with one file.
    pub fn with_file(name: &str, content: &[u8]) -> TestImage {
        TestImage::new(&[tar(&[(name, content)])])
    }

    /// Layers as media type, bytes and diff id; `config` is completed with the diff ids.
    pub fn of(layers: Vec<(String, Vec<u8>, Digest)>, mut config: Value) -> TestImage {
        let mut image = TestImage::default();
        let diff_ids: Vec<_> = layers.iter().map(|(_, _, id)| id.to_string()).collect();
        config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
        let config = image.put(OCI_CONFIG, config.to_string().into_bytes());
        let mut described = Vec::new();
        for (media_type, bytes, _) in layers {
            image.layers.push(Digest::of(&bytes));
            described.push(image.put(&media_type, bytes));
        }
        image.manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": config, "layers": described,
        })
        .to_string()
        .into_bytes();
        image
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    fn put(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let descriptor = descriptor(media_type, &bytes);
        self.blobs.insert(Digest::of(&bytes), bytes);
        descriptor
    }
}

pub fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({
        "mediaType": media_type,
        "digest": Digest::of(bytes).to_string(),
        "size": bytes.len(),
    })
}

/// Operating system and architecture.
pub type Runs<'a> = Option<(&'a str, &'a str)>;

/// An index of manifests, each with its media type and its platform or none.
pub fn index(manifests: &[(&str, &[u8], Runs<'_>)]) -> Vec<u8> {
    let entries: Vec<_> = manifests
        .iter()
        .map(|(media_type, bytes, platform)| {
            let mut entry = descriptor(media_type, bytes);
            if let Some((os, architecture)) = platform {
                entry["platform"] = json!({"os": os, "architecture": architecture});
            }
            entry
        })
        .collect();
    json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
        .to_string()
        .into_bytes()
}
