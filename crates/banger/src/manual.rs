//! The manual, one page per command, from the definitions that also make the help. Pure.
//!
//! The sections come from `clap_mangen` but for the text behind the options: that holds examples,
//! whose lines must stay lines.

use std::io;

use clap::Command;
use clap_mangen::Man;

/// A page and its file name.
pub struct Page {
    pub file: String,
    pub text: Vec<u8>,
}

/// The pages of a command and of all below it.
///
/// # Errors
/// None in practice: pages are written to memory.
pub fn pages(command: Command) -> io::Result<Vec<Page>> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    collect(command, &mut pages)?;
    Ok(pages)
}

fn collect(command: Command, pages: &mut Vec<Page>) -> io::Result<()> {
    for below in command
        .get_subcommands()
        .filter(|below| !below.is_hide_set())
    {
        collect(below.clone(), pages)?;
    }
    pages.push(page(command)?);
    Ok(())
}

fn page(command: Command) -> io::Result<Page> {
    let after = command
        .get_after_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    let has_subcommands = command.has_subcommands();
    let man = Man::new(command)
        .source(concat!("banger ", env!("CARGO_PKG_VERSION")))
        .manual("banger");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if has_subcommands {
        man.render_subcommands_section(&mut text)?;
    }
    text.extend(behind_options(&after).into_bytes());
    Ok(Page {
        file: man.get_filename(),
        text,
    })
}

/// Examples as they are, everything else as paragraphs.
fn behind_options(help: &str) -> String {
    let mut text = String::new();
    let mut in_notes = false;
    for paragraph in help.split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
        if let Some(examples) = paragraph.strip_prefix("Examples:\n") {
            text.push_str(".SH EXAMPLES\n.nf\n");
            for line in examples.lines() {
                text.push_str(&escaped(line.strip_prefix("  ").unwrap_or(line)));
            }
            text.push_str(".fi\n");
            continue;
        }
        text.push_str(if in_notes { ".PP\n" } else { ".SH NOTES\n" });
        in_notes = true;
        for line in paragraph.lines() {
            text.push_str(&escaped(line));
        }
    }
    text
}

/// One line of text, of which roff obeys nothing.
fn escaped(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-");
    let guard = if line.starts_with(['.', '\'']) {
        "\\&"
    } else {
        ""
    };
    format!("{guard}{line}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_stay_lines_and_the_rest_is_text() {
        let help =
            "Examples:\n  banger x -f      does\n  'y' \\n\n\nOne line,\nand two.\n\n.Three.";
        assert_eq!(
            behind_options(help),
            ".SH EXAMPLES\n.nf\nbanger x \\-f      does\n\\&'y' \\en\n.fi\n\
             .SH NOTES\nOne line,\nand two.\n.PP\n\\&.Three.\n"
        );
        assert_eq!(behind_options(""), "");
    }

    #[test]
    fn every_command_has_a_page() {
        let pages = pages(crate::cli::documented()).unwrap();
        let page = |file: &str| {
            let page = pages.iter().find(|page| page.file == file);
            let text = &page.unwrap_or_else(|| panic!("no {file}")).text;
            String::from_utf8(text.clone()).unwrap()
        };
        assert!(pages.len() > 40, "{}", pages.len());
        for file in [
            "banger.1",
            "banger-vm.1",
            "banger-ps.1",
            "banger-image-pull.1",
        ] {
            assert!(page(file).contains(".SH NAME"), "{file}");
        }
        let run = page("banger-vm-run.1");
        for said in [".SH EXAMPLES", ".SH NOTES", "1 GiB", "8 GiB", "debian"] {
            assert!(run.contains(said), "{said}: {run}");
        }
        assert!(page("banger-vm.1").contains("banger\\-vm\\-run(1)"));
    }
}
