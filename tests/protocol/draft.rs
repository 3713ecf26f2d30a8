//! A request as `REGISTER` and `REQUEST` write it: usual headers, and what the script changes.

use std::{collections::HashMap, net::SocketAddr};

/// A request before its macros are expanded.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) method: String,
    pub(crate) uri: String,
    pub(crate) call_id: String,
    pub(crate) cseq: u32,
    pub(crate) branch: String,
    /// Name and the rest of the line, folded lines included.
    headers: Vec<(String, String)>,
    body: Vec<String>,
}

/// The CSeq last sent with each Call-ID, and the number of the last branch.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    cseqs: HashMap<String, u32>,
    branches: u32,
}

impl Numbers {
    pub(crate) fn next_cseq(&mut self, call_id: &str) -> u32 {
        let cseq = self.cseqs.entry(call_id.to_owned()).or_default();
        *cseq += 1;
        *cseq
    }

    pub(crate) fn next_branch(&mut self) -> String {
        self.branches += 1;
        format!("z9hG4bK{:06}", self.branches)
    }
}

impl Draft {
    /// A REGISTER of `target`, which is a user of the first domain or `user@domain`; any other
    /// method to `target`, which is a URI.
    pub(crate) fn new(
        method: &str,
        target: &str,
        domain: &str,
        options: &[(String, String)],
        source: SocketAddr,
        numbers: &mut Numbers,
    ) -> Result<Self, String> {
        let is_register = method == "REGISTER";
        let (uri, to) = if is_register {
            let (user, domain) = target.split_once('@').unwrap_or((target, domain));
            (format!("sip:{domain}"), format!("sip:{user}@{domain}"))
        } else {
            (target.to_owned(), target.to_owned())
        };
        let one = |name: &str| options.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
        for (key, _) in options {
            const KNOWN: [&str; 8] =
                ["contact", "expires", "cseq", "call-id", "branch", "uri", "to", "auth"];
            if !KNOWN.contains(&key.as_str()) {
                return Err(format!("{key} is no option of {method}"));
            }
        }
        let from = if is_register { to.clone() } else { format!("sip:alice@{domain}") };
        let call_id = match one("call-id") {
            Some(call_id) => call_id.to_owned(),
            None => format!("{}@{}", target.split('@').next().unwrap_or(target), source.ip())
                .replace("sip:", "")
                .replace(['[', ']', ';', '%'], "-"),
        };
        let cseq = match one("cseq") {
            Some(cseq) => {
                let cseq = cseq.parse().map_err(|_| format!("{cseq} is no CSeq"))?;
                numbers.cseqs.insert(call_id.clone(), cseq);
                cseq
            }
            None => numbers.next_cseq(&call_id),
        };
        let mut headers = vec![
            ("Via", "SIP/2.0/UDP ${source};rport;branch=${branch}".to_owned()),
            ("Max-Forwards", "70".to_owned()),
            ("From", format!("<{from}>;tag=4fa3")),
            ("To", one("to").map_or_else(|| format!("<{to}>"), str::to_owned)),
            ("Call-ID", call_id.clone()),
            ("CSeq", format!("${{cseq}} {method}")),
        ];
        let contacts = options.iter().filter(|(k, _)| k == "contact");
        headers.extend(contacts.map(|(_, contact)| ("Contact", contact.clone())));
        if let Some(expires) = one("expires") {
            headers.push(("Expires", expires.to_owned()));
        }
        if let Some(auth) = one("auth") {
            let (user, password) = auth.split_once(':').ok_or("auth=user:password")?;
            headers.push(("Authorization", format!("${{digest {user} {password}}}")));
        }
        let branch = one("branch").map_or_else(|| numbers.next_branch(), str::to_owned);
        Ok(Self {
            method: method.to_owned(),
            uri: one("uri").map_or(uri, str::to_owned),
            call_id,
            cseq,
            branch,
            headers: headers.into_iter().map(|(n, v)| (n.to_owned(), v)).collect(),
            body: Vec::new(),
        })
    }

    /// Changes what the block of the step says.
    pub(crate) fn apply(&mut self, block: &[String]) -> Result<(), String> {
        let mut written: Vec<String> = Vec::new();
        for line in block {
            if let Some(body) = line.trim_start().strip_prefix("|") {
                self.body.push(body.to_owned());
            } else if line.starts_with("    ") {
                let (_, value) = self.headers.last_mut().ok_or("there is no line to fold")?;
                value.push_str("\r\n");
                value.push_str(&line[2..]);
            } else if let Some(name) = line.trim().strip_prefix('-') {
                let before = self.headers.len();
                self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
                if self.headers.len() == before {
                    return Err(format!("there is no {name} to leave out"));
                }
            } else {
                let (name, value) =
                    line.trim_start().split_once(':').ok_or(format!("{line} is no header"))?;
                let long = long_name(name.trim());
                if !written.iter().any(|n| n.eq_ignore_ascii_case(long)) {
                    // The first one takes the place of the usual ones.
                    self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(long));
                    written.push(long.to_owned());
                }
                self.headers.push((name.to_owned(), value.trim_start().to_owned()));
            }
        }
        Ok(())
    }

    /// The same with the credentials of `arguments`, as a phone sends it after a challenge.
    pub(crate) fn answering(&self, arguments: &str, numbers: &mut Numbers) -> Self {
        let mut next = self.clone();
        next.cseq = self.cseq + 1;
        numbers.cseqs.insert(self.call_id.clone(), next.cseq);
        next.branch = numbers.next_branch();
        next.headers.retain(|(n, _)| !n.eq_ignore_ascii_case("Authorization"));
        next.headers.push(("Authorization".into(), format!("${{digest {arguments}}}")));
        next
    }

    /// The whole message, macros not expanded, but for the Content-Length.
    pub(crate) fn text(&self) -> (String, String) {
        let mut head = format!("{} {} SIP/2.0\r\n", self.method, self.uri);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let body: String = self.body.iter().map(|line| format!("{line}\r\n")).collect();
        (head, body)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(n, _)| long_name(n.trim()).eq_ignore_ascii_case(name))
    }

    /// The headers that the answer must copy, as far as they are written plainly.
    pub(crate) fn copied(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers
            .iter()
            .filter(|(_, value)| !value.contains("\r\n"))
            .map(|(name, value)| (long_name(name.trim()), value.as_str()))
    }
}

/// The long form of a compact name (RFC 3261 §7.3.3).
fn long_name(name: &str) -> &str {
    match name {
        "c" => "Content-Type",
        "e" => "Content-Encoding",
        "f" => "From",
        "i" => "Call-ID",
        "k" => "Supported",
        "l" => "Content-Length",
        "m" => "Contact",
        "t" => "To",
        "v" => "Via",
        _ => name,
    }
}
