//! A script as it is written: dialogues of steps, each with its line.

use std::{collections::HashSet, fmt, net::SocketAddr};

use crate::expect::{Expectation, Line};

/// What went wrong, and at which line.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) line: usize,
    pub(crate) what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.what)
    }
}

/// A file.
#[derive(Debug)]
pub(crate) struct Script {
    /// What stands before the first dialogue: settings for all of them.
    pub(crate) prologue: Vec<Step>,
    pub(crate) dialogues: Vec<Dialogue>,
}

/// What is played from an empty registrar on.
#[derive(Debug)]
pub(crate) struct Dialogue {
    pub(crate) name: String,
    pub(crate) steps: Vec<Step>,
}

/// One thing that is done or looked at.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) line: usize,
    pub(crate) action: Action,
}

#[derive(Debug)]
pub(crate) enum Action {
    /// `CONFIG section key=value`.
    Config { section: String, setting: String },
    /// `USER name key=value`.
    User { name: String, setting: String },
    /// `FROM address:port`.
    From(SocketAddr),
    /// `REGISTER user option=value...` or `REQUEST METHOD uri option=value...`.
    Request { method: String, target: String, options: Vec<(String, String)>, block: Vec<String> },
    /// `SEND` and the message, line by line.
    Raw { ending: Ending, lines: Vec<String> },
    /// `AUTH user password option=value...`.
    Auth(String),
    /// `REPEAT`.
    Repeat,
    /// `TIME 60s`.
    Time { millis: u64, swept: bool },
    /// `EXPECT ...`.
    Expect(Expectation),
    /// `BINDINGS aor` and a line for each.
    Bindings { aor: String, bindings: Vec<String> },
    /// `COUNTER kind name number`.
    Counter { kind: String, name: String, value: u64 },
}

impl Action {
    fn is_setting(&self) -> bool {
        matches!(self, Self::Config { .. } | Self::User { .. })
    }

    pub(crate) fn is_message(&self) -> bool {
        matches!(self, Self::Request { .. } | Self::Raw { .. } | Self::Auth(_) | Self::Repeat)
    }
}

/// How the lines of a raw message are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Each ends in CRLF.
    Crlf,
    /// Each ends in LF.
    Lf,
    /// The last has no line end.
    Cut,
    /// The last has no line end, and octets are missing behind it.
    Truncated,
}

impl Script {
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let mut script = Self { prologue: Vec::new(), dialogues: Vec::new() };
        let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line)).peekable();
        let mut names = HashSet::new();
        while let Some((number, line)) = lines.next() {
            let fail = |what: String| Failure { line: number, what };
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut block = Vec::new();
            while let Some((_, line)) = lines.next_if(|(_, l)| l.starts_with(['|', ' '])) {
                if !line.trim_start().starts_with('#') {
                    block.push(line.to_owned());
                }
            }
            if let Some(name) = line.strip_prefix("DIALOGUE ") {
                let name = name.trim();
                if name
                    .contains(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'))
                {
                    return Err(fail(format!("a name is made of a-z, 0-9 and `-`: {name}")));
                }
                if !names.insert(name.to_owned()) {
                    return Err(fail(format!("there are two dialogues {name}")));
                }
                if !block.is_empty() {
                    return Err(fail("DIALOGUE has no block".into()));
                }
                script.dialogues.push(Dialogue { name: name.to_owned(), steps: Vec::new() });
                continue;
            }
            let steps = match script.dialogues.last_mut() {
                Some(dialogue) => &mut dialogue.steps,
                None => &mut script.prologue,
            };
            let (line, outcome) = match line.rsplit_once(" => ") {
                Some((line, outcome)) => (line, Some(outcome)),
                None => (line, None),
            };
            let action = parse_action(line, block).map_err(fail)?;
            let is_message = action.is_message();
            steps.push(Step { line: number, action });
            if let Some(outcome) = outcome {
                if !is_message {
                    return Err(fail("only a message has an outcome `=>`".into()));
                }
                let expectation = Expectation::parse(outcome, &[]).map_err(fail)?;
                steps.push(Step { line: number, action: Action::Expect(expectation) });
            }
        }
        script.check()?;
        Ok(script)
    }

    /// Refuses what would pass without having shown anything.
    fn check(&self) -> Result<(), Failure> {
        if let Some(step) = self.prologue.iter().find(|s| !s.action.is_setting()) {
            let what = "before the first DIALOGUE stand CONFIG and USER only".into();
            return Err(Failure { line: step.line, what });
        }
        if self.dialogues.is_empty() {
            return Err(Failure { line: 1, what: "there is no DIALOGUE".into() });
        }
        for dialogue in &self.dialogues {
            let mut unseen = None;
            let mut begun = false;
            let mut expectations = 0;
            for step in &dialogue.steps {
                let fail = |what: &str| Err(Failure { line: step.line, what: what.into() });
                if step.action.is_setting() && begun {
                    return fail("settings stand at the start of a dialogue");
                }
                begun |= !step.action.is_setting();
                if step.action.is_message() {
                    if let Some(line) = unseen.replace(step.line) {
                        let what = "nobody looks at the answer: EXPECT is missing".into();
                        return Err(Failure { line, what });
                    }
                } else if matches!(step.action, Action::Expect(_)) {
                    expectations += 1;
                    unseen = None;
                }
            }
            if let Some(line) = unseen {
                let what = "nobody looks at the answer: EXPECT is missing".into();
                return Err(Failure { line, what });
            }
            if expectations == 0 {
                let what = format!("dialogue {} has no EXPECT", dialogue.name);
                return Err(Failure { line: dialogue.steps.first().map_or(1, |s| s.line), what });
            }
        }
        Ok(())
    }
}

fn parse_action(line: &str, block: Vec<String>) -> Result<Action, String> {
    let (directive, rest) = line.split_once(' ').unwrap_or((line, ""));
    let rest = rest.trim();
    let no_block = |action: Action| match block.first() {
        Some(line) => Err(format!("{directive} has no block: {}", line.trim())),
        None => Ok(action),
    };
    match directive {
        "CONFIG" | "USER" => {
            let (name, setting) =
                rest.split_once(' ').ok_or(format!("{directive} takes a name and key=value"))?;
            let (name, setting) = (name.to_owned(), setting.trim().to_owned());
            if !setting.contains('=') {
                return Err(format!("{setting} is no key=value"));
            }
            no_block(match directive {
                "CONFIG" => Action::Config { section: name, setting },
                _ => Action::User { name, setting },
            })
        }
        "FROM" => {
            let source = rest.parse().map_err(|_| format!("{rest} is no address and port"))?;
            no_block(Action::From(source))
        }
        "REGISTER" | "REQUEST" => {
            let mut words = rest.split_whitespace();
            let method = match directive {
                "REGISTER" => "REGISTER",
                _ => words.next().ok_or("REQUEST takes a method")?,
            };
            let target = words.next().ok_or(format!("{directive} takes a user or URI"))?;
            let options = words
                .map(|word| {
                    let (key, value) =
                        word.split_once('=').ok_or(format!("{word} is no option=value"))?;
                    Ok((key.to_owned(), value.to_owned()))
                })
                .collect::<Result<_, String>>()?;
            let (method, target) = (method.to_owned(), target.to_owned());
            Ok(Action::Request { method, target, options, block })
        }
        "SEND" => {
            let ending = match rest {
                "" => Ending::Crlf,
                "lf" => Ending::Lf,
                "cut" => Ending::Cut,
                "truncated" => Ending::Truncated,
                _ => return Err(format!("{rest} is no way to send")),
            };
            let lines = block
                .iter()
                .map(|l| Ok(l.strip_prefix('|').ok_or("a raw line begins with `|`")?.to_owned()))
                .collect::<Result<_, String>>()?;
            Ok(Action::Raw { ending, lines })
        }
        "AUTH" => no_block(Action::Auth(rest.to_owned())),
        "REPEAT" if rest.is_empty() => no_block(Action::Repeat),
        "TIME" => {
            let (amount, swept) = match rest.strip_suffix(" unswept") {
                Some(amount) => (amount, false),
                None => (rest, true),
            };
            no_block(Action::Time { millis: parse_millis(amount)?, swept })
        }
        "EXPECT" => {
            let lines: Vec<Line> =
                block.iter().map(|line| Line::parse(line)).collect::<Result<_, _>>()?;
            Ok(Action::Expect(Expectation::parse(rest, &lines)?))
        }
        "BINDINGS" => {
            let (aor, none) = match rest.split_once(' ') {
                Some((aor, "none")) => (aor, true),
                Some(_) => return Err("BINDINGS takes an AoR, and `none` or a block".into()),
                None => (rest, false),
            };
            if aor.is_empty() || none != block.is_empty() {
                return Err("BINDINGS takes an AoR, and `none` or a block".into());
            }
            let bindings = block.iter().map(|l| l.trim().to_owned()).collect();
            Ok(Action::Bindings { aor: aor.to_owned(), bindings })
        }
        "COUNTER" => {
            let words: Vec<&str> = rest.split_whitespace().collect();
            let [kind, name, value] = words[..] else {
                return Err("COUNTER takes a kind, a name and a number".into());
            };
            let value = value.parse().map_err(|_| format!("{value} is no number"))?;
            no_block(Action::Counter { kind: kind.to_owned(), name: name.to_owned(), value })
        }
        _ => Err(format!("unknown directive {line}")),
    }
}

/// `60s`, `2h`, `5m`, `500ms`.
fn parse_millis(text: &str) -> Result<u64, String> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: u64 = number.parse().map_err(|_| format!("{text} is no time"))?;
    Ok(number
        * match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(format!("{text} is no time: ms, s, m or h")),
        })
}
