//! `docs/configuration.md`, made from the keys.

use std::fmt::Write as _;

use super::Config;

/// The text of `docs/configuration.md`.
pub fn document() -> String {
    let mut text = String::from(
        "# Configuration\n\
         \n\
         `bangerd` reads one TOML file when it starts: `/etc/banger/config.toml` as root,\n\
         `$XDG_CONFIG_HOME/banger/config.toml` (usually `~/.config/banger/config.toml`) as an ordinary\n\
         user, and `config.toml` in `BANGER_ROOT` where that is set. Every key is optional. An unknown key\n\
         or a value of the wrong form is an error: the daemon does not start, and says which.\n\
         \n\
         This page is generated from `crates/bangerd/src/config.rs`; a test compares it.\n",
    );
    for key in Config::keys() {
        let doc: Vec<&str> = key.doc.lines().map(str::trim).collect();
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n## `{}`\n\n{}\n\n- Form: {}\n- Default: `{}`\n",
            key.name,
            doc.join("\n"),
            key.form,
            key.default
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// `BANGER_UPDATE_DOCS=1 cargo test -p bangerd document` writes the page anew.
    #[test]
    fn the_committed_page_is_current() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
        let current = super::document();
        if std::env::var_os("BANGER_UPDATE_DOCS").is_some() {
            std::fs::write(&file, &current).unwrap();
        }
        let committed = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            committed == current,
            "docs/configuration.md is not what the keys say: run this test with BANGER_UPDATE_DOCS=1"
        );
    }
}
