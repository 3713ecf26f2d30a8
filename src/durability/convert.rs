//! Records as sections of a snapshot, and back.
//!
//! A section opens with what Yate understands (`driver`, `data`, `expires` of the best binding),
//! so that its regfile module can load the file. Our own keys follow, numbered by binding.

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use persist::snapshot::{Plain, Section};

use super::change::{Listeners, ends_at};
use crate::{
    flow::{Flow, Transport},
    hex::{octets_into, parse_hex, to_hex},
    registrar::{AorRecord, Binding, RecordWriter, nat},
    sip::{
        header::{Params, Quality},
        uri::{SipUri, is_well_formed},
    },
    time::{Deadline, Moment, Now},
};

/// What Yate puts before a contact: the channel driver.
const DRIVER: &str = "sip";
const DATA_PREFIX: &[u8] = b"sip/";

/// Octets of the longest nonce counts that a record has.
const NONCES_MAX: usize = 255;

/// The keys and values of one section, in space that is used for the next one again.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    text: Vec<u8>,
    /// Where each key and its value end in `text`.
    ends: Vec<(usize, usize)>,
}

impl Pairs {
    /// The keys and values, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut start = 0;
        self.ends.iter().map(move |&(key_end, end)| {
            let pair = (&self.text[start..key_end], &self.text[key_end..end]);
            start = end;
            pair
        })
    }

    fn put(&mut self, key: &str, value: impl FnOnce(&mut Vec<u8>)) {
        self.text.extend_from_slice(key.as_bytes());
        self.put_value(value);
    }

    /// A key of the binding with this number; one without a value is left out.
    fn put_numbered(&mut self, key: &str, number: u64, value: impl FnOnce(&mut Vec<u8>)) {
        let start = self.text.len();
        self.text.extend_from_slice(key.as_bytes());
        self.text.push(b'.');
        put_number(&mut self.text, number);
        if self.put_value(value) == 0 {
            self.ends.pop();
            self.text.truncate(start);
        }
    }

    fn put_value(&mut self, value: impl FnOnce(&mut Vec<u8>)) -> usize {
        let key_end = self.text.len();
        value(&mut self.text);
        self.ends.push((key_end, self.text.len()));
        self.text.len() - key_end
    }
}

fn put_number(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Writing to memory can't fail.
fn put_display(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    let _ = write!(out, "{value}");
}

/// Puts the section of a record into `pairs`; the result is how many bindings it has. `None` if
/// none is in force and no nonce was used lately.
pub(super) fn section(
    record: &AorRecord<'_>,
    now: Now,
    listeners: &[Box<str>],
    pairs: &mut Pairs,
) -> Option<u64> {
    pairs.text.clear();
    pairs.ends.clear();
    let best = record.bindings(now).max_by_key(|b| (b.q.unwrap_or(Quality::DEFAULT), b.updated));
    if let Some(best) = best {
        pairs.put("driver", |out| out.extend_from_slice(DRIVER.as_bytes()));
        pairs.put("data", |out| {
            out.extend_from_slice(DATA_PREFIX);
            nat::reachable_uri_into(best.uri, &best.flow, out);
        });
        pairs.put("expires", |out| put_number(out, best.deadline.to_unix(now)));
    } else if record.nonces().is_empty() {
        return None;
    }
    pairs.put("sequence", |out| put_number(out, record.sequence()));
    if !record.nonces().is_empty() {
        pairs.put("nonces", |out| out.extend_from_slice(to_hex(record.nonces()).as_bytes()));
    }
    let mut bindings = 0;
    for (n, binding) in (1..).zip(record.bindings(now)) {
        bindings = n;
        let Binding { uri, params, deadline, updated, call_id, cseq, branch, .. } = binding;
        let Binding { flow, path, agent, .. } = binding;
        let listener = listeners.get(usize::from(flow.listener.0)).map_or("", |name| name);
        let mut text = |key: &str, value: &[u8]| {
            pairs.put_numbered(key, n, |out| out.extend_from_slice(value));
        };
        text("contact", uri);
        text("params", params);
        text("call_id", call_id);
        text("path", path);
        text("agent", agent);
        text("listener", listener.as_bytes());
        text("transport", flow.transport.name().as_bytes());
        pairs.put_numbered("remote", n, |out| put_display(out, flow.remote));
        if let Some(local) = flow.local {
            pairs.put_numbered("local", n, |out| put_display(out, local));
        }
        pairs.put_numbered("expires", n, |out| put_number(out, deadline.to_unix(now)));
        pairs.put_numbered("updated", n, |out| put_number(out, updated.to_unix(now)));
        pairs.put_numbered("cseq", n, |out| put_number(out, cseq));
        pairs.put_numbered("branch", n, |out| put_display(out, format_args!("{branch:08x}")));
    }
    Some(bindings)
}

/// Packs the record of a section into `out`. Bindings that have ended are there, with a deadline
/// that is past: what the journal has of them may make them last.
///
/// # Errors
/// What can't be read.
pub(super) fn record_of_section(
    aor: &[u8],
    section: &Section<'_>,
    now: Now,
    listeners: &dyn Listeners,
    out: &mut Vec<u8>,
) -> Result<Unpacked, &'static str> {
    if let Some(unpacked) = usual_record_into(aor, section.plain(), now, listeners, out) {
        return Ok(unpacked);
    }
    let owned: Vec<_> = section.pairs().collect();
    record_into(aor, owned.iter().map(|(key, value)| (*key, &**value)), now, listeners, out)
}

/// [`record_into`] of the lines of nearly every section: one binding, and the keys as [`section`]
/// orders them. `None` if anything is otherwise; that says nothing of whether it can be read.
///
/// A start reads ten million of these, and to look for what can stand anywhere takes three times as
/// long as to see that it is where it always is.
fn usual_record_into(
    aor: &[u8],
    mut lines: Plain<'_>,
    now: Now,
    listeners: &dyn Listeners,
    out: &mut Vec<u8>,
) -> Option<Unpacked> {
    lines.take(b"driver=")?;
    lines.take(b"data=")?;
    decimal::<u64>(lines.take(b"expires=")?)?;
    let sequence = decimal(lines.take(b"sequence=")?)?;
    let mut nonces = [0; NONCES_MAX];
    let nonces = match lines.take(b"nonces=") {
        Some(digits) => octets_into(digits, &mut nonces)?,
        None => &[],
    };
    let contact = lines.take(b"contact.1=")?;
    let params = lines.take(b"params.1=").unwrap_or_default();
    let call_id = lines.take(b"call_id.1=").unwrap_or_default();
    let path = lines.take(b"path.1=").unwrap_or_default();
    let agent = lines.take(b"agent.1=").unwrap_or_default();
    let listener = lines.take(b"listener.1=").unwrap_or_default();
    let transport = Transport::from_name(str::from_utf8(lines.take(b"transport.1=")?).ok()?)?;
    let remote = str::from_utf8(lines.take(b"remote.1=")?).ok()?.parse().ok()?;
    let local = match lines.take(b"local.1=") {
        Some(ip) => Some(str::from_utf8(ip).ok()?.parse().ok()?),
        None => None,
    };
    let binding = Numbered {
        contact: Some(contact),
        params,
        expires: Some(decimal(lines.take(b"expires.1=")?)?),
        updated: Some(decimal(lines.take(b"updated.1=")?)?),
        call_id,
        cseq: decimal(lines.take(b"cseq.1=")?)?,
        branch: u32::from_be_bytes(parse_hex(lines.take(b"branch.1=")?)?),
        transport: Some(transport),
        remote: Some(remote),
        local,
        listener,
        path,
        agent,
    };
    if !lines.is_done() {
        return None;
    }
    let unpacked = Unpacked { sequence: Some(sequence), ..Unpacked::default() };
    pack(aor, nonces, &[binding], unpacked, (now, listeners), out).ok()
}

/// A number as this program writes it: digits, and no more of them than it takes.
fn decimal<N: TryFrom<u64>>(digits: &[u8]) -> Option<N> {
    /// Those of a number that fits whatever they are.
    const DIGITS: usize = 19;
    if !(1..=DIGITS).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    N::try_from(number).ok()
}

/// [`record_of_section`] of any keys in any order.
fn record_into<'s>(
    aor: &[u8],
    pairs: impl Iterator<Item = (&'s [u8], &'s [u8])>,
    now: Now,
    listeners: &dyn Listeners,
    out: &mut Vec<u8>,
) -> Result<Unpacked, &'static str> {
    let (mut nonces, mut sequence) = (Vec::new(), None);
    let mut best = Numbered::default();
    let mut numbered: Vec<Numbered<'_>> = Vec::new();
    for (key, value) in pairs {
        let Ok(key) = std::str::from_utf8(key) else { continue };
        match key.split_once('.') {
            Some((key, number)) => {
                let Ok(number) = number.parse::<usize>() else { continue };
                // Numbers go up by one, so that none can ask for a huge table.
                if number == numbered.len() + 1 {
                    numbered.push(Numbered::default());
                }
                if let Some(binding) = number.checked_sub(1).and_then(|n| numbered.get_mut(n)) {
                    binding.set(key, value)?;
                }
            }
            None if key == "nonces" => {
                nonces.resize(value.len() / 2, 0);
                octets_into(value, &mut nonces).ok_or("nonces: expected hexadecimal digits")?;
            }
            None if key == "sequence" => {
                let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                sequence = Some(number.ok_or("sequence: expected a number")?);
            }
            None if key == "data" => best.contact = value.strip_prefix(DATA_PREFIX),
            None if key == "expires" => best.set(key, value)?,
            None => {}
        }
    }
    if numbered.is_empty() && (nonces.is_empty() || best.contact.is_some()) {
        // A section that Yate wrote.
        numbered.push(best);
    }
    let unpacked = Unpacked { sequence, ..Unpacked::default() };
    pack(aor, &nonces, &numbered, unpacked, (now, listeners), out)
}

/// Packs what was read, and counts it.
fn pack(
    aor: &[u8],
    nonces: &[u8],
    numbered: &[Numbered<'_>],
    mut unpacked: Unpacked,
    (now, listeners): (Now, &dyn Listeners),
    out: &mut Vec<u8>,
) -> Result<Unpacked, &'static str> {
    let mut writer = RecordWriter::new(out, aor, nonces).ok_or("a text is too long")?;
    for binding in numbered {
        let contact = binding.contact.ok_or("expected a contact")?;
        let expires = binding.expires.ok_or("expected expires")?;
        binding.check(contact)?;
        let deadline = ends_at(now, expires, binding.updated);
        match deadline.is_past(now) {
            true => unpacked.expired += 1,
            false => unpacked.bindings += 1,
        }
        writer
            .push(&binding.binding(contact, deadline, now, listeners))
            .ok_or("a text is too long")?;
    }
    writer.finish();
    Ok(unpacked)
}

/// What a section had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unpacked {
    /// Bindings that are in force.
    pub(super) bindings: u64,
    /// Bindings that have ended.
    pub(super) expired: u64,
    /// The sequence of the AoR's last change; files of before version 2, and Yate's, have none.
    pub(super) sequence: Option<u64>,
}

/// The keys of one binding as they are read.
#[derive(Debug, Default)]
struct Numbered<'s> {
    contact: Option<&'s [u8]>,
    params: &'s [u8],
    expires: Option<u64>,
    updated: Option<u32>,
    call_id: &'s [u8],
    cseq: u32,
    branch: u32,
    transport: Option<Transport>,
    remote: Option<SocketAddr>,
    local: Option<IpAddr>,
    listener: &'s [u8],
    path: &'s [u8],
    agent: &'s [u8],
}

impl<'s> Numbered<'s> {
    fn set(&mut self, key: &str, value: &'s [u8]) -> Result<(), &'static str> {
        let text = std::str::from_utf8(value).unwrap_or_default();
        match key {
            "contact" => self.contact = Some(value),
            "params" => self.params = value,
            "expires" => {
                self.expires = Some(text.parse().map_err(|_| "expires: expected Unix seconds")?);
            }
            "updated" => self.updated = text.parse().ok(),
            "call_id" => self.call_id = value,
            "cseq" => self.cseq = text.parse().map_err(|_| "cseq: expected a number")?,
            "branch" => self.branch = u32::from_str_radix(text, 16).unwrap_or(0),
            "transport" => self.transport = Transport::from_name(text),
            "remote" => self.remote = text.parse().ok(),
            "local" => self.local = text.parse().ok(),
            "listener" => self.listener = value,
            "path" => self.path = value,
            "agent" => self.agent = value,
            // A key of a later version.
            _ => {}
        }
        Ok(())
    }

    /// Whether the texts are such as a REGISTER could have brought: they go into answers.
    fn check(&self, contact: &[u8]) -> Result<(), &'static str> {
        let texts = [contact, self.params, self.call_id, self.path, self.agent];
        // Without an early end: that is done many octets at a time.
        let controls =
            |text: &&[u8]| text.iter().fold(false, |found, octet| found | octet.is_ascii_control());
        if texts.iter().any(controls) {
            return Err("expected no control character");
        }
        if !is_well_formed(contact) {
            return Err("contact: expected a URI");
        }
        Params::new(self.params).check().map_err(|_| "params: expected parameters")
    }

    fn binding<'b>(
        &'b self,
        uri: &'b [u8],
        deadline: Deadline,
        now: Now,
        listeners: &dyn Listeners,
    ) -> Binding<'b> {
        let q = Params::new(self.params).find("q").and_then(|q| Quality::parse(q.value?));
        Binding {
            uri,
            params: self.params,
            q,
            deadline,
            updated: self
                .updated
                .map_or_else(|| Moment::of(now), |updated| Moment::from_unix(now, updated)),
            call_id: self.call_id,
            cseq: self.cseq,
            branch: self.branch,
            flow: Flow {
                listener: listeners.id_of(self.listener),
                transport: self.transport.unwrap_or(Transport::Udp),
                local: self.local,
                remote: self.remote.or_else(|| address_of(uri)).unwrap_or(NOWHERE),
            },
            path: self.path,
            agent: self.agent,
        }
    }
}

/// The remote address of a binding that Yate saved under a name: nobody is reached there, but the
/// next refresh will tell.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Where a contact says it is, if that is an address: Yate has put the source address there.
fn address_of(contact: &[u8]) -> Option<SocketAddr> {
    let uri = SipUri::parse(contact).ok()?;
    Some(SocketAddr::new(uri.host_port.ip()?, uri.host_port.port.unwrap_or(5060)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use persist::{
        snapshot::{General, Generations, read},
        storage::{Storage, memory::MemoryStorage},
    };
    use proptest::prelude::*;

    use super::*;
    use crate::registrar::binding_for_tests as binding;

    const NOW: Now = Now { millis: 5_000_000, unix: 1_800_000_000 };

    fn listeners() -> Vec<Box<str>> {
        vec!["general".into(), "inside".into()]
    }

    fn packed(bindings: &[Binding<'_>]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = RecordWriter::new(&mut out, b"alice@example.com", &[1, 0xff]).unwrap();
        for b in bindings {
            writer.push(b).unwrap();
        }
        writer.finish();
        out
    }

    fn unpack(pairs: &[(&str, &str)], now: Now) -> Result<(Unpacked, Vec<u8>), &'static str> {
        let pairs = pairs.iter().map(|(k, v)| (k.as_bytes(), v.as_bytes()));
        let mut out = Vec::new();
        let unpacked = record_into(b"alice@example.com", pairs, now, &listeners(), &mut out)?;
        Ok((unpacked, out))
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let mut first = binding(b"sip:a@10.0.0.1:5062;ob");
        first.deadline = Deadline(5600);
        first.updated = Moment(4990);
        let mut second = binding(b"sip:a@[2001:db8::9]");
        second.deadline = Deadline(5060);
        second.params = b";q=0.9";
        second.q = Some(Quality(900));
        second.flow.local = Some("192.0.2.9".parse().unwrap());
        second.path = b"";
        let bytes = packed(&[first, second]);
        let record = AorRecord::new(&bytes).unwrap();
        let mut pairs = Pairs::default();
        assert_eq!(section(&record, NOW, &listeners(), &mut pairs), Some(2));
        let mut out = Vec::new();
        let unpacked = record_into(record.aor(), pairs.iter(), NOW, &listeners(), &mut out);
        assert_eq!(unpacked, Ok(Unpacked { bindings: 2, expired: 0, sequence: Some(0) }));
        assert_eq!(AorRecord::new(&out).unwrap(), record);
    }

    #[test]
    fn the_best_binding_is_shown_to_yate() {
        let mut low = binding(b"sip:low@192.0.2.1:5062");
        low.deadline = Deadline(6000);
        let mut high = binding(b"sip:high@10.0.0.1:5060;ob");
        high.deadline = Deadline(5060);
        high.q = None;
        let bytes = packed(&[low, high]);
        let mut pairs = Pairs::default();
        section(&AorRecord::new(&bytes).unwrap(), NOW, &listeners(), &mut pairs).unwrap();
        let text = |text: &[u8]| text.escape_ascii().to_string();
        let shown: Vec<_> =
            pairs.iter().take(3).map(|(k, v)| format!("{}={}", text(k), text(v))).collect();
        assert_eq!(
            shown,
            ["driver=sip", "data=sip/sip:high@192.0.2.1:5062;ob", "expires=1800000060"]
        );
    }

    #[test]
    fn what_has_ended_is_neither_written_nor_restored() {
        let mut ended = binding(b"sip:a@192.0.2.1");
        ended.deadline = Deadline(5000);
        let mut bytes = Vec::new();
        let mut writer = RecordWriter::new(&mut bytes, b"a", b"").unwrap();
        writer.push(&ended).unwrap();
        writer.finish();
        let record = AorRecord::new(&bytes).unwrap();
        assert_eq!(section(&record, NOW, &listeners(), &mut Pairs::default()), None);
        let old = [("data", "sip/sip:a@192.0.2.1"), ("expires", "1799999999")];
        let (unpacked, out) = unpack(&old, NOW).unwrap();
        assert_eq!(unpacked, Unpacked { bindings: 0, expired: 1, sequence: None });
        let kept = AorRecord::new(&out).unwrap();
        assert_eq!((kept.len(), kept.bindings(NOW).count()), (1, 0));
    }

    #[test]
    fn nonce_counts_are_saved_where_no_binding_is_left() {
        let bytes = packed(&[]);
        let record = AorRecord::new(&bytes).unwrap();
        let mut pairs = Pairs::default();
        assert_eq!(section(&record, NOW, &listeners(), &mut pairs), Some(0));
        let mut out = Vec::new();
        record_into(record.aor(), pairs.iter(), NOW, &listeners(), &mut out).unwrap();
        assert_eq!(AorRecord::new(&out).unwrap(), record);
    }

    #[test]
    fn what_a_wrong_clock_saved_ends_within_a_week() {
        let far = [("data", "sip/sip:a@192.0.2.1"), ("expires", "99999999999999")];
        let (_, out) = unpack(&far, NOW).unwrap();
        let binding = AorRecord::new(&out).unwrap().stored().next().unwrap();
        assert_eq!(binding.deadline.remaining(NOW), crate::time::DeltaSeconds::LONGEST);
    }

    #[test]
    fn a_section_of_yate() {
        let pairs = [
            ("driver", "sip"),
            ("data", "sip/sip:100@127.0.0.1:15999;transport=udp;x=1"),
            ("oconnection_id", "general"),
            ("expires", "1800000319"),
        ];
        let (unpacked, out) = unpack(&pairs, NOW).unwrap();
        assert_eq!(unpacked.bindings, 1);
        let binding = AorRecord::new(&out).unwrap().stored().next().unwrap();
        assert_eq!(binding.uri, b"sip:100@127.0.0.1:15999;transport=udp;x=1");
        assert_eq!(binding.flow.remote, "127.0.0.1:15999".parse().unwrap());
        assert_eq!(binding.deadline.to_unix(NOW), 1_800_000_319);
    }

    /// A section with these pairs as it is read from a file.
    fn with_section<R>(pairs: &[(&str, &str)], visit: impl FnOnce(&Section<'_>) -> R) -> R {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let mut generations = Generations::new(Arc::clone(&storage), "file", 0);
        let mut writer = generations.begin(General::default()).unwrap();
        writer.section(b"alice", 1, pairs.iter().copied()).unwrap();
        writer.finish().unwrap();
        let (mut visit, mut result) = (Some(visit), None);
        read(&*storage, "file", |section| {
            result = visit.take().map(|visit| visit(&section));
        })
        .unwrap();
        result.unwrap()
    }

    const USUAL: [(&str, &str); 15] = [
        ("driver", "sip"),
        ("data", "sip/sip:a@192.0.2.1"),
        ("expires", "1800000600"),
        ("sequence", "7"),
        ("nonces", "00ff"),
        ("contact.1", "sip:a@192.0.2.1"),
        ("call_id.1", "x@y"),
        ("agent.1", "A Phone"),
        ("listener.1", "inside"),
        ("transport.1", "udp"),
        ("remote.1", "192.0.2.1:5060"),
        ("expires.1", "1800000600"),
        ("updated.1", "1800000000"),
        ("cseq.1", "1"),
        ("branch.1", "0a0b0c0d"),
    ];

    #[test]
    fn a_section_with_one_binding_is_usual() {
        with_section(&USUAL, |section| {
            let mut out = Vec::new();
            let read = usual_record_into(b"alice", section.plain(), NOW, &listeners(), &mut out);
            assert_eq!(read, Some(Unpacked { bindings: 1, expired: 0, sequence: Some(7) }));
        });
    }

    proptest! {
        /// The short way reads what the long one does, or leaves it to that.
        #[test]
        fn a_usual_section_is_read_as_any_other(
            at in 0..USUAL.len(),
            replaces: bool,
            other in prop::sample::select(vec![
                ("driver", ""), ("expires", "1"), ("expires", "x"), ("expires", ""),
                ("sequence", "+7"), ("sequence", "18446744073709551615"), ("nonces", "0G"),
                ("nonces", "0"), ("nonces", "0001Ff"), ("params.1", ";q=0.5"), ("params.1", "x"),
                ("path.1", "<sip:p;lr>"), ("local.1", "::1"), ("local.1", "1"),
                ("contact.1", "sip:b@192.0.2.1"), ("contact.1", "sip:a>b"), ("agent.1", " x "),
                ("agent.1", "a\tb"), ("agent.1", "a\u{7f}b"), ("agent.1", "a\u{e9}"),
                ("transport.1", "x"), ("remote.1", "x"), ("remote.1", "[::1]:5060"),
                ("cseq.1", "4294967296"), ("cseq.1", "007"), ("updated.1", "-1"),
                ("updated.1", "99999999999"), ("branch.1", "f"), ("branch.1", "+000000a"),
                ("branch.1", "DEADBEEF"), ("expires.1", "1"), ("contact.2", "sip:c@192.0.2.3"),
                ("data", "sip/sip:x@y"), ("unknown", "1"),
            ]),
        ) {
            let mut pairs = USUAL.to_vec();
            if replaces {
                pairs[at] = other;
            } else {
                pairs.insert(at, other);
            }
            let long = unpack(&pairs, NOW);
            let short = with_section(&pairs, |section| {
                let mut out = Vec::new();
                let read = record_of_section(
                    b"alice@example.com", section, NOW, &listeners(), &mut out);
                read.map(|unpacked| (unpacked, out))
            });
            prop_assert_eq!(short, long);
        }
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        for (pairs, error) in [
            (&[("expires", "1800000319")][..], "expected a contact"),
            (&[("data", "sip/sip:a@b")], "expected expires"),
            (&[("data", "sip/sip:a@b"), ("expires", "soon")], "expires: expected Unix seconds"),
            (&[("contact.1", "sip:a@b"), ("cseq.1", "x")], "cseq: expected a number"),
            (&[("nonces", "0g")], "nonces: expected hexadecimal digits"),
            (&[("data", "sip/sip:a@b>x"), ("expires", "1800000319")], "contact: expected a URI"),
            (
                &[("contact.1", "sip:a@b"), ("expires.1", "1800000319"), ("params.1", "x")],
                "params: expected parameters",
            ),
            (
                &[("contact.1", "sip:a@b"), ("expires.1", "1800000319"), ("agent.1", "a\rb")],
                "expected no control character",
            ),
        ] {
            assert_eq!(unpack(pairs, NOW), Err(error));
        }
    }
}
