//! A request as values, and the many ways to write it down that mean the same
//! (RFC 3261 §7.3.1, §7.3.3, §25.1).

use proptest::{collection::vec, option, prelude::*};

/// A request by what it says.
#[derive(Clone, Debug)]
pub(crate) struct Values {
    pub(crate) method: String,
    pub(crate) uri: String,
    pub(crate) vias: Vec<ViaValues>,
    pub(crate) from: Address,
    pub(crate) to: Address,
    pub(crate) call_id: String,
    pub(crate) cseq: u32,
    pub(crate) contacts: Vec<Address>,
    pub(crate) tags: Vec<String>,
    pub(crate) body: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(crate) struct ViaValues {
    pub(crate) transport: String,
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
    pub(crate) params: Vec<Parameter>,
}

#[derive(Clone, Debug)]
pub(crate) struct Address {
    /// With its quotes, if it has any.
    pub(crate) display: String,
    pub(crate) uri: String,
    pub(crate) params: Vec<Parameter>,
}

pub(crate) type Parameter = (String, Option<String>);

/// A `token`, but for those that only a method or a header's name may be.
fn token() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9.!%*_+`'~-]{1,12}"
}

fn quoted() -> impl Strategy<Value = String> {
    // Blanks, separators, UTF-8, and quoted pairs.
    let piece = prop_oneof![
        4 => "[a-zA-Z0-9 ,;:<>@=]{1,6}",
        1 => Just("\\\"".to_owned()),
        1 => Just("\\\\".to_owned()),
        1 => Just("é愛".to_owned()),
    ];
    vec(piece, 0..5).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

pub(crate) fn host() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z][a-z0-9]{0,8}(\\.[a-z][a-z0-9-]{0,5}[a-z]){0,2}",
        any::<[u8; 4]>().prop_map(|octets| std::net::Ipv4Addr::from(octets).to_string()),
        any::<u128>().prop_map(|bits| format!("[{}]", std::net::Ipv6Addr::from(bits))),
    ]
}

pub(crate) fn user() -> impl Strategy<Value = String> {
    vec(prop_oneof![8 => "[a-zA-Z0-9_.!~*'()&=+$,;?/-]{1,4}", 1 => "%[0-9a-fA-F]{2}"], 1..5)
        .prop_map(|pieces| pieces.concat())
}

fn parameters() -> impl Strategy<Value = Vec<Parameter>> {
    // Not the names that a parser reads.
    let value = prop_oneof![token(), quoted(), host()];
    vec(("x[a-z0-9.+-]{0,6}", option::of(value)), 0..4)
}

pub(crate) fn sip_uri() -> impl Strategy<Value = String> {
    let param = ("[a-z]{1,6}", option::of("[a-zA-Z0-9:/%]{0,0}[a-zA-Z0-9_.:/&+$-]{1,6}"));
    let params = vec(param, 0..3);
    let port = option::of(1..=u16::MAX);
    ("sips?|SIP", option::of(user()), host(), port, params).prop_map(
        |(scheme, user, host, port, params)| {
            let mut uri = format!("{scheme}:");
            uri.extend(user.map(|user| user + "@"));
            uri += &host;
            uri.extend(port.map(|port| format!(":{port}")));
            for (name, value) in params {
                uri += &format!(";{name}");
                uri.extend(value.map(|value| format!("={value}")));
            }
            uri
        },
    )
}

fn address() -> impl Strategy<Value = Address> {
    let display = prop_oneof![
        Just(String::new()),
        quoted(),
        "[a-zA-Z0-9.!%*_+`'~-]{1,8}( [a-zA-Z0-9.!%*_+`'~-]{1,8}){0,2}",
    ];
    let uri = prop_oneof![4 => sip_uri(), 1 => "tel:\\+[0-9]{1,12}"];
    (display, uri, parameters()).prop_map(|(display, uri, params)| Address { display, uri, params })
}

fn via() -> impl Strategy<Value = ViaValues> {
    let transport = prop_oneof![Just("UDP".to_owned()), Just("TLS-SCTP".to_owned()), token()];
    (transport, host(), option::of(1..=u16::MAX), parameters())
        .prop_map(|(transport, host, port, params)| ViaValues { transport, host, port, params })
}

/// Any request but an ACK, which is never parsed to its end.
pub(crate) fn values() -> impl Strategy<Value = Values> {
    let method = prop_oneof![Just("REGISTER".to_owned()), Just("OPTIONS".to_owned()), token()];
    let method = method.prop_filter("ACK", |m| m != "ACK" && !m.starts_with("SIP"));
    let call_id = "[a-zA-Z0-9()<>:/?{}.-]{1,20}(@[a-zA-Z0-9.-]{1,20})?";
    let body = vec(any::<u8>(), 0..40);
    let (tags, vias, contacts) = (vec(token(), 0..4), vec(via(), 1..4), vec(address(), 0..4));
    (
        (method, sip_uri(), vias, address(), address()),
        (call_id, 0..1_u32 << 31, contacts, tags, body),
    )
        .prop_map(|((method, uri, vias, from, to), (call_id, cseq, contacts, tags, body))| {
            Values { method, uri, vias, from, to, call_id, cseq, contacts, tags, body }
        })
}

/// The choices that a writer takes, one after the other and from the start again. No choices write
/// the plainest form.
#[derive(Clone, Debug)]
pub(crate) struct Choices {
    octets: Vec<u8>,
    next: usize,
}

pub(crate) fn choices() -> impl Strategy<Value = Choices> {
    vec(any::<u8>(), 1..80).prop_map(|octets| Choices { octets, next: 0 })
}

impl Choices {
    pub(crate) fn none() -> Self {
        Self { octets: vec![0], next: 0 }
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        let octet = self.octets[self.next % self.octets.len()];
        self.next += 1;
        choices[usize::from(octet) % choices.len()]
    }

    /// Blanks or a fold where there may be any, or none.
    fn blank(&mut self) -> &'static str {
        self.pick(&["", " ", "", "\t", "", "\r\n ", "", "  \r\n\t "])
    }

    /// Blanks or a fold where there must be some.
    fn gap(&mut self) -> &'static str {
        self.pick(&[" ", "\t", "  ", "\r\n ", " \r\n\t"])
    }

    fn separator(&mut self, separator: &str) -> String {
        [self.blank(), separator, self.blank()].concat()
    }

    fn name(&mut self, long: &str, compact: &str) -> String {
        let name = if compact.is_empty() { long } else { self.pick(&[long, compact]) };
        let change = |at: usize, c: char| match at % 3 {
            0 => c.to_ascii_uppercase(),
            _ => c.to_ascii_lowercase(),
        };
        match self.pick(&[0, 1, 2, 3]) {
            0 => name.into(),
            1 => name.to_ascii_uppercase(),
            2 => name.to_ascii_lowercase(),
            _ => name.chars().enumerate().map(|(at, c)| change(at, c)).collect(),
        }
    }

    fn header(&mut self, long: &str, compact: &str, value: &str) -> String {
        let name = self.name(long, compact);
        let before = self.pick(&["", "", " ", "\t"]);
        let after = self.pick(&[" ", "", "  ", "\r\n "]);
        let end = self.pick(&["", "", " "]);
        format!("{name}{before}:{after}{value}{end}\r\n")
    }

    /// The elements in one header, in one each, or in some of both.
    fn list(&mut self, long: &str, compact: &str, elements: &[String]) -> String {
        let mut text = String::new();
        let mut rest = elements;
        while !rest.is_empty() {
            let count = self.pick(&[1, 2, 3]).min(rest.len());
            let (now, later) = rest.split_at(count);
            let mut value = now[0].clone();
            for element in &now[1..] {
                value += &self.separator(",");
                value += element;
            }
            text += &self.header(long, compact, &value);
            rest = later;
        }
        text
    }

    fn params(&mut self, params: &[Parameter]) -> String {
        let mut text = String::new();
        for (name, value) in params {
            text += &self.separator(";");
            text += name;
            if let Some(value) = value {
                text += &self.separator("=");
                text += value;
            }
        }
        text
    }

    fn address(&mut self, address: &Address) -> String {
        let Address { display, uri, params } = address;
        // A URI with parameters of its own, or with a comma or question mark, needs its brackets.
        let is_bare = display.is_empty() && !uri.contains([';', '?', ',']);
        let params = self.params(params);
        if is_bare && self.pick(&[false, true]) {
            return uri.clone() + &params;
        }
        let gap = if display.is_empty() { "" } else { self.gap() };
        format!("{display}{gap}<{uri}>{params}")
    }

    fn via(&mut self, via: &ViaValues) -> String {
        let ViaValues { transport, host, port, params } = via;
        let (one, two) = (self.separator("/"), self.separator("/"));
        let gap = self.gap();
        let port = port.map(|port| format!("{}{port}", self.separator(":"))).unwrap_or_default();
        format!("SIP{one}2.0{two}{transport}{gap}{host}{port}{}", self.params(params))
    }
}

impl Values {
    /// The request in one of its spellings.
    pub(crate) fn spell(&self, mut choices: Choices) -> Vec<u8> {
        let c = &mut choices;
        let vias: Vec<_> = self.vias.iter().map(|via| c.via(via)).collect();
        let contacts: Vec<_> = self.contacts.iter().map(|contact| c.address(contact)).collect();
        let (from, to) = (c.address(&self.from), c.address(&self.to));
        let cseq = format!("{}{}{}", self.cseq, c.gap(), self.method);
        let mut headers = [
            c.list("Via", "v", &vias),
            c.header("From", "f", &from),
            c.header("To", "t", &to),
            c.header("Call-ID", "i", &self.call_id),
            c.header("CSeq", "", &cseq),
            c.list("Contact", "m", &contacts),
            c.list("Supported", "k", &self.tags),
            c.header("Content-Length", "l", &self.body.len().to_string()),
            c.header("X-Unknown", "", c.clone().pick(&["", "x", ";;,,", "\"", "<"])),
        ];
        // Headers of different names may come in any order.
        let turns = c.pick(&[0, 3, 6]);
        headers.rotate_left(turns);
        let start = c.pick(&["", "", "\r\n", "\r\n\r\n"]);
        let version = c.pick(&["SIP/2.0", "SIP/2.0", "sip/2.0"]);
        let mut text = format!("{start}{} {} {version}\r\n", self.method, self.uri);
        text += &headers.concat();
        text += "\r\n";
        if c.pick(&[false, false, true]) {
            text = text.replace("\r\n", "\n");
        }
        [text.as_bytes(), &self.body].concat()
    }
}
