//! Texts that a user or a registry gives: references, digests, image configurations. None may
//! panic, and a reference that is accepted must be read back from its canonical text.
#![no_main]

use banger_image::config::ImageDocument;
use banger_image::digest::Digest;
use banger_image::reference::Reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = ImageDocument::parse(data);
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string().parse(), Ok(reference.clone()));
        assert!((1..=128).contains(&reference.default_name().len()));
    }
});
