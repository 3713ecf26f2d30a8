//! What a query gives.

use std::sync::Arc;

/// How many rows of one answer are kept. A handler looks at the first, or at a few routes; what a
/// query without its WHERE sends is read and dropped.
pub const MAX_ROWS: usize = 1000;

/// One row: each column's text, `None` for NULL.
pub type Row = Box<[Option<Box<str>>]>;

/// The answer to a query, all of it text as the engine's own client shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// The names of the columns.
    pub columns: Arc<[Box<str>]>,
    /// The first [`MAX_ROWS`] rows.
    pub rows: Vec<Row>,
    /// How many rows were inserted, deleted, or matched by an UPDATE, changed or not.
    pub affected: u64,
}

impl Rows {
    /// The text in the column called `column` of a row; `None` if it is NULL or isn't there.
    pub fn value(&self, row: usize, column: &str) -> Option<&str> {
        let position = self.position(column)?;
        self.rows.get(row)?.get(position)?.as_deref()
    }

    /// Where the column called `column` is.
    pub fn position(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|name| **name == *column)
    }

    /// The columns of a row that aren't NULL, with their names.
    pub fn named(&self, row: usize) -> impl Iterator<Item = (&str, &str)> {
        let row = self.rows.get(row).map_or(&[][..], |row| row);
        let named = self.columns.iter().zip(row);
        named.filter_map(|(name, value)| Some((&**name, value.as_deref()?)))
    }
}

/// Where rows go while they arrive.
pub(super) enum Sink<'s> {
    /// Into the answer.
    Keep(Rows),
    /// To somebody who wants them one by one.
    Tell(&'s mut (dyn FnMut(&[Box<str>], Row) + Send), Rows),
}

impl Sink<'_> {
    fn rows_mut(&mut self) -> &mut Rows {
        match self {
            Sink::Keep(rows) | Sink::Tell(_, rows) => rows,
        }
    }

    /// A statement returns columns: its rows take the place of those of any before.
    pub(super) fn columns(&mut self, columns: Arc<[Box<str>]>) {
        let rows = self.rows_mut();
        rows.columns = columns;
        rows.rows.clear();
    }

    pub(super) fn row(&mut self, row: Row) {
        match self {
            Sink::Keep(rows) if rows.rows.len() < MAX_ROWS => rows.rows.push(row),
            Sink::Keep(_) => {}
            Sink::Tell(told, rows) => told(&rows.columns, row),
        }
    }

    /// A statement changed this many rows.
    pub(super) fn affected(&mut self, affected: u64) {
        self.rows_mut().affected = affected;
    }

    pub(super) fn into_rows(self) -> Rows {
        match self {
            Sink::Keep(rows) | Sink::Tell(_, rows) => rows,
        }
    }
}
