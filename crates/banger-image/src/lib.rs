//! From a reference or a stream to the files a VM boots from; no root, no mount.
//!
//! - [`reference`], [`registry`]: what an image is called, and where it is fetched from
//! - [`import`]: the image root, pulls and local archives, bases by digest
//! - [`layers`], [`tar`], [`decompress`], [`limits`]: layers in, one EROFS base out
//! - [`kernel`], [`apt`]: kernels and the modules that go with them
//! - [`initramfs`]: agent and modules as one newc cpio archive
//! - [`catalog`]: images that are built on this host
//!
//! Limits: which names images have and who uses them is the daemon's to know. Programs run through
//! `banger-host` only, and credentials are given, never read.

pub mod apt;
mod archive;
mod blobs;
pub mod catalog;
pub mod config;
pub mod decompress;
pub mod digest;
mod erofs;
pub mod error;
pub mod import;
pub mod initramfs;
pub mod kernel;
pub mod layers;
pub mod limits;
mod manifest;
pub mod platform;
pub mod progress;
pub mod reference;
pub mod registry;
pub mod tar;
