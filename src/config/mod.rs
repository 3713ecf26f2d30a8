//! The configuration folder: Yate's `.conf` files, read with file and line kept for every key.
//!
//! [`lines`] knows the grammar of one file, [`conf`] follows includes and conditionals and builds
//! a tree, and [`resolve`] turns `bindery.conf` into a [`settings::Config`] that is valid by
//! construction. Nothing here stops at the first mistake: [`Findings`] collects all of them.

pub mod bounds;
pub mod cdrfile;
pub mod conf;
pub mod databases;
pub mod edit;
pub mod extmodule;
pub mod first_start;
pub mod hooks;
pub mod lenient;
pub mod lines;
pub mod nearest;
pub mod register;
pub mod replace;
pub mod resolve;
pub mod section;
pub mod settings;
pub mod store;
pub mod values;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where something was written: a file and a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named on the command line or in an include.
    pub file: Arc<Path>,
    /// The line, counted from one; zero means the file as a whole.
    pub line: u32,
}

impl Place {
    /// The file as a whole.
    pub fn of_file(file: impl Into<Arc<Path>>) -> Self {
        Self { file: file.into(), line: 0 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}", self.file.display())
        } else {
            write!(f, "{}:{}", self.file.display(), self.line)
        }
    }
}

/// One sentence about one place, for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub place: Place,
    /// What was found there, and what was expected.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// How many errors and how many warnings are kept: more than anybody reads, and few enough for a
/// file that is no text at all.
pub const MAX_FAULTS: usize = 1000;

/// All that was found while reading: errors refuse the configuration, warnings don't.
///
/// Of each, the first [`MAX_FAULTS`] are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What must be mended before the configuration can be used.
    pub errors: Vec<Fault>,
    /// What is legal but not what the operator may think.
    pub warnings: Vec<Fault>,
    /// The files that were read, includes among them; one that was read twice may be there twice.
    pub files: Vec<PathBuf>,
}

impl Findings {
    /// Notes an error.
    pub fn error(&mut self, place: Place, what: impl Into<String>) {
        if self.errors.len() < MAX_FAULTS {
            self.errors.push(Fault { place, what: what.into() });
        }
    }

    /// Notes a warning.
    pub fn warning(&mut self, place: Place, what: impl Into<String>) {
        if self.warnings.len() < MAX_FAULTS {
            self.warnings.push(Fault { place, what: what.into() });
        }
    }

    /// Adds what was found elsewhere.
    pub fn append(&mut self, other: Self) {
        self.errors.extend(other.errors);
        self.errors.truncate(MAX_FAULTS);
        self.warnings.extend(other.warnings);
        self.warnings.truncate(MAX_FAULTS);
        self.files.extend(other.files);
    }

    /// `value`, unless an error was found: a configuration is taken whole or not at all.
    ///
    /// # Errors
    /// [`Refused`] with all errors.
    pub fn finish<T>(mut self, value: T) -> Result<Accepted<T>, Refused> {
        // Stable: what was found first stays first within a line.
        let order = |fault: &Fault| (Arc::clone(&fault.place.file), fault.place.line);
        self.errors.sort_by_key(order);
        self.warnings.sort_by_key(order);
        if self.errors.is_empty() {
            Ok(Accepted { value, warnings: self.warnings, files: self.files })
        } else {
            Err(Refused { errors: self.errors, warnings: self.warnings })
        }
    }
}

/// What was read, with what the operator should hear about it.
#[derive(Debug)]
pub struct Accepted<T> {
    /// What was read.
    pub value: T,
    /// See [`Findings::warnings`].
    pub warnings: Vec<Fault>,
    /// See [`Findings::files`].
    pub files: Vec<PathBuf>,
}

/// A configuration that can't be used; it prints one line for each error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// See [`Findings::errors`].
    pub errors: Vec<Fault>,
    /// See [`Findings::warnings`].
    pub warnings: Vec<Fault>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = self.errors.iter();
        if let Some(first) = lines.next() {
            write!(f, "{first}")?;
        }
        lines.try_for_each(|fault| write!(f, "\n{fault}"))
    }
}

impl std::error::Error for Refused {}
