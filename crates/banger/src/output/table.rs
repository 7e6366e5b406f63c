//! Columns of text: a header, and cells padded to the widest of their column.

use crate::failure::printable;

/// Where a column's text lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// A table that is written at once.
pub struct Table {
    columns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

/// Between two columns.
const GAP: usize = 2;

impl Table {
    pub fn new(header: &[(&str, Align)]) -> Self {
        Table {
            columns: header.iter().map(|(_, align)| *align).collect(),
            rows: vec![header.iter().map(|(name, _)| (*name).to_owned()).collect()],
        }
    }

    /// Adds a row with one cell per column. Cells are made safe for a terminal here, since most
    /// come from elsewhere.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.columns.len());
        self.rows.push(cells.map(printable).into());
    }

    pub fn render(&self) -> String {
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| {
                self.rows
                    .iter()
                    .filter_map(|row| row.get(column))
                    .map(|cell| width(cell))
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let line: usize = widths.iter().sum::<usize>() + GAP * widths.len() + 1;
        let mut text = String::with_capacity(line * self.rows.len());
        for row in &self.rows {
            let start = text.len();
            for ((cell, align), wanted) in row.iter().zip(&self.columns).zip(&widths) {
                let padding = wanted.saturating_sub(width(cell));
                let (before, after) = match align {
                    Align::Left => (0, padding),
                    Align::Right => (padding, 0),
                };
                text.extend(std::iter::repeat_n(' ', before));
                text.push_str(cell);
                text.extend(std::iter::repeat_n(' ', after + GAP));
            }
            let end = text[start..].trim_end().len();
            text.truncate(start + end);
            text.push('\n');
        }
        text
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
        table.row(["a".into(), "1 GiB".into(), String::new()]);
        table.row(["日本".into(), "12".into(), "x\x1b[31m".into()]);
        table.row(["e\u{301}tude".into(), "0".into(), "y".into()]);
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
