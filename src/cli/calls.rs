//! `bindery calls`: the calls in progress.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use super::{
    client::{Client, ServerArgs},
    table::{Table, printable, printed, span},
};
use crate::admin::view::{CallPage, CallView};

/// Calls of one request: the server's most.
const PAGE: u64 = 1000;

/// List calls in progress
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Calls {
    /// How to reach the server; with --json, one call a line
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Runs `bindery calls`.
///
/// # Errors
/// No server answers.
pub fn run(args: &Calls) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.server)?;
    let mut out = io::stdout().lock();
    let mut calls = Vec::new();
    let mut cursor = String::new();
    loop {
        let page: CallPage = client.get(&format!("calls?limit={PAGE}{cursor}"))?;
        calls.extend(page.items);
        match page.next {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let written = if args.server.json { lines(&mut out, &calls) } else { table(&mut out, &calls) };
    printed(written.map_err(Into::into))
}

fn lines(out: &mut dyn Write, calls: &[CallView]) -> io::Result<()> {
    for call in calls {
        serde_json::to_writer(&mut *out, call)?;
        writeln!(out)?;
    }
    Ok(())
}

fn table(out: &mut dyn Write, calls: &[CallView]) -> io::Result<()> {
    if calls.is_empty() {
        return writeln!(out, "no calls");
    }
    let mut table = Table::new(["FROM", "TO", "STAGE", "SINCE", "SOURCE", "TARGET"]);
    for call in calls {
        let party = |aor: &Option<String>, user: &str| {
            printable(aor.as_deref().unwrap_or(user)).into_owned()
        };
        table.push([
            party(&call.from_aor, &call.caller),
            party(&call.to_aor, &call.called),
            call.stage.clone(),
            span(call.answered.unwrap_or(call.duration)),
            call.source.clone(),
            call.target.clone().unwrap_or_default(),
        ]);
    }
    table.write(out, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_call() {
        let call = CallView {
            id: 7,
            stage: "answered".into(),
            caller: "alice".into(),
            called: "900".into(),
            username: Some("alice".into()),
            from_aor: Some("alice@example.com".into()),
            to_aor: None,
            call_id: "x".into(),
            source: "192.0.2.1:5060".into(),
            target: Some("192.0.2.2:5060".into()),
            duration: 75,
            answered: Some(62),
        };
        let mut out = Vec::new();
        table(&mut out, std::slice::from_ref(&call)).unwrap();
        let text = String::from_utf8(out).unwrap();
        let last = text.lines().last().unwrap();
        let words: Vec<&str> = last.split_whitespace().collect();
        let expected =
            ["alice@example.com", "900", "answered", "1m02s", "192.0.2.1:5060", "192.0.2.2:5060"];
        assert_eq!(words, expected, "{text}");
        let mut out = Vec::new();
        lines(&mut out, &[call]).unwrap();
        assert_eq!(String::from_utf8(out).unwrap().lines().count(), 1);
    }
}
