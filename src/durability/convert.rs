//! Records as sections of a snapshot, and back.
//!
//! A section opens with what Yate understands (`driver`, `data`, `expires` of the best binding),
//! so that its regfile module can load the file. Our own keys follow, numbered by binding.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::{
    config::values::to_hex,
    flow::{Flow, ListenerId, Transport},
    registrar::{AorRecord, Binding, RecordWriter, nat},
    sip::{
        header::{Params, Quality},
        uri::SipUri,
    },
    time::{Deadline, Now},
};

/// What Yate puts before a contact: the channel driver.
const DRIVER: &str = "sip";
const DATA_PREFIX: &[u8] = b"sip/";

/// One key and its value.
type Pair = (String, Vec<u8>);

/// The section of a record; `None` if no binding is in force.
pub(super) fn section(
    record: &AorRecord<'_>,
    now: Now,
    listeners: &[Box<str>],
) -> Option<(u64, Vec<Pair>)> {
    let best = record.bindings(now).max_by_key(|b| (b.q.unwrap_or(Quality::DEFAULT), b.updated))?;
    let mut data = DATA_PREFIX.to_vec();
    nat::reachable_uri_into(best.uri, &best.flow, &mut data);
    let mut pairs: Vec<Pair> = vec![
        ("driver".into(), DRIVER.into()),
        ("data".into(), data),
        ("expires".into(), best.deadline.to_unix(now).to_string().into()),
    ];
    if !record.nonces().is_empty() {
        pairs.push(("nonces".into(), to_hex(record.nonces()).into_bytes()));
    }
    let mut bindings = 0;
    for (n, binding) in (1_u64..).zip(record.bindings(now)) {
        bindings = n;
        let mut put = |key: &str, value: &[u8]| {
            if !value.is_empty() {
                pairs.push((format!("{key}.{n}"), value.to_vec()));
            }
        };
        put("contact", binding.uri);
        put("params", binding.params);
        put("expires", binding.deadline.to_unix(now).to_string().as_bytes());
        let updated = Deadline(binding.updated).to_unix(now);
        put("updated", updated.to_string().as_bytes());
        put("call_id", binding.call_id);
        put("cseq", binding.cseq.to_string().as_bytes());
        put("branch", format!("{:08x}", binding.branch).as_bytes());
        put("transport", binding.flow.transport.name().as_bytes());
        put("remote", binding.flow.remote.to_string().as_bytes());
        if let Some(local) = binding.flow.local {
            put("local", local.to_string().as_bytes());
        }
        let listener = listeners.get(usize::from(binding.flow.listener.0));
        put("listener", listener.map_or(&[], |name| name.as_bytes()));
        put("path", binding.path);
        put("agent", binding.agent);
    }
    Some((bindings, pairs))
}

/// Packs the record of a section into `out`; the result is how many of its bindings had ended.
///
/// # Errors
/// What can't be read.
pub(super) fn record_into<'s>(
    aor: &[u8],
    pairs: impl Iterator<Item = (&'s [u8], &'s [u8])>,
    now: Now,
    listeners: &[Box<str>],
    out: &mut Vec<u8>,
) -> Result<Unpacked, &'static str> {
    let mut nonces = Vec::new();
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
                nonces = from_hex(value).ok_or("nonces: expected hexadecimal digits")?;
            }
            None if key == "data" => best.contact = value.strip_prefix(DATA_PREFIX),
            None if key == "expires" => best.set(key, value)?,
            None => {}
        }
    }
    if numbered.is_empty() {
        // A section that Yate wrote.
        numbered.push(best);
    }
    let mut writer = RecordWriter::new(out, aor, &nonces).ok_or("a text is too long")?;
    let mut unpacked = Unpacked::default();
    for binding in &numbered {
        let contact = binding.contact.ok_or("expected a contact")?;
        let expires = binding.expires.ok_or("expected expires")?;
        let Some(deadline) = Deadline::from_unix(now, expires) else {
            unpacked.expired += 1;
            continue;
        };
        unpacked.bindings += 1;
        writer
            .push(&binding.binding(contact, deadline, now, listeners))
            .ok_or("a text is too long")?;
    }
    writer.finish();
    Ok(unpacked)
}

/// How many bindings a section had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unpacked {
    pub(super) bindings: u64,
    pub(super) expired: u64,
}

/// The keys of one binding as they are read.
#[derive(Debug, Default)]
struct Numbered<'s> {
    contact: Option<&'s [u8]>,
    params: &'s [u8],
    expires: Option<u64>,
    updated: Option<u64>,
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

    fn binding<'b>(
        &'b self,
        uri: &'b [u8],
        deadline: Deadline,
        now: Now,
        listeners: &[Box<str>],
    ) -> Binding<'b> {
        let q = Params::new(self.params).find("q").and_then(|q| Quality::parse(q.value?));
        let listener = listeners.iter().position(|name| name.as_bytes() == self.listener);
        let age = self.updated.map_or(0, |updated| now.unix.saturating_sub(updated));
        Binding {
            uri,
            params: self.params,
            q,
            deadline,
            // What was refreshed before this process began counts as refreshed when it began.
            updated: now.second().saturating_sub(u32::try_from(age).unwrap_or(u32::MAX)),
            call_id: self.call_id,
            cseq: self.cseq,
            branch: self.branch,
            flow: Flow {
                listener: ListenerId(listener.and_then(|at| u8::try_from(at).ok()).unwrap_or(0)),
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

fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok().filter(|t| t.is_ascii() && t.len() % 2 == 0)?;
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
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
        first.updated = 4990;
        let mut second = binding(b"sip:a@[2001:db8::9]");
        second.deadline = Deadline(5060);
        second.params = b";q=0.9";
        second.q = Some(Quality(900));
        second.flow.local = Some("192.0.2.9".parse().unwrap());
        second.path = b"";
        let bytes = packed(&[first, second]);
        let record = AorRecord::new(&bytes).unwrap();
        let (count, pairs) = section(&record, NOW, &listeners()).unwrap();
        assert_eq!(count, 2);
        let borrowed = pairs.iter().map(|(k, v)| (k.as_bytes(), v.as_slice()));
        let mut out = Vec::new();
        let unpacked = record_into(record.aor(), borrowed, NOW, &listeners(), &mut out);
        assert_eq!(unpacked, Ok(Unpacked { bindings: 2, expired: 0 }));
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
        let (_, pairs) = section(&AorRecord::new(&bytes).unwrap(), NOW, &listeners()).unwrap();
        let shown: Vec<_> =
            pairs[..3].iter().map(|(k, v)| format!("{k}={}", v.escape_ascii())).collect();
        assert_eq!(
            shown,
            ["driver=sip", "data=sip/sip:high@192.0.2.1:5062;ob", "expires=1800000060"]
        );
    }

    #[test]
    fn what_has_ended_is_neither_written_nor_restored() {
        let mut ended = binding(b"sip:a@192.0.2.1");
        ended.deadline = Deadline(5000);
        let bytes = packed(&[ended]);
        assert!(section(&AorRecord::new(&bytes).unwrap(), NOW, &listeners()).is_none());
        let old = [("data", "sip/sip:a@192.0.2.1"), ("expires", "1799999999")];
        let (unpacked, out) = unpack(&old, NOW).unwrap();
        assert_eq!(unpacked, Unpacked { bindings: 0, expired: 1 });
        assert!(AorRecord::new(&out).unwrap().is_empty());
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

    #[test]
    fn what_cannot_be_read_is_told() {
        for (pairs, error) in [
            (&[("expires", "1800000319")][..], "expected a contact"),
            (&[("data", "sip/sip:a@b")], "expected expires"),
            (&[("data", "sip/sip:a@b"), ("expires", "soon")], "expires: expected Unix seconds"),
            (&[("contact.1", "sip:a@b"), ("cseq.1", "x")], "cseq: expected a number"),
            (&[("nonces", "0g")], "nonces: expected hexadecimal digits"),
        ] {
            assert_eq!(unpack(pairs, NOW), Err(error));
        }
    }
}
