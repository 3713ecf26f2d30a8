//! Output for people: aligned columns, spans of time, and nothing that could steer a terminal.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, Write},
    process::ExitCode,
};

/// Blanks between two columns.
const GAP: usize = 2;

/// A table whose columns are as wide as what they hold. It can be written in parts, so that a
/// long list is printed as it comes: a column then grows where it must.
#[derive(Debug)]
pub struct Table<const N: usize> {
    widths: [usize; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// A table whose first row is `heads`; without, if they are empty.
    pub fn new(heads: [&str; N]) -> Self {
        let mut table = Self { widths: [0; N], rows: Vec::new() };
        if heads.iter().any(|head| !head.is_empty()) {
            table.push(heads.map(str::to_owned));
        }
        table
    }

    /// Adds a row.
    pub fn push(&mut self, row: [String; N]) {
        let row = row.map(|cell| printable(&cell).into_owned());
        for (width, cell) in self.widths.iter_mut().zip(&row) {
            *width = (*width).max(cell.chars().count());
        }
        self.rows.push(row);
    }

    /// Writes the rows that were added since the last time, each after `indent`.
    ///
    /// # Errors
    /// `out`'s.
    pub fn write(&mut self, out: &mut dyn Write, indent: &str) -> io::Result<()> {
        let mut line = String::new();
        for row in self.rows.drain(..) {
            line.clear();
            line.push_str(indent);
            for (cell, width) in row.iter().zip(self.widths) {
                // Writing to a string does not fail.
                let _ = write!(line, "{cell:0$}", width + GAP);
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A text without control characters: a phone chooses its name, and must not choose the colours
/// of an operator's terminal.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_steering) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_steering(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// Control characters, and those that turn the direction of writing.
pub(super) fn is_steering(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A span of time in its two largest units: `58m12s`, `2h05m`, `3d04h`.
pub fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if days > 0 {
        format!("{days}d{:02}h", hours % 24)
    } else if hours > 0 {
        format!("{hours}h{:02}m", minutes % 60)
    } else if minutes > 0 {
        format!("{minutes}m{:02}s", seconds % 60)
    } else {
        format!("{seconds}s")
    }
}

/// A number and what it counts: `1 binding`, `2 bindings`.
pub fn count(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// The exit code of a command that has printed. A reader that has seen enough (`| head`) is no
/// error.
///
/// # Errors
/// All others.
pub fn printed(result: anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    match result {
        Err(error) if has_left(&error) => Ok(ExitCode::SUCCESS),
        other => other.map(|()| ExitCode::SUCCESS),
    }
}

/// The exit code of a command whose code tells what it found, and which stops where its reader has
/// seen enough: what was yet to come is unknown then.
///
/// # Errors
/// All but that.
pub fn told(result: anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    /// As a shell says of those that SIGPIPE has ended.
    const PIPE: u8 = 128 + 13;
    match result {
        Err(error) if has_left(&error) => Ok(ExitCode::from(PIPE)),
        other => other,
    }
}

/// Whether it is that nobody reads standard output any more.
fn has_left(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref().map(io::Error::kind);
    let json = || error.downcast_ref().and_then(serde_json::Error::io_error_kind);
    io.or_else(json) == Some(io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(["A", "LONG HEAD", ""]);
        table.push(["ä\u{1b}".into(), "b".into(), "c".into()]);
        let mut out = Vec::new();
        table.write(&mut out, " ").unwrap();
        table.push(["longer than that".into(), "b".into(), String::new()]);
        table.write(&mut out, " ").unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            " A        LONG HEAD\n ä\\u{1b}  b          c\n longer than that  b\n"
        );
    }

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(printable("Büro 1"), "Büro 1");
        assert_eq!(printable("\u{1b}[31m\u{9b}x\u{202e}"), "\\u{1b}[31m\\u{9b}x\\u{202e}");
    }

    #[test]
    fn spans() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m00s"),
            (3492, "58m12s"),
            (7500, "2h05m"),
            (86_399, "23h59m"),
            (273_600, "3d04h"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn a_reader_may_leave() {
        let broken = io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(printed(Err(broken.into())).is_ok());
        assert!(printed(Err(io::Error::from(io::ErrorKind::StorageFull).into())).is_err());
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(printed(Err(serde_json::Error::io(broken()).into())).is_ok());
        assert_eq!(told(Err(broken().into())).unwrap(), ExitCode::from(141));
        assert_eq!(told(Ok(ExitCode::FAILURE)).unwrap(), ExitCode::FAILURE);
    }
}
