//! What one image may cost before it is refused.

/// Bounds on the work and the memory that a hostile image can cause.
///
/// Memory: an entry costs about 130 bytes beside its name, so the defaults keep the worst image
/// below 600 MiB and an ordinary one (10,000 to 200,000 entries) between 10 and 60 MiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries of all layers together, and files made from them; a directory that exists only
    /// because something lies in it counts as one.
    pub max_entries: u64,
    /// Uncompressed bytes of one layer.
    pub max_layer_bytes: u64,
    /// Apparent bytes of the base: file content that is not a hole, and metadata.
    pub max_base_bytes: u64,
    /// Bytes of names, symlink targets, attributes and hole maps held in memory, all layers.
    pub max_metadata_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        const GIB: u64 = 1 << 30;
        Limits {
            max_entries: 2_000_000,
            max_layer_bytes: 64 * GIB,
            max_base_bytes: 128 * GIB,
            max_metadata_bytes: GIB / 4,
        }
    }
}
