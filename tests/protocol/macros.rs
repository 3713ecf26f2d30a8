//! `${...}` in messages and patterns.

use std::{cell::RefCell, collections::HashMap, net::SocketAddr};

use crate::{digest::Challenge, digest::credentials, expect::Answer};

/// What macros stand for at one moment of a dialogue.
pub(crate) struct Expand<'a> {
    pub(crate) source: SocketAddr,
    pub(crate) cseq: u32,
    pub(crate) branch: &'a str,
    pub(crate) method: &'a str,
    pub(crate) uri: &'a str,
    pub(crate) date: String,
    /// The last 401.
    pub(crate) challenged: Option<&'a Answer>,
    /// How often each nonce was used.
    pub(crate) counts: &'a RefCell<HashMap<String, u32>>,
}

impl Expand<'_> {
    /// `text` with all macros expanded.
    pub(crate) fn expand(&self, text: &str) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        let mut rest = text;
        while let Some((before, tail)) = rest.split_once("${") {
            out.extend_from_slice(before.as_bytes());
            let (inner, tail) = tail.split_once('}').ok_or("a macro does not end")?;
            self.one(inner, &mut out)?;
            rest = tail;
        }
        out.extend_from_slice(rest.as_bytes());
        Ok(out)
    }

    fn one(&self, inner: &str, out: &mut Vec<u8>) -> Result<(), String> {
        let (name, arguments) = inner.split_once(' ').unwrap_or((inner, ""));
        match name {
            "source" => out.extend_from_slice(self.source.to_string().as_bytes()),
            "cseq" => out.extend_from_slice(self.cseq.to_string().as_bytes()),
            "branch" => out.extend_from_slice(self.branch.as_bytes()),
            "date" => out.extend_from_slice(self.date.as_bytes()),
            "nonce" => out.extend_from_slice(self.challenge(None)?.nonce.as_bytes()),
            "hex" => {
                let digits = arguments.replace(' ', "");
                for at in (0..digits.len()).step_by(2) {
                    let pair = digits.get(at..at + 2).ok_or("odd number of hex digits")?;
                    out.push(u8::from_str_radix(pair, 16).map_err(|e| e.to_string())?);
                }
            }
            "repeat" => {
                let (text, times) = arguments.rsplit_once(' ').ok_or("repeat TEXT TIMES")?;
                let times = times.parse().map_err(|_| "repeat TEXT TIMES")?;
                // `\n` is a line end, so that a header can be repeated.
                out.extend_from_slice(text.replace("\\n", "\r\n").repeat(times).as_bytes());
            }
            "digest" => {
                let value = credentials(arguments, self)?;
                out.extend_from_slice(value.as_bytes());
            }
            _ => return Err(format!("unknown macro {inner}")),
        }
        Ok(())
    }

    /// The challenge for an algorithm, or the first of the last 401.
    pub(crate) fn challenge(&self, algorithm: Option<&str>) -> Result<Challenge, String> {
        let challenges: Vec<Challenge> = self
            .challenged
            .ok_or("there was no 401")?
            .values("WWW-Authenticate")
            .into_iter()
            .filter_map(Challenge::parse)
            .collect();
        challenges
            .iter()
            .find(|c| algorithm.is_none_or(|a| c.algorithm.eq_ignore_ascii_case(a)))
            // Who insists on an algorithm that was not offered uses the nonce that was.
            .or(challenges.first())
            .cloned()
            .ok_or("there was no challenge".into())
    }
}
