//! Finds in the change feed what hooks are to be told of AoRs.
//!
//! What is told is that an AoR is bound to something else than before, as the feed says. Besides, the
//! herald remembers a hash of what each is bound to, by which it finds what the feed had no room for.
//! After a crash nobody knows what of the last moments was told; of that, all is told again.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    hash::{Hash, Hasher},
    mem,
    sync::Arc,
};

use siphasher::sip::SipHasher13;

use super::body::Object;
use crate::{
    backend::{
        message::Message,
        request::{self, Context},
        run::Shared,
        spool::{Complaint, SpoolFolder},
    },
    config::hooks::Event,
    location::{Cause, Change, Location, Subscription},
    registrar::{AorRecord, Binding},
    time::{Clock, Now},
};

/// Changes that are looked at in one go.
const BATCH: usize = 200;

/// Records that are looked at in one go when all have to be.
const SCANNED: usize = 2000;

/// The file in the state folder that says until when all was told.
const MARK: &str = "hook-told";

/// Seconds by which two looks at the clock may be apart.
const SLACK: u64 = 2;

/// What an AoR is bound to: how many bindings, and a hash of where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bound {
    count: u32,
    places: u32,
}

impl Bound {
    /// `None` if it is bound to nothing.
    fn of(record: &AorRecord<'_>, now: Now) -> Option<Self> {
        let (mut count, mut places) = (0, 0_u32);
        for Binding { uri, flow, .. } in record.bindings(now) {
            let mut hasher = SipHasher13::new();
            hasher.write(uri);
            flow.remote.hash(&mut hasher);
            hasher.write_u8(flow.listener.0);
            let [.., a, b, c, d] = hasher.finish().to_le_bytes();
            // In whichever order they stand.
            places = places.wrapping_add(u32::from_le_bytes([a, b, c, d]));
            count += 1;
        }
        (count > 0).then_some(Self { count, places })
    }
}

/// A look at all records.
#[derive(Clone, Copy, Debug)]
struct Scan {
    part: usize,
    after: Option<u64>,
    why: Why,
}

impl Scan {
    fn new(why: Why) -> Self {
        Self { part: 0, after: None, why }
    }
}

/// Why all records are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// To know what they are bound to. Where an earlier process has crashed, or changes were missed
    /// in the meantime, what has changed since this Unix time may not have been told.
    Start { since: Option<u64> },
    /// Changes were missed.
    Missed,
}

/// Adds to a notification's body.
type Write<'w> = &'w dyn Fn(&mut Object);

/// Takes a notification.
pub(super) type Tell<'t> = &'t mut dyn FnMut(Event, &[u8], Write<'_>);

/// What finds what is to be told.
#[derive(Debug)]
pub(super) struct Herald {
    shared: Shared,
    changes: Option<Subscription>,
    bound: HashMap<Box<[u8]>, Bound>,
    scan: Option<Scan>,
    /// Whether changes were missed since the scan began: another one follows.
    is_to_scan_again: bool,
    /// Since when the feed is there, in Unix time.
    begun: u64,
    complaint: Complaint,
    /// Whether anything was seen since the mark was written, and when that was.
    is_marked: bool,
    marked: u64,
}

impl Herald {
    pub(super) fn new(shared: &Shared, changes: Option<Subscription>) -> Self {
        let mut herald = Self {
            shared: shared.clone(),
            changes: None,
            bound: HashMap::new(),
            scan: None,
            is_to_scan_again: false,
            begun: 0,
            complaint: Complaint::default(),
            is_marked: false,
            marked: 0,
        };
        let since = shared.spool.as_ref().and_then(read_mark);
        match changes {
            Some(changes) => herald.begin(changes, since),
            None => herald.unmark(),
        }
        herald
    }

    fn begin(&mut self, changes: Subscription, since: Option<u64>) {
        self.changes = Some(changes);
        self.scan = Some(Scan::new(Why::Start { since }));
        self.is_to_scan_again = false;
        self.begun = self.shared.clock.now().unix;
        self.is_marked = false;
        // Until the scan is over an earlier mark stands.
        if since.is_none() {
            self.mark(false);
        }
    }

    /// Whether any hook is to be told of AoRs, from now on.
    pub(super) fn set_wanted(&mut self, wanted: bool) {
        if wanted && self.changes.is_none() {
            let changes = self.shared.location.subscribe(super::CHANGES);
            self.begin(changes, None);
        } else if !wanted && self.changes.take().is_some() {
            self.bound = HashMap::new();
            self.scan = None;
            self.unmark();
        }
    }

    /// Whether any hook is to be told of AoRs.
    pub(super) fn is_wanted(&self) -> bool {
        self.changes.is_some()
    }

    /// Looks at some changes, and at some records if all have to be; whether there may be more.
    /// `is_kept` says whether what was told outlives the process: only then it needn't be told again.
    pub(super) fn look(&mut self, tell: Tell<'_>, is_kept: impl FnOnce() -> bool) -> bool {
        let Some(changes) = &self.changes else { return false };
        // Before the changes are: what a start finds to have ended is among them.
        let is_loading = self.shared.location.is_loading();
        let batch: Vec<Change> = changes.changes().try_iter().take(BATCH).collect();
        let missed = changes.take_missed();
        let is_all = batch.len() < BATCH;
        self.take(&batch, tell);
        self.miss(missed);
        if is_all && !is_loading {
            self.scan(tell);
        }
        let now = self.shared.clock.now().unix;
        let is_due = is_all && self.scan.is_none() && !self.is_marked && self.marked != now;
        if is_due && is_kept() {
            self.mark(false);
        }
        !is_all || self.scan.is_some() && !is_loading
    }

    /// At the end of the process: notes that all was looked at, and told or kept, if it was. Otherwise
    /// the last mark stands, by which the next start finds the rest. How many changes were not
    /// looked at.
    pub(super) fn finish(&mut self, is_kept: bool) -> u64 {
        let Some(changes) = &self.changes else { return 0 };
        let left = changes.changes().len() as u64 + changes.take_missed();
        if is_kept && left == 0 && self.scan.is_none() {
            self.mark(true);
        }
        left
    }

    /// Has what was missed be found among the records.
    fn miss(&mut self, missed: u64) {
        if missed == 0 {
            return;
        }
        if self.complaint.is_due() {
            tracing::error!(
                missed,
                "changes came faster than hooks could be told: all is looked at"
            );
        }
        self.shared.status.hooks().missed(missed);
        let Some(scan) = &mut self.scan else {
            self.scan = Some(Scan::new(Why::Missed));
            return;
        };
        // What this scan has seen before the change, the next one compares with that. Of what a start
        // has yet to see nobody knows what it was bound to: what may have changed since there is a feed
        // is told, and only a start can tell it, so it goes on.
        if let Why::Start { since } = &mut scan.why {
            *since = Some(since.map_or(self.begun, |since| since.min(self.begun)));
        }
        self.is_to_scan_again = true;
    }

    fn take(&mut self, changes: &[Change], tell: Tell<'_>) {
        for change in changes {
            self.changed(change, tell);
        }
        if !changes.is_empty() {
            self.is_marked = false;
        }
    }

    fn changed(&mut self, change: &Change, tell: Tell<'_>) {
        let Change { now, cause, difference, ref aor, ref record, .. } = *change;
        let record = AorRecord::new(record);
        match record.as_ref().and_then(|record| Bound::of(record, now)) {
            Some(after) => drop(self.bound.insert(aor.clone(), after)),
            None => drop(self.bound.remove(aor)),
        }
        let by = match cause {
            Cause::Expired => "expired",
            Cause::Registered => "registered",
            Cause::Removed => "removed",
            Cause::Restored => "restored",
        };
        if difference.ended > 0 {
            self.tell((Event::Expire, "expired"), aor, record, now, tell);
        }
        // Who gives way to another is told with that.
        if difference.removed > 0 && difference.is_fewer() {
            self.tell((Event::Unregister, by), aor, record, now, tell);
        }
        if difference.added + difference.moved > 0 {
            self.tell((Event::Registered, by), aor, record, now, tell);
        }
    }

    fn tell(
        &self,
        (event, cause): (Event, &str),
        aor: &[u8],
        record: Option<AorRecord<'_>>,
        now: Now,
        tell: Tell<'_>,
    ) {
        let rules = self.shared.rules.load_full();
        let context = Context { rules: &rules, now, listeners: &self.shared.listeners };
        let name = String::from_utf8_lossy(aor);
        let (user, domain) = match name.rsplit_once('@').filter(|_| !rules.domains.is_flat()) {
            Some((user, domain)) => (user, domain),
            None => (&*name, ""),
        };
        let bindings: Vec<Message> = record
            .iter()
            .flat_map(|record| record.bindings(now))
            .map(|binding| request::bound(user, domain, &binding, &context))
            .collect();
        let params = bindings.first().cloned();
        let params = params.unwrap_or_else(|| request::unbound(user, domain));
        tell(event, aor, &|body| {
            body.text("message", params.name.as_str());
            body.text("cause", cause);
            body.text("aor", &name);
            body.params("params", &params);
            body.list("bindings", &bindings);
        });
    }

    fn scan(&mut self, tell: Tell<'_>) {
        let Some(Scan { part, after, .. }) = self.scan else { return };
        let location = Arc::clone(&self.shared.location);
        let mut found = Vec::new();
        let mut last = None;
        location.scan(part, after, |cursor, record| {
            found.push(record.as_bytes().to_vec());
            last = Some(cursor);
            found.len() < SCANNED
        });
        // Of what has changed before a record was seen, the feed knows by now: that is told first, and
        // with it how the AoR is.
        let changes = self.changes.as_ref().map(Subscription::changes);
        let waiting = changes.map_or(0, |changes| changes.len());
        let changes: Vec<Change> =
            changes.into_iter().flat_map(|c| c.try_iter().take(waiting)).collect();
        self.take(&changes, tell);
        // Or it had no room for it, which is known by now too.
        let missed = self.changes.as_ref().map_or(0, Subscription::take_missed);
        self.miss(missed);
        let Some(Scan { why, .. }) = self.scan else { return };
        let told: HashSet<&[u8]> = changes.iter().map(|change| &*change.aor).collect();
        for octets in &found {
            if let Some(record) = AorRecord::new(octets)
                && !told.contains(record.aor())
            {
                self.scanned(&record, why, tell);
            }
        }
        self.scan = if found.len() == SCANNED {
            Some(Scan { part, after: last, why })
        } else {
            Some(Scan { part: part + 1, after: None, why }).filter(|s| s.part < Location::PARTS)
        };
        if self.scan.is_none() {
            if why == Why::Missed {
                self.look_for_gone(tell);
            }
            if mem::take(&mut self.is_to_scan_again) {
                self.scan = Some(Scan::new(Why::Missed));
            }
        }
    }

    fn scanned(&mut self, record: &AorRecord<'_>, why: Why, tell: Tell<'_>) {
        let now = self.shared.clock.now();
        let after = Bound::of(record, now);
        let before = self.bound.get(record.aor()).copied();
        let is_news = match why {
            Why::Missed => before != after,
            // What came by the feed is told. If something after that was missed, the next scan finds
            // that it is bound to something else.
            Why::Start { .. } if before.is_some() => return,
            Why::Start { since: None } => false,
            Why::Start { since: Some(since) } => match after {
                None => true,
                Some(_) => record
                    .bindings(now)
                    .any(|binding| u64::from(binding.updated.to_unix(now)) + SLACK >= since),
            },
        };
        match after {
            Some(after) => drop(self.bound.insert(record.aor().into(), after)),
            None => drop(self.bound.remove(record.aor())),
        }
        if is_news {
            let event = match (before, after) {
                (_, None) => Event::Unregister,
                (Some(before), Some(after)) if after.count < before.count => Event::Unregister,
                (_, Some(_)) => Event::Registered,
            };
            self.tell((event, "restored"), record.aor(), Some(*record), now, tell);
        }
    }

    /// Tells of those whose end was missed.
    fn look_for_gone(&mut self, tell: Tell<'_>) {
        let now = self.shared.clock.now();
        let location = Arc::clone(&self.shared.location);
        let is_gone = |aor: &[u8]| {
            location.read(aor, |record| record.is_none_or(|r| r.bindings(now).next().is_none()))
        };
        let gone: Vec<_> = self.bound.keys().filter(|aor| is_gone(aor)).cloned().collect();
        for aor in gone {
            self.bound.remove(&aor);
            self.tell((Event::Unregister, "restored"), &aor, None, now, tell);
        }
    }

    /// Notes that all was told until now; at a stop, that there is nothing more.
    fn mark(&mut self, is_end: bool) {
        let now = self.shared.clock.now().unix;
        (self.is_marked, self.marked) = (true, now);
        let Some(SpoolFolder { storage, .. }) = &self.shared.spool else { return };
        let text = format!("{now}{}\n", if is_end { " stopped" } else { "" });
        let temporary = format!("{MARK}.new");
        let _ = storage.remove(&temporary);
        let written = storage
            .create(&temporary)
            .and_then(|mut file| file.append(text.as_bytes()))
            .and_then(|()| storage.rename(&temporary, MARK));
        if let Err(error) = written {
            tracing::debug!(%error, "{MARK} can't be written");
        }
    }

    fn unmark(&self) {
        if let Some(SpoolFolder { storage, .. }) = &self.shared.spool {
            let _ = storage.remove(MARK);
        }
    }
}

/// Until when an earlier process that has crashed had told all; `None` if none has.
fn read_mark(folder: &SpoolFolder) -> Option<u64> {
    let mut text = [0; 32];
    let file = folder.storage.open(MARK).ok()?;
    let len = file.read_at(0, &mut text).ok()?;
    let text = std::str::from_utf8(text.get(..len)?).ok()?.trim();
    text.parse().ok()
}
