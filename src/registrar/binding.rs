//! A binding, and its packed form inside an [`AorRecord`](super::AorRecord).

use std::net::{IpAddr, SocketAddr};

use crate::{
    flow::{Flow, ListenerId, Transport},
    sip::{
        header::{Params, Quality},
        uri,
    },
    time::Deadline,
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
    /// When it was last refreshed, Unix seconds: it outlives the process.
    pub updated: u32,
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

/// Flag bits of the packed form.
const REMOTE_V6: u8 = 1;
const LOCAL_V4: u8 = 2;
const LOCAL_V6: u8 = 4;

/// Octets before the addresses and texts of the packed form.
const FIXED: usize = 31;

/// `q` of a binding without one.
const NO_Q: u16 = u16::MAX;

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
    /// 0  deadline u32   4  updated u32   8  cseq u32   12 branch u32   16 q u16
    /// 18 flags u8       19 listener u8   20 transport u8   21 remote port u16
    /// 23 uri length u16   25 params length u16   27 path length u16
    /// 29 call-id length u8   30 agent length u8
    /// 31 remote address 4 or 16, local address 0, 4 or 16, uri, params, path, call-id, agent
    /// ```
    ///
    /// A text longer than its length field is refused: `None`, and `out` is as it was.
    pub fn encode_into(&self, out: &mut Vec<u8>) -> Option<()> {
        let uri_len = u16::try_from(self.uri.len()).ok()?;
        let params_len = u16::try_from(self.params.len()).ok()?;
        let path_len = u16::try_from(self.path.len()).ok()?;
        let call_id_len = u8::try_from(self.call_id.len()).ok()?;
        let agent_len = u8::try_from(self.agent.len()).ok()?;

        let mut flags = 0;
        if self.flow.remote.is_ipv6() {
            flags |= REMOTE_V6;
        }
        match self.flow.local {
            Some(IpAddr::V4(_)) => flags |= LOCAL_V4,
            Some(IpAddr::V6(_)) => flags |= LOCAL_V6,
            None => {}
        }
        out.extend_from_slice(&self.deadline.0.to_le_bytes());
        out.extend_from_slice(&self.updated.to_le_bytes());
        out.extend_from_slice(&self.cseq.to_le_bytes());
        out.extend_from_slice(&self.branch.to_le_bytes());
        out.extend_from_slice(&self.q.map_or(NO_Q, |q| q.0).to_le_bytes());
        out.extend_from_slice(&[flags, self.flow.listener.0, self.flow.transport.code()]);
        out.extend_from_slice(&self.flow.remote.port().to_le_bytes());
        out.extend_from_slice(&uri_len.to_le_bytes());
        out.extend_from_slice(&params_len.to_le_bytes());
        out.extend_from_slice(&path_len.to_le_bytes());
        out.extend_from_slice(&[call_id_len, agent_len]);
        put_ip(self.flow.remote.ip(), out);
        if let Some(local) = self.flow.local {
            put_ip(local, out);
        }
        for text in [self.uri, self.params, self.path, self.call_id, self.agent] {
            out.extend_from_slice(text);
        }
        Some(())
    }

    /// Overwrites what a refresh changes in the packed form at the start of `packed`.
    pub(super) fn set_numbers(
        packed: &mut [u8],
        deadline: Deadline,
        updated: u32,
        cseq: u32,
        branch: u32,
    ) {
        let (words, _) = packed.as_chunks_mut::<4>();
        for (octets, word) in words.iter_mut().zip([deadline.0, updated, cseq, branch]) {
            *octets = word.to_le_bytes();
        }
    }

    /// Reads the packed form at the start of `bytes`; the second half is what follows it.
    pub fn decode(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (fixed, mut rest) = bytes.split_at_checked(FIXED)?;
        let u16_at = |at: usize| u16::from_le_bytes([fixed[at], fixed[at + 1]]);
        let u32_at = |at: usize| {
            u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]])
        };
        let flags = fixed[18];
        let ip = take_ip(&mut rest, flags & REMOTE_V6 != 0)?;
        let local = if flags & (LOCAL_V4 | LOCAL_V6) == 0 {
            None
        } else {
            Some(take_ip(&mut rest, flags & LOCAL_V6 != 0)?)
        };
        let mut text = |len: usize| {
            let (text, tail) = rest.split_at_checked(len)?;
            rest = tail;
            Some(text)
        };
        let q = u16_at(16);
        let binding = Self {
            deadline: Deadline(u32_at(0)),
            updated: u32_at(4),
            cseq: u32_at(8),
            branch: u32_at(12),
            q: (q != NO_Q).then_some(Quality(q)),
            flow: Flow {
                listener: ListenerId(fixed[19]),
                transport: Transport::from_code(fixed[20])?,
                local,
                remote: SocketAddr::new(ip, u16_at(21)),
            },
            uri: text(usize::from(u16_at(23)))?,
            params: text(usize::from(u16_at(25)))?,
            path: text(usize::from(u16_at(27)))?,
            call_id: text(usize::from(fixed[29]))?,
            agent: text(usize::from(fixed[30]))?,
        };
        Some((binding, rest))
    }
}

fn put_ip(ip: IpAddr, out: &mut Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
}

fn take_ip(bytes: &mut &[u8], v6: bool) -> Option<IpAddr> {
    if v6 {
        let (octets, rest) = bytes.split_first_chunk::<16>()?;
        *bytes = rest;
        Some(IpAddr::from(*octets))
    } else {
        let (octets, rest) = bytes.split_first_chunk::<4>()?;
        *bytes = rest;
        Some(IpAddr::from(*octets))
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
            updated: 1_700_000_007,
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
