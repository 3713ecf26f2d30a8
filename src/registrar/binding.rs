//! A binding, and its packed form inside an [`AorRecord`](super::AorRecord).

use std::net::SocketAddr;

use super::agent;
use crate::{
    flow::{Flow, ListenerId, Transport},
    packed::{put_ip, put_text, take, take_ip, take_text},
    sip::{
        header::{Params, Quality},
        uri,
    },
    time::{Deadline, Moment},
};

/// One binding of an AoR to a contact, borrowed from the record that stores it or from the
/// request that asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding<'a> {
    /// The Contact URI as it came.
    pub uri: &'a [u8],
    /// The Contact's header parameters as they came, each with its semicolon, without `expires`.
    pub params: &'a [u8],
    /// `q`, which is also among `params`.
    pub q: Option<Quality>,
    /// When it ends.
    pub deadline: Deadline,
    /// When it was last refreshed.
    pub updated: Moment,
    /// Call-ID of the request that last changed it.
    pub call_id: &'a [u8],
    /// CSeq of that request.
    pub cseq: u32,
    /// A hash of the topmost Via's branch of that request: tells a retransmission from a
    /// reused CSeq.
    pub branch: u32,
    /// Where that request came from.
    pub flow: Flow,
    /// All Path values (RFC 3327), joined by commas; empty without.
    pub path: &'a [u8],
    /// User-Agent, at most [`MAX_AGENT`] octets of it.
    pub agent: &'a [u8],
}

/// Octets of a User-Agent that are kept: it is for people to read, no rule depends on it.
pub const MAX_AGENT: usize = 255;

/// Octets of the longest Call-ID that a binding can have.
const MAX_CALL_ID: usize = 255;

/// Flag bits of the packed form, above the three of the transport.
const REMOTE_V6: u16 = 1 << 3;
const LOCAL_V4: u16 = 1 << 4;
const LOCAL_V6: u16 = 1 << 5;
const HAS_LISTENER: u16 = 1 << 6;
const HAS_Q: u16 = 1 << 7;
const HAS_PARAMS: u16 = 1 << 8;
const HAS_PATH: u16 = 1 << 9;
const AGENT_IS_NUMBER: u16 = 1 << 10;
const TRANSPORT: u16 = 7;

/// Octets of the packed form that every binding has.
const FIXED: usize = 20;

impl<'a> Binding<'a> {
    /// `+sip.instance` with its quotes (RFC 5626 §4.1).
    pub fn instance(&self) -> Option<&'a [u8]> {
        Params::new(self.params).find("+sip.instance")?.value
    }

    /// `reg-id` (RFC 5626 §4.2).
    pub fn reg_id(&self) -> Option<u32> {
        let value = Params::new(self.params).find("reg-id")?.value?;
        std::str::from_utf8(value).ok()?.parse().ok()
    }

    /// Whether a contact with this URI and these parameters is this binding: the same instance
    /// and reg-id where both name an instance (RFC 5626 §6), else an equal URI
    /// (RFC 3261 §19.1.4).
    pub fn matches(&self, uri: &[u8], instance: Option<&[u8]>, reg_id: Option<u32>) -> bool {
        match (self.instance(), instance) {
            (Some(mine), Some(other)) => {
                mine.eq_ignore_ascii_case(other) && self.reg_id() == reg_id
            }
            _ => uri::equal(self.uri, uri),
        }
    }

    /// A number for this binding that holds as long as its contact or instance does; for people
    /// and programs to name it by.
    pub fn id(&self) -> u64 {
        use std::hash::Hasher;
        let mut hasher = siphasher::sip::SipHasher13::new();
        match self.instance() {
            Some(instance) => {
                hasher.write(instance);
                hasher.write_u32(self.reg_id().unwrap_or(0));
            }
            None => hasher.write(self.uri),
        }
        hasher.finish()
    }

    /// Appends the packed form:
    ///
    /// ```text
    /// 0  deadline u32   4  updated i32   8  cseq u32   12 branch u32   16 flags u16
    /// 18 remote port u16   20 remote address 4 or 16
    /// then what the flags name: local address 4 or 16, listener u8, q u16
    /// then, each after its length: uri, params, path, call-id, agent
    /// ```
    ///
    /// Without params or path their length isn't there either, and most agents are a number of two
    /// octets. A length is one octet, or 255 and two more.
    ///
    /// A text longer than its bound is refused: `None`, and `out` is as it was.
    pub fn encode_into(&self, out: &mut Vec<u8>) -> Option<()> {
        self.encode_with(agent::known(self.agent), out)
    }

    /// [`Binding::encode_into`] with the number of its agent.
    pub(super) fn encode_with(&self, agent: Option<u16>, out: &mut Vec<u8>) -> Option<()> {
        let is_long = |text: &[u8]| u16::try_from(text.len()).is_err();
        if is_long(self.uri)
            || is_long(self.params)
            || is_long(self.path)
            || self.call_id.len() > MAX_CALL_ID
            || self.agent.len() > MAX_AGENT
        {
            return None;
        }
        let mut flags = u16::from(self.flow.transport.code());
        let mut flag = |bit, is_set| flags |= if is_set { bit } else { 0 };
        flag(REMOTE_V6, self.flow.remote.is_ipv6());
        flag(LOCAL_V4, self.flow.local.is_some_and(|ip| ip.is_ipv4()));
        flag(LOCAL_V6, self.flow.local.is_some_and(|ip| ip.is_ipv6()));
        flag(HAS_LISTENER, self.flow.listener != ListenerId(0));
        flag(HAS_Q, self.q.is_some());
        flag(HAS_PARAMS, !self.params.is_empty());
        flag(HAS_PATH, !self.path.is_empty());
        flag(AGENT_IS_NUMBER, agent.is_some());

        out.extend_from_slice(&self.deadline.0.to_le_bytes());
        out.extend_from_slice(&self.updated.0.to_le_bytes());
        out.extend_from_slice(&self.cseq.to_le_bytes());
        out.extend_from_slice(&self.branch.to_le_bytes());
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&self.flow.remote.port().to_le_bytes());
        put_ip(self.flow.remote.ip(), out);
        if let Some(local) = self.flow.local {
            put_ip(local, out);
        }
        if flags & HAS_LISTENER != 0 {
            out.push(self.flow.listener.0);
        }
        if let Some(Quality(q)) = self.q {
            out.extend_from_slice(&q.to_le_bytes());
        }
        put_text(self.uri, out);
        for text in [self.params, self.path].into_iter().filter(|text| !text.is_empty()) {
            put_text(text, out);
        }
        put_text(self.call_id, out);
        match agent {
            Some(number) => out.extend_from_slice(&number.to_le_bytes()),
            None => put_text(self.agent, out),
        }
        Some(())
    }

    /// Overwrites what a refresh changes in the packed form at the start of `packed`.
    pub(super) fn set_numbers(
        packed: &mut [u8],
        deadline: Deadline,
        updated: Moment,
        cseq: u32,
        branch: u32,
    ) {
        let (words, _) = packed.as_chunks_mut::<4>();
        for (octets, word) in
            words.iter_mut().zip([deadline.0, updated.0.cast_unsigned(), cseq, branch])
        {
            *octets = word.to_le_bytes();
        }
    }

    /// Reads the packed form at the start of `bytes`; the second half is what follows it.
    pub fn decode(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (fixed, mut rest) = bytes.split_first_chunk::<FIXED>()?;
        let rest = &mut rest;
        let u16_at = |at: usize| u16::from_le_bytes([fixed[at], fixed[at + 1]]);
        let u32_at = |at: usize| {
            u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]])
        };
        let flags = u16_at(16);
        let has = |bit: u16| flags & bit != 0;
        let transport = Transport::from_code(u8::try_from(flags & TRANSPORT).ok()?)?;
        let ip = take_ip(rest, has(REMOTE_V6))?;
        let local = match has(LOCAL_V4 | LOCAL_V6) {
            true => Some(take_ip(rest, has(LOCAL_V6))?),
            false => None,
        };
        let listener = if has(HAS_LISTENER) { take::<1>(rest)? } else { [0] };
        let q = if has(HAS_Q) { Some(Quality(u16::from_le_bytes(take(rest)?))) } else { None };
        let uri = take_text(rest)?;
        let params = if has(HAS_PARAMS) { take_text(rest)? } else { b"" };
        let path = if has(HAS_PATH) { take_text(rest)? } else { b"" };
        let call_id = take_text(rest)?;
        let agent = match has(AGENT_IS_NUMBER) {
            true => agent::name_of(u16::from_le_bytes(take(rest)?))?,
            false => take_text(rest)?,
        };
        let binding = Self {
            deadline: Deadline(u32_at(0)),
            updated: Moment(u32_at(4).cast_signed()),
            cseq: u32_at(8),
            branch: u32_at(12),
            q,
            flow: Flow {
                listener: ListenerId(listener[0]),
                transport,
                local,
                remote: SocketAddr::new(ip, u16_at(18)),
            },
            uri,
            params,
            path,
            call_id,
            agent,
        };
        Some((binding, rest))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A binding of `uri` with everything set.
    pub(crate) fn binding(uri: &[u8]) -> Binding<'_> {
        Binding {
            uri,
            params: b";q=0.5;x",
            q: Some(Quality(500)),
            deadline: Deadline(3600),
            updated: Moment(7),
            call_id: b"call@host",
            cseq: 42,
            branch: 0xdead_beef,
            flow: Flow {
                listener: ListenerId(1),
                transport: Transport::Udp,
                local: None,
                remote: "192.0.2.1:5062".parse().unwrap(),
            },
            path: b"<sip:p1;lr>,<sip:p2;lr>",
            agent: b"Phone/1.0",
        }
    }

    #[test]
    fn packed_form_round_trips() {
        let v4 = binding(b"sip:a@192.0.2.1");
        let mut v6 = binding(b"sip:a@[::1]");
        v6.flow.remote = "[2001:db8::1]:5060".parse().unwrap();
        v6.flow.local = Some("2001:db8::2".parse().unwrap());
        v6.q = None;
        let mut local_v4 = v4;
        local_v4.flow.local = Some("192.0.2.9".parse().unwrap());
        let mut bytes = Vec::new();
        v4.encode_into(&mut bytes).unwrap();
        let first_len = bytes.len();
        v6.encode_into(&mut bytes).unwrap();
        local_v4.encode_into(&mut bytes).unwrap();
        let (first, rest) = Binding::decode(&bytes).unwrap();
        let (second, rest) = Binding::decode(rest).unwrap();
        let (third, rest) = Binding::decode(rest).unwrap();
        assert_eq!((first, second, third, rest), (v4, v6, local_v4, &[][..]));
        for len in 0..first_len {
            assert_eq!(Binding::decode(&bytes[..len]), None);
        }
    }

    #[test]
    fn matching() {
        let plain = binding(b"sip:a@192.0.2.1");
        let mut outbound = binding(b"sip:a@192.0.2.1");
        outbound.params = br#";+sip.instance="<urn:uuid:A>";reg-id=1"#;
        let a = Some(&br#""<urn:uuid:a>""#[..]);
        let b = Some(&br#""<urn:uuid:b>""#[..]);
        assert!(plain.matches(b"sip:a@192.0.2.1;x=y", None, None));
        assert!(!plain.matches(b"sip:a@192.0.2.2", None, None));
        assert!(outbound.matches(b"sip:elsewhere", a, Some(1)));
        assert!(!outbound.matches(b"sip:elsewhere", a, Some(2)));
        assert!(!outbound.matches(b"sip:elsewhere", a, None));
        assert!(!outbound.matches(b"sip:a@192.0.2.1", b, Some(1)));
        // A phone that starts, or stops, to name its instance is still the same contact.
        assert!(outbound.matches(b"sip:a@192.0.2.1", None, None));
        assert!(plain.matches(b"sip:a@192.0.2.1", a, Some(1)));
    }
}
