//! `bindery script`: a script tried out, for those who write one.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

use crate::backend::script::{become_program, trial};
use crate::config::extmodule::{self, Extmodule, Program, Rights};
use crate::config::first_start::{FOLDERS, Located, locate};
use crate::config::{Accepted, Findings};

/// Try an external module
#[derive(Clone, Debug, clap::Args)]
pub struct Script {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Command {
    /// Start a script, ask it what a REGISTER and a call would ask, and print the dialogue; exit code
    /// 1 if it installs nothing, or does not answer
    Test {
        /// The script, as extmodule.conf names it, or its path
        file: PathBuf,
        /// Its argument [default: an empty one]
        #[arg(default_value = "", hide_default_value = true)]
        arg: String,
        /// The folder with extmodule.conf [default: ./conf, else /etc/bindery]
        #[arg(long, value_name = "DIR")]
        config: Option<PathBuf>,
    },
    /// Take these limits and become the program; what scripts are started by
    #[command(hide = true)]
    Launch {
        #[arg(long)]
        files: Option<u64>,
        #[arg(long)]
        processes: Option<u64>,
        #[arg(long)]
        memory: Option<u64>,
        #[arg(long)]
        cpu: Option<u64>,
        path: PathBuf,
        arg: String,
    },
}

/// Runs `bindery script`.
///
/// # Errors
/// The configuration can't be used, or the script can't be started.
pub fn run(args: &Script) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Test { file, arg, config } => test(file, arg, config.as_deref()),
        Command::Launch { files, processes, memory, cpu, path, arg } => {
            let (files, processes, memory, cpu) = (*files, *processes, *memory, *cpu);
            let rights = Rights { user: None, files, processes, memory, cpu };
            let error = become_program(&rights, path, arg);
            Err(error).with_context(|| path.display().to_string())
        }
    }
}

fn test(file: &Path, arg: &str, config: Option<&Path>) -> anyhow::Result<ExitCode> {
    let mut findings = Findings::default();
    let written = match locate(config, &FOLDERS)? {
        Located::Folder(folder) => extmodule::read(&folder, &mut findings),
        Located::Nowhere(_) => None,
    };
    let Accepted { value: Extmodule { module, scripts, .. }, .. } =
        findings.finish(written.unwrap_or_default())?;
    let is_it = |program: &&Program| {
        Path::new(&*program.name) == file
            || program.path.canonicalize().is_ok_and(|p| file.canonicalize().is_ok_and(|f| f == p))
    };
    let mut program = scripts.iter().find(is_it).cloned().unwrap_or_else(|| Program {
        name: file.display().to_string().into(),
        path: if file.is_absolute() { file.to_owned() } else { Path::new(".").join(file) },
        ..Program::default()
    });
    if !arg.is_empty() {
        program.arg = arg.into();
    }
    let say = |line: &str| {
        // Whoever has stopped reading is not told.
        let _ = writeln!(io::stdout().lock(), "{line}");
    };
    let report = trial::run(&program, &module, say)
        .with_context(|| format!("{} can't be started", program.path.display()))?;
    for fault in &report.faults {
        say(&format!("{}: {fault}", program.name));
    }
    if !report.faults.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    say(&format!("{}: good (messages: {})", program.name, report.installed));
    Ok(ExitCode::SUCCESS)
}
