//! What a script expects, and whether an answer is that.

use std::net::SocketAddr;

use crate::macros::Expand;

/// `EXPECT`.
#[derive(Clone, Debug)]
pub(crate) enum Expectation {
    /// No answer, for this reason.
    Silence(String),
    /// An answer with this status.
    Answer { code: u16, phrase: Option<String>, lines: Vec<Line> },
    /// The answer before, octet by octet.
    Same,
    /// An answer that shows no difference to the one before but in names and random values: the
    /// same status line, the same headers in the same order, the same size.
    Alike,
}

/// A line of the block under `EXPECT`.
#[derive(Clone, Debug)]
pub(crate) enum Line {
    /// `Name: pattern`.
    Header { name: String, pattern: String },
    /// `-Name`: there is none.
    Absent(String),
    /// `@to address:port`.
    To(SocketAddr),
    /// `@size <= 1.2x`: of the request's size.
    Ratio(f64),
}

impl Line {
    pub(crate) fn parse(line: &str) -> Result<Self, String> {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('-') {
            return Ok(Self::Absent(name.to_owned()));
        }
        if let Some(to) = line.strip_prefix("@to ") {
            return Ok(Self::To(to.parse().map_err(|_| format!("{to} is no address and port"))?));
        }
        if let Some(ratio) = line.strip_prefix("@size <= ").and_then(|r| r.strip_suffix('x')) {
            return Ok(Self::Ratio(ratio.parse().map_err(|_| format!("{ratio} is no ratio"))?));
        }
        let (name, pattern) =
            line.split_once(':').ok_or(format!("{line} is no `Name: pattern`"))?;
        if name.is_empty() || name.contains(|c: char| !c.is_ascii_alphanumeric() && c != '-') {
            return Err(format!("{line} is no `Name: pattern`"));
        }
        Ok(Self::Header { name: name.to_owned(), pattern: pattern.trim().to_owned() })
    }
}

impl Expectation {
    pub(crate) fn parse(text: &str, lines: &[Line]) -> Result<Self, String> {
        let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
        let bare = |it: Self| match (rest, lines) {
            ("", []) => Ok(it),
            _ => Err(format!("{text} says too much")),
        };
        match first {
            "silence" if rest.is_empty() || !lines.is_empty() => {
                Err("silence takes a reason and no block".into())
            }
            "silence" => Ok(Self::Silence(rest.to_owned())),
            "same" => bare(Self::Same),
            "alike" => bare(Self::Alike),
            _ => {
                let code = first.parse().ok().filter(|code| (100..700).contains(code));
                let code = code.ok_or(format!("{first} is no status code"))?;
                let phrase = (!rest.is_empty()).then(|| rest.to_owned());
                Ok(Self::Answer { code, phrase, lines: lines.to_vec() })
            }
        }
    }
}

/// What came of a datagram.
#[derive(Clone, Debug)]
pub(crate) enum Came {
    /// Nothing, for this reason.
    Silence(&'static str),
    Answer(Answer),
}

/// An answer and what it answers.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) to: SocketAddr,
    pub(crate) source: SocketAddr,
    pub(crate) request: Vec<u8>,
}

impl Answer {
    pub(crate) fn status_line(&self) -> &str {
        self.text.lines().next().unwrap_or_default()
    }

    /// All headers, in order.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.text.split("\r\n").skip(1).filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name, value.strip_prefix(' ').unwrap_or(value)))
        })
    }

    /// The values of all headers of this name.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        self.headers().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v).collect()
    }

    /// What any answer of a registrar must be, whatever it answers.
    fn check_always(&self) -> Result<(), String> {
        let body = self.text.split_once("\r\n\r\n").ok_or("the header block does not end")?.1;
        if !body.is_empty() || self.values("Content-Length") != ["0"] {
            return Err("there is a body, or no Content-Length of 0".into());
        }
        if self.text.replace("\r\n", "").contains(['\r', '\n']) {
            return Err("there is a line end that is no CRLF".into());
        }
        if self.to.ip() != self.source.ip() {
            // DESIGN: an answer goes to its source address only.
            return Err(format!("it goes to {}, not to {}", self.to, self.source));
        }
        if self.text.starts_with("SIP/2.0 6") {
            // RFC 3261 §10.3.
            return Err("a registrar sends no 6xx".into());
        }
        if !self.values("Record-Route").is_empty() {
            // RFC 3261 §10.3.
            return Err("a registrar sends no Record-Route".into());
        }
        for name in ["From", "To", "Call-ID", "CSeq"] {
            if self.values(name).len() > 1 {
                return Err(format!("there are several {name}"));
            }
        }
        Ok(())
    }

    /// What stands in the answer because it stood in the request (RFC 3261 §8.2.6.2).
    pub(crate) fn check_copied(&self, sent: &[(String, String)]) -> Result<(), String> {
        let sent = |name: &str| {
            sent.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
        };
        for name in ["From", "Call-ID", "CSeq"] {
            if let Some(value) = sent(name)
                && self.values(name) != [value]
            {
                return Err(format!("{name} is not the request's"));
            }
        }
        if let Some(value) = sent("To") {
            let tagged = format!("{value};tag=*");
            let answer = self.values("To");
            let is_tagged = value.contains(";tag=");
            if !matches!(answer[..], [to] if if is_tagged { to == value } else { matches(&tagged, to) })
            {
                return Err("To is not the request's with a tag".into());
            }
        }
        Ok(())
    }
}

/// Whether what came is what a script expects; `before` is the answer before it.
pub(crate) fn check(
    expectation: &Expectation,
    came: &Came,
    before: Option<&Answer>,
    expand: &Expand<'_>,
) -> Result<(), String> {
    let answer = match (expectation, came) {
        (Expectation::Silence(reason), Came::Silence(came)) if reason == came => return Ok(()),
        (_, Came::Silence(came)) => return Err(format!("there was silence: {came}")),
        (_, Came::Answer(answer)) => answer,
    };
    judge(expectation, answer, before, expand).map_err(|what| {
        let Answer { text, to, .. } = answer;
        format!("{what}\n  got, to {to}:\n{}", indent(text))
    })
}

fn judge(
    expectation: &Expectation,
    answer: &Answer,
    before: Option<&Answer>,
    expand: &Expand<'_>,
) -> Result<(), String> {
    answer.check_always()?;
    match expectation {
        Expectation::Silence(reason) => Err(format!("expected silence: {reason}")),
        Expectation::Same => {
            let before = before.ok_or("there is no answer before")?;
            if before.text == answer.text && before.to == answer.to {
                return Ok(());
            }
            Err(format!("expected the same as before:\n{}", indent(&before.text)))
        }
        Expectation::Alike => {
            let before = before.ok_or("there is no answer before")?;
            let names = |a: &Answer| a.headers().map(|(n, _)| n.to_owned()).collect::<Vec<_>>();
            if before.status_line() == answer.status_line()
                && names(before) == names(answer)
                && before.text.len() == answer.text.len()
            {
                return Ok(());
            }
            Err(format!("expected one that looks like this:\n{}", indent(&before.text)))
        }
        Expectation::Answer { code, phrase, lines } => {
            let status = format!("SIP/2.0 {code} {}", phrase.as_deref().unwrap_or("*"));
            if !matches(&status, answer.status_line()) {
                return Err(format!("expected {status}"));
            }
            check_lines(lines, answer, expand)
        }
    }
}

fn check_lines(lines: &[Line], answer: &Answer, expand: &Expand<'_>) -> Result<(), String> {
    let mut patterns: Vec<(&str, Vec<String>)> = Vec::new();
    for line in lines {
        match line {
            Line::Header { name, pattern } => {
                let pattern = String::from_utf8_lossy(&expand.expand(pattern)?).into_owned();
                match patterns.iter_mut().find(|(n, _)| n.eq_ignore_ascii_case(name)) {
                    Some((_, all)) => all.push(pattern),
                    None => patterns.push((name, vec![pattern])),
                }
            }
            Line::Absent(name) => {
                if !answer.values(name).is_empty() {
                    return Err(format!("expected no {name}"));
                }
            }
            Line::To(to) => {
                if answer.to != *to {
                    return Err(format!("expected it to go to {to}"));
                }
            }
            Line::Ratio(most) => {
                let (asked, answered) = (answer.request.len(), answer.text.len());
                #[expect(clippy::cast_precision_loss, reason = "sizes of datagrams")]
                let ratio = answered as f64 / asked as f64;
                if ratio > *most {
                    return Err(format!(
                        "expected at most {most} times the request's size: {asked} octets drew \
                         {answered}, that is {ratio:.2}"
                    ));
                }
            }
        }
    }
    for (name, patterns) in patterns {
        let values = answer.values(name);
        let fit = values.len() == patterns.len()
            && values.iter().zip(&patterns).all(|(value, pattern)| matches(pattern, value));
        if !fit {
            return Err(format!(
                "expected these {name}, in order:\n{}",
                indent(&patterns.join("\n"))
            ));
        }
    }
    Ok(())
}

/// Whether `text` is `pattern`, in which `*` stands for anything and `\*` for itself.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    fn go(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'\\', b'*', rest @ ..] => {
                text.split_first().is_some_and(|(b, t)| *b == b'*' && go(rest, t))
            }
            [b'*'] => true,
            [b'*', rest @ ..] => (0..=text.len()).any(|at| go(rest, &text[at..])),
            [octet, rest @ ..] => {
                text.split_first().is_some_and(|(b, t)| b == octet && go(rest, t))
            }
        }
    }
    go(pattern.as_bytes(), text.as_bytes())
}

pub(crate) fn indent(text: &str) -> String {
    text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}
