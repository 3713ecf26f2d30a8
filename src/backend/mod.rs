//! Where accounts come from.

pub mod regfile;

use std::path::Path;

use crate::config::resolve::{self, Host, Overrides};
use crate::config::settings::Config;
use crate::config::{Accepted, Findings, Refused};

/// All that the configuration folder says.
#[derive(Debug)]
pub struct Loaded {
    /// `bindery.conf`, with the command line.
    pub config: Config,
    /// `regfile.conf`.
    pub regfile: regfile::Regfile,
}

/// Reads all files of the configuration folder, at start, at a reload and for `check`.
///
/// # Errors
/// [`Refused`] with every mistake of every file: nothing is taken unless all is valid.
pub fn load(
    folder: &Path,
    overrides: &Overrides,
    host: &Host,
) -> Result<Accepted<Loaded>, Refused> {
    let mut findings = Findings::default();
    let config = resolve::read(folder, overrides, host, &mut findings);
    let regfile = regfile::read(folder, &config, &mut findings);
    findings.finish(Loaded { config, regfile })
}
