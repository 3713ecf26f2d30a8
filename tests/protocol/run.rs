//! Plays a dialogue, step by step.

use std::{cell::RefCell, collections::HashMap, net::SocketAddr};

use crate::{
    bench::Bench,
    draft::{Draft, Numbers},
    expect::{self, Answer, Came, indent, matches},
    macros::Expand,
    script::{Action, Dialogue, Ending, Failure, Script, Step},
};

/// Where requests come from until a script says otherwise.
const SOURCE: &str = "192.0.2.1:5060";

/// Plays one dialogue against an empty registrar.
pub(crate) fn play(script: &Script, dialogue: &Dialogue) -> Result<(), Failure> {
    let (mut settings, mut users) = (Vec::new(), Vec::new());
    for step in script.prologue.iter().chain(&dialogue.steps) {
        match &step.action {
            Action::Config { section, setting } => {
                settings.push((section.clone(), setting.clone()))
            }
            Action::User { name, setting } => users.push((name.clone(), setting.clone())),
            _ => {}
        }
    }
    let line = dialogue.steps.first().map_or(1, |step| step.line);
    let bench = Bench::new(&settings, &users).map_err(|what| Failure { line, what })?;
    let mut player = Player {
        bench,
        source: SOURCE.parse().expect("an address"),
        numbers: Numbers::default(),
        counts: RefCell::default(),
        last: None,
        came: None,
        before: None,
        challenged: None,
    };
    for Step { line, action } in &dialogue.steps {
        player.step(action).map_err(|what| Failure { line: *line, what })?;
    }
    Ok(())
}

struct Player {
    bench: Bench,
    source: SocketAddr,
    numbers: Numbers,
    /// How often each nonce was used.
    counts: RefCell<HashMap<String, u32>>,
    last: Option<Sent>,
    came: Option<Came>,
    /// The answer before what came last.
    before: Option<Answer>,
    /// The last 401.
    challenged: Option<Answer>,
}

/// A datagram that was sent.
#[derive(Clone)]
struct Sent {
    bytes: Vec<u8>,
    truncated: bool,
    /// What it was made from, unless it was raw.
    draft: Option<Draft>,
    /// The headers that its answer must copy.
    copied: Vec<(String, String)>,
}

impl Player {
    fn step(&mut self, action: &Action) -> Result<(), String> {
        match action {
            Action::Config { .. } | Action::User { .. } => Ok(()),
            Action::From(source) => {
                self.source = *source;
                Ok(())
            }
            Action::Request { method, target, options, block } => {
                let domain = self.bench.domain();
                let mut draft =
                    Draft::new(method, target, domain, options, self.source, &mut self.numbers)?;
                draft.apply(block)?;
                self.send_draft(draft)
            }
            Action::Auth(arguments) => {
                let draft = self.last.as_ref().and_then(|sent| sent.draft.as_ref());
                let draft = draft.ok_or("AUTH follows REGISTER or REQUEST")?;
                let draft = draft.answering(arguments, &mut self.numbers);
                self.send_draft(draft)
            }
            Action::Raw { ending, lines } => {
                let (end, is_last_ended) = match ending {
                    Ending::Crlf => ("\r\n", true),
                    Ending::Lf => ("\n", true),
                    Ending::Cut | Ending::Truncated => ("\r\n", false),
                };
                let mut text = lines.join(end);
                if is_last_ended && !lines.is_empty() {
                    text.push_str(end);
                }
                let bytes = self.expand(None).expand(&text)?;
                let truncated = *ending == Ending::Truncated;
                self.send(Sent { bytes, truncated, draft: None, copied: Vec::new() });
                Ok(())
            }
            Action::Repeat => {
                let sent = self.last.clone().ok_or("there is nothing to repeat")?;
                self.send(sent);
                Ok(())
            }
            Action::Time { millis, swept } => {
                self.bench.pass(*millis, *swept);
                Ok(())
            }
            Action::Expect(expectation) => {
                let came = self.came.as_ref().ok_or("nothing was sent")?;
                expect::check(expectation, came, self.before.as_ref(), &self.expand(None))?;
                match (came, &self.last) {
                    (Came::Answer(answer), Some(sent)) => answer
                        .check_copied(&sent.copied)
                        .map_err(|what| format!("{what}\n  got:\n{}", indent(&answer.text))),
                    _ => Ok(()),
                }
            }
            Action::Bindings { aor, bindings } => self.check_bindings(aor, bindings),
            Action::Counter { kind, name, value } => {
                let counted = self.bench.counter(kind, name)?;
                if counted == *value {
                    return Ok(());
                }
                Err(format!("expected {kind} {name} to be {value}, it is {counted}"))
            }
        }
    }

    fn expand<'a>(&'a self, draft: Option<&'a Draft>) -> Expand<'a> {
        Expand {
            source: self.source,
            cseq: draft.map_or(0, |d| d.cseq),
            branch: draft.map_or("z9hG4bKraw", |d| &d.branch),
            method: draft.map_or("REGISTER", |d| &d.method),
            uri: draft.map_or("sip:example.com", |d| &d.uri),
            date: self.bench.date(),
            challenged: self.challenged.as_ref(),
            counts: &self.counts,
        }
    }

    fn send_draft(&mut self, draft: Draft) -> Result<(), String> {
        let (head, body) = draft.text();
        let expand = self.expand(Some(&draft));
        let (mut bytes, body) = (expand.expand(&head)?, expand.expand(&body)?);
        if !draft.has("Content-Length") {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&body);
        let copied = draft
            .copied()
            .filter(|(name, _)| ["From", "To", "Call-ID", "CSeq"].contains(name))
            .map(|(name, value)| {
                let value = String::from_utf8_lossy(&expand.expand(value)?).trim().to_owned();
                Ok((name.to_owned(), value))
            })
            .collect::<Result<_, String>>()?;
        self.send(Sent { bytes, truncated: false, draft: Some(draft), copied });
        Ok(())
    }

    fn send(&mut self, sent: Sent) {
        let came = self.bench.send(self.source, &sent.bytes, sent.truncated);
        if let Some(Came::Answer(before)) = self.came.take() {
            self.before = Some(before);
        }
        if let Came::Answer(answer) = &came
            && answer.status_line().starts_with("SIP/2.0 401 ")
        {
            self.challenged = Some(answer.clone());
        }
        self.came = Some(came);
        self.last = Some(sent);
    }

    fn check_bindings(&self, aor: &str, expected: &[String]) -> Result<(), String> {
        let expand = self.expand(None);
        let key = self.bench.aor(&expand.expand(aor)?);
        let stored = self.bench.bindings(&key);
        let mut fit = stored.len() == expected.len();
        for (line, (uri, facts)) in expected.iter().zip(&stored) {
            let line = String::from_utf8_lossy(&expand.expand(line)?).into_owned();
            let mut words = line.split_whitespace();
            fit &= words.next().is_some_and(|pattern| matches(pattern, uri));
            for word in words {
                let (key, pattern) =
                    word.split_once('=').ok_or(format!("{word} is no key=pattern"))?;
                let (_, value) = facts
                    .iter()
                    .find(|(k, _)| *k == key)
                    .ok_or(format!("a binding has no {key}"))?;
                fit &= matches(pattern, value);
            }
        }
        if fit {
            return Ok(());
        }
        let stored: Vec<String> = stored
            .iter()
            .map(|(uri, facts)| {
                let facts: Vec<String> = facts.iter().map(|(k, v)| format!("{k}={v}")).collect();
                format!("{uri} {}", facts.join(" "))
            })
            .collect();
        Err(format!(
            "expected these bindings of {}, in order:\n{}\n  there are:\n{}",
            key.escape_ascii(),
            indent(&expected.join("\n")),
            indent(&stored.join("\n"))
        ))
    }
}
