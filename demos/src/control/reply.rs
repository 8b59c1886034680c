//! The answers: what goes over the wire in parts, and what it is as a whole.

use alloc::{borrow::ToOwned, string::String, vec::Vec};
use core::fmt;

use serde::{Deserialize, Serialize};

/// What separates the cells of a row.
const CELL: char = '\t';

/// A part of an answer; it ends with [`Part::Done`] or [`Part::Refused`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part<'a> {
    /// The names of a table's columns, with tabs in between; rows follow.
    Columns(&'a str),
    /// A row, with tabs between its cells.
    Row(&'a str),
    /// A line of text.
    Line(&'a str),
    /// What was asked for is done.
    Done,
    /// It was not done: why.
    Refused(&'a str),
}

impl fmt::Display for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Columns(names) => write!(f, "columns {names}"),
            Self::Row(cells) => write!(f, "row {cells}"),
            Self::Line(text) => write!(f, "line {text}"),
            Self::Done => f.write_str("ok"),
            Self::Refused(why) => write!(f, "error {why}"),
        }
    }
}

impl<'a> Part<'a> {
    /// Reads what `Display` writes; `None` if it is none.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (keyword, rest) = text.split_once(' ').unwrap_or((text, ""));
        Some(match keyword {
            "columns" => Self::Columns(rest),
            "row" => Self::Row(rest),
            "line" => Self::Line(rest),
            "ok" if rest.is_empty() => Self::Done,
            "error" => Self::Refused(rest),
            _ => return None,
        })
    }
}

/// Takes a question or a part of an answer apart into the number of the question and the rest; `None` if there is no number.
pub fn number_and_text(frame: &str) -> Option<(u32, &str)> {
    let (number, text) = frame.split_once(' ')?;
    Some((number.parse().ok()?, text))
}

/// A whole answer, as far as it has come.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The names of the table's columns, if there is a table.
    pub columns: Vec<String>,
    /// The table's rows.
    pub rows: Vec<Vec<String>>,
    /// Lines of text.
    pub lines: Vec<String>,
    /// Why it was not done.
    pub error: Option<String>,
}

impl Reply {
    /// One that only says why nothing was done.
    pub fn refused(why: impl Into<String>) -> Self {
        Self {
            error: Some(why.into()),
            ..Self::default()
        }
    }

    /// What `column` says in the row that has `value` in its column `key`; `None` if there is no such row or column.
    pub fn cell(&self, key: &str, value: &str, column: &str) -> Option<&str> {
        let place = |name: &str| self.columns.iter().position(|column| column == name);
        let (key, column) = (place(key)?, place(column)?);
        let has_value = |row: &&Vec<String>| row.get(key).is_some_and(|cell| cell == value);
        let cell = self.rows.iter().find(has_value)?.get(column)?;
        Some(cell)
    }

    /// Takes the next part; true if it is the last one.
    pub fn add(&mut self, part: Part<'_>) -> bool {
        let cells = |text: &str| text.split(CELL).map(str::to_owned).collect();
        match part {
            Part::Columns(names) => self.columns = cells(names),
            Part::Row(text) => self.rows.push(cells(text)),
            Part::Line(text) => self.lines.push(text.to_owned()),
            Part::Done => return true,
            Part::Refused(why) => {
                self.error = Some(why.to_owned());
                return true;
            }
        }
        false
    }
}

/// Lines for people: the table, the text, and `ok` or `error: ` with the reason.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = || core::iter::once(&self.columns).chain(&self.rows);
        let width = |column: usize| {
            let cells = lines().filter_map(|cells| cells.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        if !self.columns.is_empty() {
            for cells in lines() {
                let mut padding = 0;
                for (cell, width) in cells.iter().zip(&widths) {
                    write!(f, "{:padding$}{cell}", "")?;
                    padding = width - cell.chars().count() + 2;
                }
                writeln!(f)?;
            }
        }
        self.lines
            .iter()
            .try_for_each(|line| writeln!(f, "{line}"))?;
        match &self.error {
            Some(why) => writeln!(f, "error: {why}"),
            None => writeln!(f, "ok"),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::{format, string::ToString};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(kind in 0..5, text in "[ -~\t]{0,40}", number in any::<u32>()) {
            let part = match kind {
                0 => Part::Columns(&text),
                1 => Part::Row(&text),
                2 => Part::Line(&text),
                3 => Part::Done,
                _ => Part::Refused(&text),
            };
            let frame = format!("{number} {part}");
            let (read, rest) = number_and_text(&frame).expect("there is a number");
            prop_assert_eq!((read, Part::parse(rest)), (number, Some(part)));
        }

        #[test]
        fn nothing_panics(text in ".{0,40}") {
            if let Some((_, rest)) = number_and_text(&text) {
                let _ = Part::parse(rest);
            }
        }
    }

    #[test]
    fn a_table_stands_in_columns() {
        let mut reply = Reply::default();
        let parts = [
            Part::Columns("vm\tstate\tvcpus"),
            Part::Row("web\ton\t2"),
            Part::Row("database\toff\t16"),
            Part::Line("and a word"),
        ];
        for part in parts {
            assert!(!reply.add(part));
        }
        assert!(reply.add(Part::Done));
        let expected =
            "vm        state  vcpus\nweb       on     2\ndatabase  off    16\nand a word\nok\n";
        assert_eq!(reply.to_string(), expected);
    }

    #[test]
    fn a_cell_is_found_by_the_names_of_its_row_and_column() {
        let mut reply = Reply::default();
        for part in [
            "columns pool\tvm\tstate",
            "row on\toff\tpaused",
            "row 1\ton\toff",
            "row 2",
        ] {
            reply.add(Part::parse(part).expect("it is one"));
        }
        assert_eq!(reply.cell("vm", "on", "state"), Some("off"));
        assert_eq!(reply.cell("vm", "off", "pool"), Some("on"));
        assert_eq!(reply.cell("vm", "paused", "state"), None);
        assert_eq!(reply.cell("pool", "2", "state"), None);
        assert_eq!(reply.cell("vm", "on", "name"), None);
        assert_eq!(reply.cell("name", "on", "vm"), None);
    }

    #[test]
    fn a_refusal_ends_an_answer() {
        let mut reply = Reply::default();
        assert!(reply.add(Part::Refused("why")));
        assert_eq!(reply, Reply::refused("why"));
        assert_eq!(reply.to_string(), "error: why\n");
        assert_eq!(Part::parse("nonsense"), None);
        assert_eq!(Part::parse("ok or not"), None);
        assert_eq!(number_and_text("12"), None);
        assert_eq!(number_and_text("x ok"), None);
    }
}
