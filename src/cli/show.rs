//! `bindery show`: where one user's phones are.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use super::{
    client::{Client, ServerArgs, aor_path, write_json},
    table::{Table, count, printable, printed, span},
};
use crate::admin::view::{AorView, BindingView};

/// Show the bindings of an AoR
#[derive(Clone, Debug, clap::Args)]
pub struct Show {
    /// The address of record: user@domain, or the user alone where there is at most one domain
    pub aor: String,
    /// How to reach the server
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Runs `bindery show`.
///
/// # Errors
/// No server answers, or the AoR has no binding.
pub fn run(args: &Show) -> anyhow::Result<ExitCode> {
    let path = aor_path(&args.aor)?;
    let view: AorView = Client::new(&args.server)?.get(&path)?;
    let mut out = io::stdout().lock();
    let written =
        if args.server.json { write_json(&mut out, &view) } else { write(&mut out, &view) };
    printed(written.map_err(Into::into))
}

fn write(out: &mut dyn Write, view: &AorView) -> io::Result<()> {
    let bindings = count(view.bindings.len() as u64, "binding");
    writeln!(out, "{}: {bindings}", printable(&view.aor))?;
    for binding in &view.bindings {
        writeln!(out, "\n  {}{}", printable(&binding.contact), printable(&binding.params))?;
        let mut table = Table::new([""; 2]);
        for (name, value) in lines(binding) {
            table.push([name.to_owned(), value]);
        }
        table.write(out, "    ")?;
    }
    Ok(())
}

fn lines(binding: &BindingView) -> Vec<(&'static str, String)> {
    let BindingView { transport, source, call_id, cseq, .. } = binding;
    let mut from = format!("{transport} {source}");
    if let Some(listener) = &binding.listener {
        from += &format!(" on {listener}");
    }
    if let Some(local) = &binding.local {
        from += &format!(" at {local}");
    }
    let age = binding.expires_at.saturating_sub(binding.expires.into());
    let age = age.saturating_sub(binding.updated_at);
    let mut lines = vec![
        ("expires in", span(binding.expires.into())),
        ("refreshed", format!("{} ago", span(age))),
        ("from", from),
    ];
    let mut push = |name, value: &Option<String>| {
        if let Some(value) = value {
            lines.push((name, value.clone()));
        }
    };
    push("user agent", &binding.user_agent);
    push("path", &binding.path);
    lines.push(("call-id", format!("{call_id}, CSeq {cseq}")));
    lines.push(("id", binding.id.clone()));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_block_for_each_binding() {
        let plain = BindingView {
            id: "00112233aabbccdd".into(),
            contact: "sip:a@192.0.2.1".into(),
            params: ";q=0.5".into(),
            q: Some(0.5),
            expires: 3492,
            expires_at: 1_700_003_492,
            updated_at: 1_699_999_892,
            call_id: "x@y".into(),
            cseq: 7,
            source: "192.0.2.1:5062".into(),
            local: None,
            listener: Some("lan".into()),
            transport: "udp".into(),
            path: None,
            user_agent: Some("Phone\u{1b}".into()),
            instance: None,
            reg_id: None,
        };
        let proxied = BindingView {
            path: Some("<sip:p;lr>".into()),
            local: Some("192.0.2.9".into()),
            user_agent: None,
            ..plain.clone()
        };
        let view = AorView { aor: "a@example.com".into(), bindings: vec![plain, proxied] };
        let mut out = Vec::new();
        write(&mut out, &view).unwrap();
        let expected = "\
a@example.com: 2 bindings

  sip:a@192.0.2.1;q=0.5
    expires in  58m12s
    refreshed   1m48s ago
    from        udp 192.0.2.1:5062 on lan
    user agent  Phone\\u{1b}
    call-id     x@y, CSeq 7
    id          00112233aabbccdd

  sip:a@192.0.2.1;q=0.5
    expires in  58m12s
    refreshed   1m48s ago
    from        udp 192.0.2.1:5062 on lan at 192.0.2.9
    path        <sip:p;lr>
    call-id     x@y, CSeq 7
    id          00112233aabbccdd
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
