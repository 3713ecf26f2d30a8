//! Where accounts come from.

pub mod regfile;
pub mod sql;

use std::path::Path;

use crate::auth::Secret;
use crate::config::resolve::{self, Host, Overrides};
use crate::config::settings::Config;
use crate::config::{Accepted, Findings, Place, Refused};
use crate::registrar::Policy;
use crate::subscribers::Account;

/// All that the configuration folder says.
#[derive(Debug)]
pub struct Loaded {
    /// `bindery.conf`, with the command line.
    pub config: Config,
    /// `regfile.conf`.
    pub regfile: regfile::Regfile,
}

/// Warns of what is legal, and seldom meant.
fn advise(folder: &Path, config: &Config, regfile: &regfile::Regfile, findings: &mut Findings) {
    let place = || Place::of_file(folder.join(regfile::FILE));
    let Policy { auth_required, max_bindings, .. } = config.registrar;
    if regfile.general.autocreate && !auth_required && max_bindings == 0 {
        let what = "autocreate=yes with auth_required=no and max_bindings=0: strangers can fill \
                    the memory";
        findings.warning(place(), what);
    }
    if auth_required {
        let without = |account: &Account<'_>| matches!(account.secret(), Secret::NoPassword);
        let mut silent = regfile.subscribers.iter().filter(without);
        if let Some(first) = silent.next() {
            let more = silent.count();
            let others = if more == 0 { String::new() } else { format!(" and {more} more") };
            let what =
                format!("[{first:?}]{others}: neither password nor ha1, so no way to register");
            findings.warning(place(), what);
        }
    }
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
    advise(folder, &config, &regfile, &mut findings);
    findings.finish(Loaded { config, regfile })
}
