//! The `bindery` program.

use std::process::ExitCode;

use bindery::cli::{
    bench, calls, check, db, list, processor, reload, remove, script, serve, show, snapshot, state,
    stats, users,
};
use clap::{Parser, Subcommand};

/// Workers allocate only when a binding is added or changes its length, but then from all of
/// them at once, and what one allocates another frees.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A carrier-edge SIP registrar: keeps track of where every phone is, and passes calls on to them
#[derive(Debug, Parser)]
#[command(name = "bindery", version, arg_required_else_help = true)]
struct Bindery {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Check(check::Check),
    Db(db::Db),
    Users(users::Users),
    Show(show::Show),
    List(list::List),
    Calls(calls::Calls),
    Remove(remove::Remove),
    Script(script::Script),
    Stats(stats::Stats),
    Reload(reload::Reload),
    Snapshot(snapshot::Snapshot),
    State(state::State),
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    if let Err(lack) = processor::check() {
        eprintln!("bindery: {lack}");
        return ExitCode::FAILURE;
    }
    let result = match Bindery::parse().command {
        Command::Serve(args) => serve::run(args),
        Command::Check(args) => check::run(&args),
        Command::Db(args) => db::run(&args),
        Command::Users(args) => users::run(&args),
        Command::Show(args) => show::run(&args),
        Command::List(args) => list::run(&args),
        Command::Calls(args) => calls::run(&args),
        Command::Remove(args) => remove::run(&args),
        Command::Script(args) => script::run(&args),
        Command::Stats(args) => stats::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Snapshot(args) => snapshot::run(&args),
        Command::State(args) => state::run(&args),
        Command::Bench(args) => bench::run(&args),
    };
    result.unwrap_or_else(|error| match error.downcast_ref::<clap::Error>() {
        Some(usage) => usage.exit(),
        None => {
            eprintln!("bindery: {}", sentence(&error));
            ExitCode::FAILURE
        }
    })
}

/// An error with what led to it, unless it says that itself.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |mut said, cause| {
        let cause = cause.to_string();
        if !said.ends_with(&cause) {
            said = if said.is_empty() { cause } else { format!("{said}: {cause}") };
        }
        said
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::sentence;

    #[test]
    fn no_cause_is_said_twice() {
        #[derive(Debug, thiserror::Error)]
        #[error("it can't be read: {0}")]
        struct Outer(#[source] std::io::Error);
        let error = anyhow::Error::from(Outer(std::io::Error::other("gone")));
        assert_eq!(sentence(&error), "it can't be read: gone");
        let error = Err::<(), _>(std::io::Error::other("gone")).context("no start").unwrap_err();
        assert_eq!(sentence(&error), "no start: gone");
    }
}
