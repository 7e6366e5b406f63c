//! Columns of text: a header, and cells padded to the widest of their column.

use std::fmt::{Display, Write};

use crate::failure::{is_plain, printable};

/// Where a column's text lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// A table that is written at once.
pub struct Table {
    columns: Vec<Column>,
    /// All cells one after the other: a list may be long, and a string of its own for each cell
    /// would cost more than what is in it.
    text: String,
    /// Where each cell ends in `text`, row by row.
    ends: Vec<usize>,
}

struct Column {
    align: Align,
    width: usize,
}

/// Between two columns.
const GAP: usize = 2;

impl Table {
    pub fn new<const N: usize>(header: &[(&str, Align); N]) -> Self {
        let mut table = Table {
            columns: header
                .iter()
                .map(|(_, align)| Column {
                    align: *align,
                    width: 0,
                })
                .collect(),
            text: String::new(),
            ends: Vec::new(),
        };
        table.row(header.each_ref().map(|(name, _)| name as &dyn Display));
        table
    }

    /// Adds a row with one cell per column. Cells are made safe for a terminal here, since most
    /// come from elsewhere.
    pub fn row<const N: usize>(&mut self, cells: [&dyn Display; N]) {
        debug_assert_eq!(N, self.columns.len());
        for (cell, column) in cells.into_iter().zip(&mut self.columns) {
            let start = self.text.len();
            // Writing to a string does not fail.
            let _ = write!(self.text, "{cell}");
            if !is_plain(&self.text[start..]) {
                let cell = printable(self.text.split_off(start));
                self.text.push_str(&cell);
            }
            column.width = column.width.max(width(&self.text[start..]));
            self.ends.push(self.text.len());
        }
    }

    pub fn render(&self) -> String {
        let line: usize = self.columns.iter().map(|column| column.width + GAP).sum();
        let rows = self.ends.len() / self.columns.len().max(1);
        let mut text = String::with_capacity((line + 1) * rows);
        let mut start = 0;
        for ends in self.ends.chunks(self.columns.len().max(1)) {
            let line = text.len();
            for (end, column) in ends.iter().zip(&self.columns) {
                let cell = &self.text[start..*end];
                start = *end;
                let padding = column.width.saturating_sub(width(cell));
                let (before, after) = match column.align {
                    Align::Left => (0, padding),
                    Align::Right => (padding, 0),
                };
                pad(&mut text, before);
                text.push_str(cell);
                pad(&mut text, after + GAP);
            }
            let end = text[line..].trim_end().len();
            text.truncate(line + end);
            text.push('\n');
        }
        text
    }
}

fn pad(text: &mut String, mut count: usize) {
    const SPACES: &str = "                                ";
    while count > 0 {
        let part = count.min(SPACES.len());
        text.push_str(&SPACES[..part]);
        count -= part;
    }
}

/// Terminal cells of a text: two for the wide scripts of East Asia, none for combining marks,
/// one for all else. Coarse on purpose: names are ASCII, only comments may hold more.
fn width(text: &str) -> usize {
    if text.is_ascii() {
        return text.len();
    }
    text.chars()
        .map(|c| match u32::from(c) {
            0x0300..=0x036f | 0x200b..=0x200f | 0xfe00..=0xfe0f => 0,
            0x1100..=0x115f
            | 0x2e80..=0xa4cf
            | 0xac00..=0xd7a3
            | 0xf900..=0xfaff
            | 0xfe30..=0xfe6f
            | 0xff00..=0xff60
            | 0x1f300..=0x1faff
            | 0x20000..=0x3fffd => 2,
            _ => 1,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_tail() {
        let mut table = Table::new(&[
            ("NAME", Align::Left),
            ("SIZE", Align::Right),
            ("NOTE", Align::Left),
        ]);
        table.row([&"a", &"1 GiB", &""]);
        table.row([&"日本", &12, &"x\x1b[31m"]);
        table.row([&"e\u{301}tude", &0, &"y"]);
        assert_eq!(
            table.render(),
            "NAME    SIZE  NOTE\n\
             a      1 GiB\n\
             日本      12  x\u{fffd}[31m\n\
             e\u{301}tude      0  y\n"
        );
    }

    #[test]
    fn a_table_without_rows_is_its_header() {
        assert_eq!(Table::new(&[("NAME", Align::Left)]).render(), "NAME\n");
    }
}
