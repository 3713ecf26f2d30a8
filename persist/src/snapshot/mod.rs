//! The whole table as one text file, and its older generations.
//!
//! [`Generations::begin`] gives a [`Writer`] that streams sections to a temporary file and
//! publishes it whole. At a start [`Generations::newest`] finds the newest usable file and sets
//! damaged ones aside. [`read`] reads one file, ours or one that Yate saved; [`Checking`] and
//! [`Parts`] do so by several threads.

mod generations;
mod parts;
mod reader;
mod section;
mod text;
mod writer;

pub use generations::{Generations, Newest, SetAside};
pub use reader::{Checking, Parts, Verified, read, verify};
pub use section::{Pairs, Plain, Section};
pub use text::VERSION;
pub use writer::{Sections, Writer};

/// What a snapshot says of itself, given by whoever takes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct General {
    /// Every change up to this sequence number is covered; later ones may be.
    pub sequence: u64,
    /// When the snapshot was begun, in Unix seconds.
    pub written: u64,
    /// The first generation of the journal that may hold changes that are not covered; `None` if
    /// there was no segment of a journal, so that all there are came later.
    pub journal: Option<u32>,
    /// How many segments that generation has had since it was begun; zero if none, or if that is
    /// not known.
    pub writers: u16,
}

/// Who wrote a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This program: whole, or it would have been refused.
    Bindery {
        /// The format version.
        version: u32,
        /// What the head says.
        general: General,
    },
    /// Yate's `regfile` module: there is no telling how whole it is.
    Yate,
}

/// What was written or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Who wrote it.
    pub origin: Origin,
    /// Sections, `[general]` not counted.
    pub sections: u64,
    /// Bindings, as counted by the writer's caller; in Yate's file each section is one.
    pub bindings: u64,
    /// Sections of Yate's file left out: the last one if it was cut short, and those with no
    /// usable name. Always 0 for ours.
    pub dropped: u64,
    /// Length of the file.
    pub bytes: u64,
}
