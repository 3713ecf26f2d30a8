//! Lists of bindings, a page at a time.

use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;

use super::{
    text::text,
    view::{BindingView, Item, Page},
};
use crate::{
    control::Node,
    flow::Transport,
    hex::parse_hex,
    location::Location,
    registrar::{AorRecord, Binding},
    time::{Clock, Now},
};

/// Items of a page, unless the request says.
const DEFAULT_LIMIT: u16 = 100;

/// The most items of a page: half a megabyte of JSON for typical phones.
const MAX_LIMIT: u16 = 1000;

/// AoRs that one request looks at: a filter that matches nothing must not keep a thread for the
/// whole of ten million.
const MAX_VISITED: u32 = 100_000;

/// The query of a list.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Query {
    /// How the AoR begins.
    aor: Option<String>,
    /// The transport.
    transport: Option<String>,
    /// What the User-Agent contains, in any case.
    user_agent: Option<String>,
    /// The source: an address, or an address and port.
    source: Option<String>,
    /// Items of a page.
    limit: Option<u16>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// What a list is to show.
#[derive(Debug)]
pub(super) struct Listing {
    aor: String,
    transport: Option<Transport>,
    user_agent: String,
    source: Option<Source>,
    limit: usize,
    cursor: Cursor,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    Any(IpAddr),
    Port(SocketAddr),
}

impl Listing {
    /// What a query asks for, or what is wrong with it. `run` tells this process's cursors from
    /// those of one before.
    pub(super) fn new(query: Query, run: u64) -> Result<Self, String> {
        let Query { aor, transport, user_agent, source, limit, cursor } = query;
        let transport = transport.map(|name| {
            Transport::from_name(&name).ok_or_else(|| {
                let names = Transport::ALL.map(Transport::name).join(", ");
                format!("transport={name}: expected one of {names}")
            })
        });
        let source = source.map(|source| {
            let addr = || source.parse().map(Source::Any);
            let port = |_| source.parse().map(Source::Port);
            let expected = "expected an IP address, or one with a port";
            addr().or_else(port).map_err(|_| format!("source={source}: {expected}"))
        });
        let limit = limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(format!("limit={limit}: expected a number from 1 to {MAX_LIMIT}"));
        }
        let cursor = cursor.map(|text| {
            Cursor::parse(&text, run).ok_or_else(|| {
                format!("cursor={text}: not of this run of the server; list from the start again")
            })
        });
        Ok(Self {
            aor: aor.unwrap_or_default(),
            transport: transport.transpose()?,
            user_agent: user_agent.unwrap_or_default().to_ascii_lowercase(),
            source: source.transpose()?,
            limit: limit.into(),
            cursor: cursor.transpose()?.unwrap_or_default(),
        })
    }

    /// Whether a binding is to be shown; the AoR's is another question.
    fn shows(&self, binding: &Binding<'_>) -> bool {
        let remote = binding.flow.remote;
        self.transport.is_none_or(|transport| binding.flow.transport == transport)
            && self.source.is_none_or(|source| match source {
                Source::Any(ip) => remote.ip() == ip,
                Source::Port(addr) => remote == addr,
            })
            && (self.user_agent.is_empty()
                || text(binding.agent).to_ascii_lowercase().contains(&self.user_agent))
    }

    /// The bindings of a record that are to be shown.
    fn shown<'r>(
        &self,
        record: &AorRecord<'r>,
        now: Now,
    ) -> impl Iterator<Item = Binding<'r>> + use<'r, '_> {
        let is_asked_for = self.aor.is_empty() || text(record.aor()).starts_with(&self.aor);
        record.bindings(now).filter(move |binding| is_asked_for && self.shows(binding))
    }

    /// The next page. A page ends with an AoR, so it may have a few items more than its limit.
    pub(super) fn page(&self, node: &Node) -> Page {
        let now = node.clock.now();
        let found = self.find(&node.location, now);
        let mut items = Vec::new();
        for record in found.records() {
            let aor = text(record.aor());
            items.extend(self.shown(&record, now).map(|binding| Item {
                aor: aor.clone().into_owned(),
                binding: BindingView::new(&binding, &node.listeners, now),
            }));
        }
        let next = found.next.map(|cursor| cursor.format(node.started().unix));
        Page { items, next }
    }

    /// Copies the records of a page: while a shard is locked, nothing else is done with them.
    fn find(&self, location: &Location, now: Now) -> Found {
        let mut found = Found::default();
        let (mut items, mut visited) = (0, 0);
        let Cursor { part: first, mut after } = self.cursor;
        for part in first..Location::PARTS {
            let mut full = None;
            location.scan(part, after.take(), |key, record| {
                visited += 1;
                let shown = self.shown(&record, now).count();
                if shown > 0 {
                    items += shown;
                    found.push(&record);
                }
                if items >= self.limit || visited >= MAX_VISITED {
                    full = Some(Cursor { part, after: Some(key) });
                }
                full.is_none()
            });
            if full.is_some() {
                found.next = full;
                break;
            }
        }
        found
    }
}

/// Records that were copied.
#[derive(Debug, Default)]
struct Found {
    bytes: Vec<u8>,
    /// Where each ends in `bytes`.
    ends: Vec<usize>,
    next: Option<Cursor>,
}

impl Found {
    fn push(&mut self, record: &AorRecord<'_>) {
        self.bytes.extend_from_slice(record.as_bytes());
        self.ends.push(self.bytes.len());
    }

    fn records(&self) -> impl Iterator<Item = AorRecord<'_>> {
        let mut start = 0;
        self.ends.iter().filter_map(move |&end| {
            let record = self.bytes.get(start..end).and_then(AorRecord::new);
            start = end;
            record
        })
    }
}

/// How far a list has come: a part of the location service, and the last key seen there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cursor {
    part: usize,
    after: Option<u64>,
}

impl Cursor {
    /// As text. The order of keys is another after a restart, so the text names the run.
    fn format(self, run: u64) -> String {
        let Self { part, after } = self;
        format!("{part:02x}{:016x}{run:016x}", after.unwrap_or_default())
    }

    fn parse(text: &str, run: u64) -> Option<Self> {
        let octets: [u8; 17] = parse_hex(text.as_bytes())?;
        let (&part, rest) = octets.split_first()?;
        let (after, of_run) = rest.split_first_chunk()?;
        let of_run: [u8; 8] = of_run.try_into().ok()?;
        let part = usize::from(part);
        (u64::from_be_bytes(of_run) == run && part < Location::PARTS)
            .then(|| Self { part, after: Some(u64::from_be_bytes(*after)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        location::{Cause, Unrecorded},
        registrar::{RecordWriter, binding_for_tests},
    };

    const NOW: Now = Now { millis: 1_000, unix: 1_700_000_000 };

    fn filled(aors: usize) -> Location {
        let location = Location::new([7; 16], NOW, 0);
        let mut packed = Vec::new();
        for number in 0..aors {
            let aor = format!("{number:04}@example.com");
            let mut writer = RecordWriter::new(&mut packed, aor.as_bytes(), b"").unwrap();
            writer.push(&binding_for_tests(b"sip:a@192.0.2.1")).unwrap();
            writer.push(&binding_for_tests(b"sip:b@192.0.2.1")).unwrap();
            writer.finish();
            let commit = |entry: &mut crate::location::Entry<'_>| entry.commit(&packed);
            let when = (NOW, Cause::Registered);
            location.update(aor.as_bytes(), when, &mut Unrecorded, commit).unwrap();
        }
        location
    }

    fn listing(query: Query) -> Listing {
        Listing::new(query, 1).unwrap()
    }

    #[test]
    fn pages_show_each_record_once() {
        let location = filled(1000);
        let mut aors = Vec::new();
        let mut cursor = None;
        loop {
            let query = Query { limit: Some(7), cursor: cursor.clone(), ..Query::default() };
            let found = listing(query).find(&location, NOW);
            assert!(found.records().count() <= 4);
            aors.extend(found.records().map(|record| record.aor().to_vec()));
            let Some(next) = found.next else { break };
            cursor = Some(next.format(1));
        }
        aors.sort();
        aors.dedup();
        assert_eq!(aors.len(), 1000);
    }

    #[test]
    fn filters() {
        let location = filled(20);
        let found = |query: Query| listing(query).find(&location, NOW).records().count();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(found(Query::default()), 20);
        assert_eq!(found(Query { aor: some("001"), ..Query::default() }), 10);
        assert_eq!(found(Query { transport: some("udp"), ..Query::default() }), 20);
        assert_eq!(found(Query { transport: some("tcp"), ..Query::default() }), 0);
        assert_eq!(found(Query { user_agent: some("PHONE"), ..Query::default() }), 20);
        assert_eq!(found(Query { user_agent: some("softphone"), ..Query::default() }), 0);
        assert_eq!(found(Query { source: some("192.0.2.1"), ..Query::default() }), 20);
        assert_eq!(found(Query { source: some("192.0.2.1:5062"), ..Query::default() }), 20);
        assert_eq!(found(Query { source: some("192.0.2.1:5063"), ..Query::default() }), 0);
    }

    #[test]
    fn bad_queries_say_what_is_expected() {
        let some = |text: &str| Some(text.to_owned());
        let refused = |query: Query| Listing::new(query, 1).unwrap_err();
        assert_eq!(
            refused(Query { transport: some("sctp"), ..Query::default() }),
            "transport=sctp: expected one of udp, tcp, tls, ws, wss"
        );
        assert_eq!(
            refused(Query { source: some("host"), ..Query::default() }),
            "source=host: expected an IP address, or one with a port"
        );
        assert_eq!(
            refused(Query { limit: Some(0), ..Query::default() }),
            "limit=0: expected a number from 1 to 1000"
        );
        let cursor = Cursor { part: 3, after: Some(9) };
        assert_eq!(Cursor::parse(&cursor.format(1), 1), Some(cursor));
        let of_another_run = cursor.format(2);
        assert_eq!(
            refused(Query { cursor: Some(of_another_run.clone()), ..Query::default() }),
            format!(
                "cursor={of_another_run}: not of this run of the server; list from the start again"
            )
        );
        assert_eq!(Cursor::parse("", 1), None);
        assert_eq!(Cursor::parse(&Cursor { part: 64, after: None }.format(1), 1), None);
    }
}
