//! `bindery script`: a script tried out, for those who write one.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

use super::{
    client::{Client, ServerArgs, percent_encode_into, write_json},
    table::{count, printable, printed},
};
use crate::admin::view::ScriptsView;
use crate::backend::script::{become_program, supervise, trial};
use crate::config::extmodule::{self, Extmodule, Program, Rights};
use crate::config::first_start::{FOLDERS, Located, locate};
use crate::config::{Accepted, Findings};

/// Try an external module
#[derive(Clone, Debug, clap::Args)]
pub struct Script {
    #[command(subcommand)]
    action: Action,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Action {
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
    /// Ask the scripts of a running server how they do (engine.status)
    Status {
        /// The module to ask; without it, all
        #[arg(default_value = "")]
        module: String,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Have the scripts of a running server do what a line says (engine.command); exit code 1 if none
    /// understands it
    Command {
        /// The line
        #[arg(required = true)]
        words: Vec<String>,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Run a program and take with it what it leaves behind; what scripts are started by
    #[command(hide = true)]
    Supervise {
        /// The process that it runs for
        parent: u32,
        #[command(flatten)]
        program: Launched,
    },
    /// Take these limits and become the program; what `supervise` starts
    #[command(hide = true)]
    Launch {
        #[command(flatten)]
        program: Launched,
    },
}

/// A program with its limits.
#[derive(Clone, Debug, clap::Args)]
struct Launched {
    #[arg(long)]
    files: Option<u64>,
    #[arg(long)]
    processes: Option<u64>,
    #[arg(long)]
    memory: Option<u64>,
    #[arg(long)]
    cpu: Option<u64>,
    #[arg(long, default_value_t = 0)]
    nice: u32,
    path: PathBuf,
    arg: String,
}

impl Launched {
    fn rights(&self) -> Rights {
        let Self { files, processes, memory, cpu, nice, .. } = *self;
        Rights { user: None, files, processes, memory, cpu, nice }
    }
}

/// Runs `bindery script`.
///
/// # Errors
/// The configuration can't be used, or the script can't be started.
pub fn run(args: &Script) -> anyhow::Result<ExitCode> {
    match &args.action {
        Action::Test { file, arg, config } => test(file, arg, config.as_deref()),
        Action::Status { module, server } => {
            let mut path = "scripts/status?module=".to_owned();
            percent_encode_into(module.as_bytes(), &mut path);
            let view: ScriptsView = Client::new(server)?.get(&path)?;
            if !view.handled && view.text.is_empty() && !server.json {
                anyhow::bail!("no script says that it is {}", printable(module));
            }
            show(server, &view)
        }
        Action::Command { words, server } => {
            let line = words.join(" ");
            let mut path = "scripts/command?line=".to_owned();
            percent_encode_into(line.as_bytes(), &mut path);
            let view: ScriptsView = Client::new(server)?.post(&path)?;
            if !view.handled && !server.json {
                anyhow::bail!("no script understands {}", printable(&line));
            }
            show(server, &view)
        }
        Action::Supervise { parent, program } => {
            let error = supervise(*parent, &program.rights(), &program.path, &program.arg);
            Err(error).with_context(|| program.path.display().to_string())
        }
        Action::Launch { program } => {
            let error = become_program(&program.rights(), &program.path, &program.arg);
            Err(error).with_context(|| program.path.display().to_string())
        }
    }
}

/// Prints what scripts said.
fn show(server: &ServerArgs, view: &ScriptsView) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let written = if server.json {
        write_json(&mut out, view)
    } else {
        view.text.lines().try_for_each(|line| writeln!(out, "{}", printable(line)))
    };
    printed(written.map_err(Into::into))?;
    Ok(if view.handled { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
    extmodule::startable(&program.path)
        .with_context(|| format!("{} can't be started", program.path.display()))?;
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
    let (installed, asked) = (report.installed.join(", "), count(report.asked as u64, "question"));
    say(&format!("{}: good: {asked}, all answered; it has installed {installed}", program.name));
    Ok(ExitCode::SUCCESS)
}
