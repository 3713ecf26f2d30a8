//! What a receiver is yet to be told, on disk until it has it.
//!
//! Of one AoR, or one call, a notification is sent once the one before it is taken; those of different
//! ones go side by side ([`super::waiting`]). An entry of a spool is done once all before it are, so what
//! a crash makes be sent again has the same `id` as the first time.

use std::{cell::RefCell, path::PathBuf, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use persist::error::StorageError;
use tokio::{sync::Notify, task::JoinSet, time::Instant};

use super::{
    client::{Client, shown},
    counts::Told,
    waiting::{Again, Filled, Place, Waiting},
};
use crate::{
    backend::{
        spool::{Complaint, Left, Put, Queue, SpoolFolder, set_aside},
        status::Status,
    },
    config::hooks::Event,
    time::{Clock, SystemClock},
};

/// A notification may take so many times as long as a question, for which a phone waits.
const PATIENCE: u32 = 10;

/// Of notifications under way, those that are postponed may be this part, or one.
const POSTPONED_PART: usize = 4;

/// How soon after it was written to the kernel a notification is on the medium, if it still waits.
const SYNC: Duration = Duration::from_secs(1);

/// The file in the state folder with notifications that nobody could be told.
const SET_ASIDE: &str = "hook-refused.jsonl";

/// A notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) event: Event,
    /// The AoR or the call: what is of one is told in order.
    pub(super) key: Box<[u8]>,
    pub(super) id: Box<str>,
    /// When it happened.
    pub(super) unix: u64,
    pub(super) body: Bytes,
}

/// One hook's notifications.
#[derive(Debug)]
pub(super) struct Outbox {
    name: Box<str>,
    client: RefCell<Option<Rc<Client>>>,
    waiting: RefCell<Waiting>,
    aside: Option<PathBuf>,
    /// Rung for a notification, and for another client.
    bell: Notify,
    clock: Arc<SystemClock>,
    status: Arc<Status>,
    complaints: Complaints,
}

/// One for each kind of fault, so that none that goes on hides the first of another.
#[derive(Debug, Default)]
struct Complaints {
    /// The receiver doesn't take a notification now.
    receiver: Complaint,
    /// It never will.
    aside: Complaint,
    /// One is behind the others from now on, or would be if there were room.
    postponed: Complaint,
    /// There is no room for one.
    room: Complaint,
    /// One can't be read.
    unreadable: Complaint,
    disk: Complaint,
}

/// What a receiver made of a notification.
enum Taken {
    Yes,
    /// It will never take this one.
    Never(String),
    /// Another time.
    NotNow(String),
}

impl Outbox {
    /// The outbox of a hook, with what an earlier process left in it.
    pub(super) fn open(
        name: &str,
        folder: Option<SpoolFolder>,
        clock: Arc<SystemClock>,
        status: Arc<Status>,
    ) -> Self {
        let aside = folder.as_ref().map(|folder| folder.path.join(SET_ASIDE));
        let (queue, opened) = Queue::open(folder.clone(), &format!("hook-{name}"));
        if let Err(error) = opened {
            tracing::error!(%error, hook = name, "notifications wait in memory only");
        }
        let (postponed, opened) = Queue::open(folder, &format!("postponed-{name}"));
        let (waiting, read) = Waiting::new(queue, postponed);
        if let Err(error) = opened.and(read) {
            tracing::error!(%error, hook = name, "notifications that were postponed can't be read");
        }
        if waiting.len() > 0 {
            let (notifications, torn) = (waiting.len(), waiting.torn());
            tracing::info!(hook = name, notifications, torn, "notifications are left from before");
        }
        let outbox = Self {
            name: name.into(),
            client: RefCell::default(),
            waiting: RefCell::new(waiting),
            aside,
            bell: Notify::new(),
            clock,
            status,
            complaints: Complaints::default(),
        };
        outbox.count();
        outbox
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn client(&self) -> Option<Rc<Client>> {
        self.client.borrow().clone()
    }

    /// Has what waits go there from now on.
    pub(super) fn set_client(&self, client: Option<Rc<Client>>) {
        self.client.replace(client);
        self.bell.notify_one();
    }

    /// Has a notification wait. What has no room is lost, and counted; `false` then.
    pub(super) fn put(&self, note: Note) -> bool {
        let most = self.client().map_or(u64::MAX, |client| client.hook().spool);
        let put = self.waiting.borrow_mut().put(&note, most);
        match put {
            Put::Kept => {}
            Put::InMemory(error) => self.log_disk(&error),
            Put::Lost => {
                self.status.hooks().told(&self.name, note.event, Told::Lost);
                self.log(&self.complaints.room, "there is no room for more notifications");
                return false;
            }
        }
        self.count();
        self.bell.notify_one();
        true
    }

    /// Whether nothing waits that could be sent.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.borrow().len() == 0 || self.client.borrow().is_none()
    }

    /// Whether what waits may say what AoRs are bound to.
    pub(super) fn follows_bindings(&self) -> bool {
        self.client().is_none_or(|client| client.hook().follows_bindings())
    }

    /// Whether anything waits that is gone if the process is killed.
    pub(super) fn is_in_memory(&self) -> bool {
        self.waiting.borrow().is_in_memory()
    }

    /// Sends what waits, for ever.
    pub(super) async fn run(self: Rc<Self>) {
        let mut under_way = JoinSet::new();
        // When what came first since the last sync has to be on the medium, if it still waits.
        let mut sync_at: Option<Instant> = None;
        loop {
            // When there is room for another try.
            let mut next_try = None;
            if let Some(client) = self.client() {
                self.fill();
                let all = client.hook().concurrency;
                // What was refused again and again may take long each time.
                let postponed = (all / POSTPONED_PART).max(1);
                while under_way.len() < all
                    && let Some((place, note)) = self.next(postponed)
                {
                    let (outbox, client) = (Rc::clone(&self), Rc::clone(&client));
                    under_way.spawn_local(async move {
                        let is_done = outbox.deliver(&client, &note).await;
                        (place, note, is_done)
                    });
                }
                if under_way.len() < all {
                    next_try = self.waiting.borrow().next_try(postponed);
                }
            }
            if sync_at.is_none() && self.waiting.borrow().needs_sync() {
                sync_at = Some(Instant::now() + SYNC);
            }
            let read_again = self.waiting.borrow().read_again();
            tokio::select! {
                () = self.bell.notified() => {
                    sync_at.get_or_insert_with(|| Instant::now() + SYNC);
                }
                Some(Ok((place, note, is_done))) = under_way.join_next(), if !under_way.is_empty() => {
                    if is_done {
                        self.done(place);
                    } else {
                        self.try_again(place, &note);
                    }
                }
                () = sleep_until(next_try) => {}
                () = sleep_until(read_again) => {}
                () = sleep_until(sync_at), if sync_at.is_some() => {
                    sync_at = (!self.sync()).then(|| Instant::now() + SYNC);
                }
            }
        }
    }

    /// Takes more into the window.
    fn fill(&self) {
        let Filled { error, unreadable, lost } = self.waiting.borrow_mut().fill();
        if let Some(error) = error {
            self.log_disk(&error);
        }
        if unreadable > 0 {
            self.log(&self.complaints.unreadable, "a notification can't be read");
        }
        self.status.hooks().lost(&self.name, unreadable + lost);
        self.settle();
    }

    fn next(&self, postponed: usize) -> Option<(Place, Rc<Note>)> {
        self.waiting.borrow_mut().next(postponed)
    }

    fn done(&self, place: Place) {
        self.waiting.borrow_mut().done(place);
        self.settle();
    }

    fn try_again(&self, place: Place, note: &Note) {
        let complaint = &self.complaints.postponed;
        let again = self.waiting.borrow_mut().try_again(place);
        match again {
            Ok(Again::Pauses) => {}
            Ok(Again::Postponed) => {
                let what =
                    "a notification is refused again and again: its AoR or call is postponed";
                self.log_of(complaint, note, what);
            }
            Ok(Again::NoRoom) => {
                self.log_of(complaint, note, "no more notifications can be postponed");
            }
            Err(error) => self.log_disk(&error),
        }
    }

    /// Forgets those at the front that are done.
    fn settle(&self) {
        let settled = self.waiting.borrow_mut().settle();
        if let Err(error) = settled {
            self.log_disk(&error);
        }
        self.count();
    }

    /// Sends a notification once; whether nothing more is to be done about it: the receiver has it,
    /// or never will.
    async fn deliver(&self, client: &Client, note: &Note) -> bool {
        let counts = self.status.hooks();
        let reason = match self.send(client, note).await {
            Taken::Yes => {
                counts.told(&self.name, note.event, Told::Delivered);
                return true;
            }
            Taken::Never(reason) => {
                self.set_aside(note, &reason);
                return true;
            }
            Taken::NotNow(reason) => reason,
        };
        counts.told(&self.name, note.event, Told::Retried);
        let fault = format!("{}: {reason}", shown(&client.hook().url));
        self.log(&self.complaints.receiver, &fault);
        let patience = u64::from(client.hook().retry_max.0);
        let age = self.clock.now().unix.saturating_sub(note.unix);
        let is_over = patience > 0 && age >= patience;
        if is_over {
            self.set_aside(note, &format!("not taken within {patience} s: {reason}"));
        }
        is_over
    }

    async fn send(&self, client: &Client, note: &Note) -> Taken {
        let patience = client.hook().timeout * PATIENCE;
        let what = (note.event, &*note.id);
        let sent = client.post(what, note.body.clone(), self.clock.now().unix);
        match tokio::time::timeout(patience, sent).await {
            Err(_) => Taken::NotNow(format!("no answer within {} ms", patience.as_millis())),
            Ok(Err(silence)) => Taken::NotNow(silence.to_string()),
            Ok(Ok(reply)) => match reply.status {
                200..=299 => Taken::Yes,
                // About what is said, not about when.
                400 | 413 | 422 => Taken::Never(format!("it answered {}", reply.status)),
                status => Taken::NotNow(format!("it answered {status}")),
            },
        }
    }

    /// Writes a notification that its receiver doesn't take where the operator finds it.
    fn set_aside(&self, note: &Note, reason: &str) {
        self.status.hooks().told(&self.name, note.event, Told::SetAside);
        let what = format!("a notification is set aside: {reason}");
        self.log_of(&self.complaints.aside, note, &what);
        let line = aside_line(&note.body, reason);
        let written = self.aside.as_ref().map_or(Ok(()), |path| set_aside(path, &line));
        if let Err(error) = written {
            let body = String::from_utf8_lossy(&note.body);
            tracing::error!(%error, hook = &*self.name, %body, "a notification is lost");
        }
    }

    /// Has what waits outlive a power cut too; whether this is not to be tried again soon.
    fn sync(&self) -> bool {
        let synced = self.waiting.borrow_mut().sync(self.clock.now().unix);
        self.count();
        synced.unwrap_or_else(|error| {
            self.log_disk(&error);
            !self.waiting.borrow().waits_for_disk()
        })
    }

    /// Ends this process's use of the spool. How many notifications the next one doesn't find there.
    pub(super) fn close(&self) -> u64 {
        let Left { on_disk, lost, closed } = self.waiting.take().close();
        if let Err(error) = closed {
            tracing::error!(%error, hook = &*self.name, "notifications");
        }
        if on_disk > 0 {
            tracing::info!(
                hook = &*self.name,
                left = on_disk,
                "notifications wait for the next start"
            );
        }
        if lost > 0 {
            tracing::error!(hook = &*self.name, lost, "notifications could not be kept on disk");
        }
        lost
    }

    /// Tells the metric how many wait.
    fn count(&self) {
        self.status.hooks().set_spooled(&self.name, self.waiting.borrow().len());
    }

    /// Logs a fault, within the rate of its kind.
    fn log(&self, complaint: &Complaint, error: &str) {
        if complaint.is_due() {
            tracing::error!(hook = &*self.name, "{error}");
        }
    }

    fn log_disk(&self, error: &StorageError) {
        self.log(&self.complaints.disk, &error.to_string());
    }

    /// The same, and which notification it is about.
    fn log_of(&self, complaint: &Complaint, Note { event, key, id, .. }: &Note, error: &str) {
        if complaint.is_due() {
            let (event, of) = (event.as_str(), String::from_utf8_lossy(key));
            tracing::error!(hook = &*self.name, event, ?of, id = &**id, "{error}");
        }
    }
}

/// A line of [`SET_ASIDE`]: the notification, with one member more.
fn aside_line(body: &[u8], reason: &str) -> Vec<u8> {
    let members = body.trim_ascii_end().strip_suffix(b"}");
    let mut line = members.unwrap_or(body).to_vec();
    if members.is_some() {
        let reason = serde_json::Value::from(reason);
        line.extend_from_slice(format!(",\"reason\":{reason}}}").as_bytes());
    }
    line.push(b'\n');
    line
}

/// For ever without an instant.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// A notification as it waits: four texts with their lengths before them, and its time.
pub(super) fn encode(Note { event, key, id, unix, body }: &Note) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + key.len() + body.len());
    out.extend_from_slice(&unix.to_le_bytes());
    for text in [event.as_str().as_bytes(), key, id.as_bytes(), body] {
        // Nothing of a record is that long.
        let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(text);
    }
    out
}

pub(super) fn decode(octets: &[u8]) -> Option<Note> {
    let (unix, mut rest) = octets.split_first_chunk()?;
    let mut text = || {
        let (len, after) = rest.split_first_chunk()?;
        let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
        let (text, after) = after.split_at_checked(len)?;
        rest = after;
        Some(text)
    };
    let event = Event::parse(std::str::from_utf8(text()?).ok()?)?;
    let key = text()?.into();
    let id = std::str::from_utf8(text()?).ok()?.into();
    let body = Bytes::copy_from_slice(text()?);
    rest.is_empty().then_some(Note { event, key, id, unix: u64::from_le_bytes(*unix), body })
}

#[cfg(test)]
mod tests {
    use persist::storage::{Storage, faulty::FaultyStorage, memory::MemoryStorage};

    use super::{
        super::waiting::{Row, WINDOW},
        *,
    };

    fn note(number: u32, key: &str) -> Note {
        Note {
            event: Event::Registered,
            key: key.as_bytes().into(),
            id: format!("r-{number}").into(),
            unix: 7,
            body: format!("{{\"n\":{number}}}").into(),
        }
    }

    fn open(storage: Option<&MemoryStorage>) -> Outbox {
        let folder = storage.map(|storage| SpoolFolder {
            storage: Arc::new(storage.clone()) as Arc<dyn Storage>,
            path: PathBuf::from("/nowhere"),
        });
        Outbox::open("crm", folder, Arc::new(SystemClock::new()), Arc::default())
    }

    fn regular(number: u64) -> Place {
        (Row::Regular, number)
    }

    /// The numbers of those that may be sent now.
    fn ready(outbox: &Outbox) -> Vec<String> {
        outbox.fill();
        std::iter::from_fn(|| outbox.next(16)).map(|(_, note)| note.id.to_string()).collect()
    }

    #[test]
    fn what_waits_is_read_as_it_was() {
        let note = note(1, "alice@example.com");
        let octets = encode(&note);
        assert_eq!(decode(&octets), Some(note));
        for cut in 0..octets.len() {
            assert_eq!(decode(&octets[..cut]), None);
        }
        assert_eq!(decode(&[&octets[..], b"x"].concat()), None);
    }

    #[test]
    fn what_is_set_aside_says_why() {
        let line = aside_line(br#"{"id":"r-1","aor":"a"}"#, "it answered \"no\"\n");
        assert_eq!(
            line,
            b"{\"id\":\"r-1\",\"aor\":\"a\",\"reason\":\"it answered \\\"no\\\"\\n\"}\n"
        );
        assert_eq!(aside_line(b"?", "x"), b"?\n");
    }

    #[test]
    fn of_one_aor_one_after_the_other_and_of_several_side_by_side() {
        for storage in [Some(MemoryStorage::new()), None] {
            let outbox = open(storage.as_ref());
            for (number, key) in [(1, "a"), (2, "a"), (3, "b"), (4, "a"), (5, "b")] {
                assert!(outbox.put(note(number, key)));
            }
            assert_eq!(ready(&outbox), ["r-1", "r-3"]);
            outbox.done(regular(2));
            assert_eq!(ready(&outbox), ["r-5"]);
            assert_eq!(outbox.waiting.borrow().len(), 5);
            outbox.done(regular(0));
            assert_eq!(ready(&outbox), ["r-2"]);
            [1, 4].into_iter().for_each(|number| outbox.done(regular(number)));
            assert_eq!(ready(&outbox), ["r-4"]);
            outbox.done(regular(3));
            assert_eq!(outbox.waiting.borrow().len(), 0);
        }
    }

    #[test]
    fn what_is_refused_again_and_again_holds_up_its_own_aor_alone() {
        let outbox = open(None);
        for (number, key) in [(1, "a"), (2, "a"), (3, "b")] {
            assert!(outbox.put(note(number, key)));
        }
        assert_eq!(ready(&outbox), ["r-1", "r-3"]);
        assert_eq!(outbox.waiting.borrow().next_try(16), None);
        outbox.try_again(regular(0), &note(1, "a"));
        // It waits, the one behind it too, and nobody else does.
        assert_eq!(ready(&outbox), [""; 0]);
        assert!(outbox.waiting.borrow().next_try(16).is_some());
        assert!(outbox.put(note(4, "c")));
        assert_eq!(ready(&outbox), ["r-4"]);
        // Its pause is over.
        outbox.waiting.borrow_mut().end_pauses();
        assert_eq!(ready(&outbox), ["r-1"]);
        outbox.done(regular(0));
        assert_eq!(ready(&outbox), ["r-2"]);
    }

    #[test]
    fn what_was_not_taken_is_there_for_the_next_process_under_its_name() {
        let storage = MemoryStorage::new();
        let outbox = open(Some(&storage));
        for (number, key) in [(1, "a"), (2, "b"), (3, "c")] {
            outbox.put(note(number, key));
        }
        assert_eq!(ready(&outbox), ["r-1", "r-2", "r-3"]);
        // The second is taken, and yet told again: the first is not.
        outbox.done(regular(1));
        drop(outbox);
        let outbox = open(Some(&storage));
        assert_eq!(ready(&outbox), ["r-1", "r-2", "r-3"]);
        [0, 1].into_iter().for_each(|number| outbox.done(regular(number)));
        drop(outbox);
        assert_eq!(ready(&open(Some(&storage))), ["r-3"]);
    }

    #[test]
    fn a_file_that_can_t_be_read_holds_up_nothing_for_ever() {
        let (memory, name) = (MemoryStorage::new(), "hook-crm-00000001.spool");
        for number in [1, 2] {
            open(Some(&memory)).put(note(number, "a"));
        }
        let storage = FaultyStorage::new(memory);
        let folder = SpoolFolder { storage: Arc::new(storage.clone()), path: PathBuf::new() };
        let status = Arc::new(Status::default());
        let clock = Arc::new(SystemClock::new());
        let outbox = Outbox::open("crm", Some(folder), clock, Arc::clone(&status));
        storage.refuse_reads_of(Some(name));
        let begun = Instant::now();
        let ready = loop {
            let ready = ready(&outbox);
            if !ready.is_empty() {
                break ready;
            }
            assert!(
                outbox.waiting.borrow().read_again().is_some()
                    && begun.elapsed() < Duration::from_secs(30)
            );
            std::thread::park_timeout(Duration::from_millis(5));
        };
        assert_eq!(ready, ["r-2"]);
        assert_eq!(status.hooks().spooled(), [("crm".to_owned(), 1)]);
        let counts = status.hooks().notifications();
        let lost = counts.iter().map(|(labels, count)| (labels.event, labels.result, *count));
        assert_eq!(lost.collect::<Vec<_>>(), [("unknown", "lost", 1)]);
    }

    #[test]
    fn a_long_queue_stays_on_disk() {
        let storage = MemoryStorage::new();
        let outbox = open(Some(&storage));
        let all = u32::try_from(WINDOW).unwrap() * 3;
        (0..all).for_each(|number| assert!(outbox.put(note(number, &number.to_string()))));
        let mut seen = 0;
        while outbox.waiting.borrow().len() > 0 {
            let window = ready(&outbox);
            assert!(window.len() < 2 * WINDOW, "{}", window.len());
            for id in window {
                assert_eq!(id, format!("r-{seen}"));
                outbox.done(regular(seen));
                seen += 1;
            }
        }
        assert_eq!(seen, u64::from(all));
    }
}
