//! Tables for people.

use std::fmt::Write;

/// Columns of text, as wide as they need to be, with two spaces between them.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|title| title.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let header: Vec<_> = header.iter().map(|title| (*title).to_owned()).collect();
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            write!(line, "{cell:width$}  ").expect("a String takes everything");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Text that came from elsewhere, on one line of at most `most` characters, without anything that a
/// terminal would obey.
pub(crate) fn cell(text: &str, most: usize) -> String {
    let plain = text
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c });
    let mut cell: String = plain.clone().take(most).collect();
    if plain.count() > most {
        cell.pop();
        cell.push('…');
    }
    cell
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["a".to_owned(), "long".to_owned()],
            vec!["bbbb".to_owned(), String::new()],
        ];
        assert_eq!(table(&["X", "Y"], &rows), "X     Y\na     long\nbbbb\n");
    }

    #[test]
    fn a_cell_cannot_drive_the_terminal() {
        assert_eq!(cell("a\x1b[2Jb", 20), "a\u{fffd}[2Jb");
        assert_eq!(cell("abcdef", 4), "abc…");
    }
}
