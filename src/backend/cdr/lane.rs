//! One handler's records in order, in memory or on disk until it has taken them.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::sync::Notify;

use super::{TakesRecords, file};
use crate::backend::{
    chain::Failure,
    message::{Message, MessageName},
    spool::{Complaint, Left, Put, Queue, SpoolFolder, Ticket, set_aside},
    status::{Kept, Status},
};

/// The pauses between tries, from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How soon after it was written to the kernel a record is on the medium, if it still waits.
const SYNC: Duration = Duration::from_secs(1);

/// The file in the state folder with records that nobody could take.
const REFUSED: &str = "cdr-refused.jsonl";

/// The way of records to one handler.
#[derive(Debug)]
pub(super) struct Lane {
    name: Box<str>,
    handler: RefCell<Option<Rc<dyn TakesRecords>>>,
    waiting: RefCell<Waiting>,
    refused: Option<PathBuf>,
    /// Rung for a record, and for another handler.
    bell: Notify,
    status: Arc<Status>,
    complaint: Complaint,
    /// How many wait, as the metric was told.
    counted: Cell<u64>,
}

/// Records that wait.
#[derive(Debug, Default)]
struct Waiting {
    queue: Queue,
    /// Taken from there, but not dealt with.
    read: VecDeque<(Ticket, Vec<u8>)>,
}

/// A record that is given to the handler; it stays where it is until that has taken it.
#[derive(Debug)]
struct Next {
    ticket: Ticket,
    record: Message,
}

/// Which records are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    /// Those that an earlier process left.
    FromBefore,
    All,
}

impl Lane {
    /// The lane called `name`, with what an earlier process left in it.
    pub(super) fn open(name: &str, folder: Option<SpoolFolder>, status: Arc<Status>) -> Self {
        let refused = folder.as_ref().map(|folder| folder.path.join(REFUSED));
        let (queue, opened) = Queue::open(folder, &format!("cdr-{name}"));
        if let Err(error) = opened {
            tracing::error!(%error, lane = name, "records of calls wait in memory only");
        }
        if queue.len() > 0 {
            let (records, torn) = (queue.len(), queue.torn());
            tracing::info!(lane = name, records, torn, "records of calls are left from before");
        }
        let waiting = Waiting { queue, ..Waiting::default() };
        let lane = Self {
            name: name.into(),
            handler: RefCell::default(),
            waiting: RefCell::new(waiting),
            refused,
            bell: Notify::new(),
            status,
            complaint: Complaint::default(),
            counted: Cell::new(0),
        };
        lane.count();
        lane
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Has another handler take what waits.
    pub(super) fn set_handler(&self, handler: Option<Rc<dyn TakesRecords>>) {
        self.handler.replace(handler);
        self.bell.notify_one();
    }

    /// Has a record wait for the handler, if that wants it.
    pub(super) fn put(&self, record: &Message) {
        if !self.handler.borrow().as_ref().is_some_and(|handler| handler.wants(record)) {
            return;
        }
        let put = self.waiting.borrow_mut().queue.put(encode(record), u64::MAX);
        match put {
            Put::Kept => {}
            Put::InMemory(error) => self.log(&error.to_string()),
            Put::Lost => {
                self.status.record(Kept::Lost);
                return self.log("there is no room for more records of calls");
            }
        }
        self.count();
        self.bell.notify_one();
    }

    /// Whether nothing waits.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.borrow().queue.len() == 0 || self.handler.borrow().is_none()
    }

    /// Gives records to the handler, for ever.
    pub(super) async fn run(&self) {
        self.begin().await;
        loop {
            match self.next(Which::All) {
                Some(next) => self.deliver(next).await,
                None => self.rest().await,
            }
        }
    }

    /// Deals with what an earlier process left, and then has the handler begin.
    ///
    /// In this order: what a handler does at the start is about what no process will tell of any
    /// more, and would undo or miss it otherwise.
    async fn begin(&self) {
        let handler = self.handler().await;
        if handler.begins_anew() {
            self.forget_older().await;
        }
        while let Some(next) = self.next_older().await {
            self.deliver(next).await;
        }
        let mut pause = FIRST_PAUSE;
        loop {
            let handler = self.handler().await;
            match handler.begin().await {
                Ok(()) => break,
                Err(failure) => self.log(&failure.reason),
            }
            self.pause(&mut pause).await;
        }
    }

    /// Forgets what an earlier process left. What is new meanwhile stays.
    async fn forget_older(&self) {
        while let Some(next) = self.next_older().await {
            self.done(next.ticket);
        }
    }

    /// The next of those that an earlier process left, once it can be read.
    async fn next_older(&self) -> Option<Next> {
        loop {
            if let Some(next) = self.next(Which::FromBefore) {
                return Some(next);
            }
            let again = self.waiting.borrow().queue.read_again()?;
            tokio::time::sleep_until(again).await;
        }
    }

    /// The handler, once there is one.
    async fn handler(&self) -> Rc<dyn TakesRecords> {
        loop {
            if let Some(handler) = self.handler.borrow().as_ref() {
                return Rc::clone(handler);
            }
            self.bell.notified().await;
        }
    }

    /// The record that is next, if it is one of these.
    fn next(&self, which: Which) -> Option<Next> {
        let next = self.find_next(which);
        let lost = self.waiting.borrow_mut().queue.take_lost();
        if lost > 0 {
            (0..lost).for_each(|_| self.status.record(Kept::Lost));
            self.count();
        }
        next
    }

    fn find_next(&self, which: Which) -> Option<Next> {
        let mut waiting = self.waiting.borrow_mut();
        let Waiting { queue, read } = &mut *waiting;
        loop {
            if read.is_empty() {
                match queue.take() {
                    Ok(entries) => read.extend(entries),
                    Err(error) => {
                        self.log(&error.to_string());
                        return None;
                    }
                }
            }
            let (ticket, octets) = read.front()?;
            let ticket = *ticket;
            if which == Which::FromBefore && !queue.is_from_before(ticket) {
                return None;
            }
            if let Some(record) = decode(octets) {
                return Some(Next { ticket, record });
            }
            // Never: its checksum was right.
            read.pop_front();
            self.status.record(Kept::Lost);
            self.log("a record of a call can't be read");
            if let Err(error) = queue.done(ticket) {
                self.log(&error.to_string());
            }
        }
    }

    /// Gives a record to the handler until that has taken it.
    async fn deliver(&self, Next { ticket, record }: Next) {
        let mut pause = FIRST_PAUSE;
        loop {
            let handler = self.handler().await;
            match handler.take(&mut record.clone()).await {
                Ok(()) => {
                    self.status.record(Kept::Written);
                    break;
                }
                Err(Failure { reason, is_outage: false }) => {
                    self.status.record(Kept::Refused);
                    self.set_aside(&record, &reason);
                    break;
                }
                Err(Failure { reason, .. }) => self.log(&reason),
            }
            self.pause(&mut pause).await;
        }
        self.done(ticket);
    }

    /// Takes a record out that is dealt with.
    fn done(&self, ticket: Ticket) {
        let mut waiting = self.waiting.borrow_mut();
        waiting.read.pop_front();
        if let Err(error) = waiting.queue.done(ticket) {
            self.log(&error.to_string());
        }
        drop(waiting);
        self.count();
    }

    /// Waits before the next try.
    async fn pause(&self, pause: &mut Duration) {
        self.sync();
        tokio::time::sleep(*pause).await;
        *pause = (*pause * 2).min(LONGEST_PAUSE);
    }

    /// Waits for a record.
    async fn rest(&self) {
        let again = self.waiting.borrow().queue.read_again();
        if let Some(again) = again {
            let _ = tokio::time::timeout_at(again, self.bell.notified()).await;
            return self.sync();
        }
        if tokio::time::timeout(SYNC, self.bell.notified()).await.is_err() {
            self.sync();
            self.bell.notified().await;
        }
    }

    /// Has what waits outlive a power cut too.
    fn sync(&self) {
        if let Err(error) = self.waiting.borrow_mut().queue.sync() {
            self.log(&error.to_string());
        }
    }

    /// Ends this process's use of the spool.
    pub(super) fn close(&self) {
        let Waiting { mut queue, read } = self.waiting.take();
        for (ticket, octets) in read.into_iter().rev() {
            queue.put_back(ticket, Some(octets));
        }
        let Left { on_disk, lost, closed } = queue.close();
        if let Err(error) = closed {
            tracing::error!(%error, lane = &*self.name, "records of calls");
        }
        if on_disk > 0 {
            tracing::info!(
                lane = &*self.name,
                left = on_disk,
                "records of calls wait for the next start"
            );
        }
        if lost > 0 {
            (0..lost).for_each(|_| self.status.record(Kept::Lost));
            tracing::error!(lane = &*self.name, lost, "records of calls are lost");
        }
    }

    /// Writes a record that its handler can't take where the operator finds it.
    fn set_aside(&self, record: &Message, reason: &str) {
        self.log(&format!("a record of a call is refused, and set aside: {reason}"));
        let mut line = file::json(record);
        line.push('\n');
        let written = self.refused.as_ref().map_or(Ok(()), |path| set_aside(path, line.as_bytes()));
        if let Err(error) = written {
            tracing::error!(%error, lane = &*self.name, record = line.trim_end(), "a record is lost");
        }
    }

    /// Tells the metric how many wait.
    fn count(&self) {
        let now = self.waiting.borrow().queue.len();
        self.status.set_spooled(self.counted.replace(now), now);
    }

    /// Logs a fault, within the rate.
    fn log(&self, error: &str) {
        if self.complaint.is_due() {
            tracing::error!(lane = &*self.name, "{error}");
        }
    }
}

/// A record as it waits: each name and value with its length before it.
fn encode(record: &Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    for text in record.params().flat_map(|(name, value)| [name, value]) {
        // Nothing of a request is that long.
        let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    }
    out
}

fn decode(mut octets: &[u8]) -> Option<Message> {
    let mut record = Message::new(MessageName::CallCdr);
    let mut text = || {
        let (len, rest) = octets.split_first_chunk()?;
        let (text, rest) =
            rest.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
        octets = rest;
        std::str::from_utf8(text).ok()
    };
    while let Some(name) = text() {
        record.set(name, text()?);
    }
    octets.is_empty().then_some(record)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use persist::storage::{
        Storage,
        faulty::{Fault, FaultyStorage},
        memory::{MemoryStorage, Survival},
    };

    use super::*;
    use crate::backend::{chain::Handles, spool::MAX_IN_MEMORY};

    /// What a handler of these tests does, and what was done to it.
    #[derive(Debug, Default)]
    struct Taker {
        anew: bool,
        is_away: bool,
        /// It hangs once it has seen so much.
        most: Option<usize>,
        tries: Cell<usize>,
        hangs: Cell<bool>,
        seen: RefCell<Vec<String>>,
    }

    impl Taker {
        fn seen(&self) -> String {
            self.seen.borrow().join(" ")
        }

        fn away() -> Failure {
            Failure { reason: "away".to_owned(), is_outage: true }
        }
    }

    impl TakesRecords for Taker {
        fn lane(&self) -> &'static str {
            "test"
        }

        fn wants(&self, record: &Message) -> bool {
            record.get("chan") != Some("unwanted")
        }

        fn begins_anew(&self) -> bool {
            self.anew
        }

        fn begin(&self) -> Handles<'_, Result<(), Failure>> {
            Box::pin(async {
                self.tries.set(self.tries.get() + 1);
                if self.is_away {
                    return Err(Self::away());
                }
                self.seen.borrow_mut().push("begin".to_owned());
                Ok(())
            })
        }

        fn take<'m>(&'m self, record: &'m mut Message) -> Handles<'m, Result<(), Failure>> {
            Box::pin(async {
                self.tries.set(self.tries.get() + 1);
                let chan = record.get("chan").unwrap_or_default().to_owned();
                if self.most.is_some_and(|most| self.seen.borrow().len() >= most) {
                    self.hangs.set(true);
                    std::future::pending::<()>().await;
                }
                if self.is_away {
                    return Err(Self::away());
                }
                if chan == "refused" {
                    return Err(Failure { reason: "no".to_owned(), is_outage: false });
                }
                self.seen.borrow_mut().push(chan);
                Ok(())
            })
        }
    }

    struct World {
        runtime: tokio::runtime::Runtime,
        storage: MemoryStorage,
        folder: tempfile::TempDir,
        status: Arc<Status>,
    }

    impl World {
        fn new() -> Self {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let folder = tempfile::tempdir().unwrap();
            Self { runtime, storage: MemoryStorage::new(), folder, status: Arc::default() }
        }

        /// The life of a process: `put` gives its records, and it ends when `is_over`, killed unless
        /// `is_stopped`.
        fn live(
            &self,
            taker: &Rc<Taker>,
            put: &[&str],
            is_stopped: bool,
            is_over: impl Fn(&Taker) -> bool,
        ) {
            let folder = SpoolFolder {
                storage: Arc::new(self.storage.clone()),
                path: self.folder.path().to_owned(),
            };
            let lane = Rc::new(Lane::open("test", Some(folder), Arc::clone(&self.status)));
            lane.set_handler(Some(Rc::clone(taker) as Rc<dyn TakesRecords>));
            for chan in put {
                lane.put(&record(chan));
            }
            let over = async {
                while !is_over(taker) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            self.runtime.block_on(async {
                tokio::select! {
                    () = lane.run() => {}
                    over = tokio::time::timeout(Duration::from_secs(20), over) => {
                        over.unwrap_or_else(|_| panic!("{taker:?}"));
                    }
                }
            });
            if is_stopped {
                lane.close();
            }
        }

        /// A life in which all of `seen` comes to pass.
        fn sees(&self, taker: Taker, put: &[&str], is_stopped: bool, seen: &str) {
            let taker = Rc::new(taker);
            let count = seen.split(' ').count();
            self.live(&taker, put, is_stopped, |taker| taker.seen.borrow().len() >= count);
            assert_eq!(taker.seen(), seen);
        }
    }

    fn record(chan: &str) -> Message {
        let mut record = Message::new(MessageName::CallCdr);
        record.set("chan", chan);
        record.set("empty", "");
        record
    }

    #[test]
    fn a_record_is_the_same_after_it_waited() {
        let record = record("sip/1");
        assert_eq!(decode(&encode(&record)), Some(record));
        assert_eq!(decode(b"\x01\0\0\0a"), None);
        assert_eq!(decode(b"\x05\0\0\0a"), None);
    }

    #[test]
    fn records_are_taken_in_order_after_the_handler_has_begun() {
        let world = World::new();
        world.sees(Taker::default(), &["a", "unwanted", "b"], true, "begin a b");
        assert_eq!(world.storage.list().unwrap(), [""; 0]);
    }

    fn away(anew: bool) -> Rc<Taker> {
        Rc::new(Taker { anew, is_away: true, ..Taker::default() })
    }

    #[test]
    fn an_outage_across_restarts_loses_and_doubles_nothing() {
        let world = World::new();
        let tried = |taker: &Taker| taker.tries.get() >= 2;
        world.live(&away(false), &["a", "b"], false, tried);
        world.live(&away(false), &["c"], true, tried);
        // What was left comes before the handler begins anew.
        world.sees(Taker::default(), &["d"], true, "a b c begin d");
        world.sees(Taker::default(), &[], true, "begin");
    }

    #[test]
    fn who_begins_anew_wants_nothing_from_before() {
        let world = World::new();
        world.live(&away(true), &["a", "b"], false, |taker| taker.tries.get() >= 2);
        world.sees(Taker { anew: true, ..Taker::default() }, &["c"], false, "begin c");
    }

    #[test]
    fn a_kill_between_two_records_doubles_none() {
        for most in 1..=4 {
            let mut world = World::new();
            let first = Rc::new(Taker { most: Some(most), ..Taker::default() });
            world.live(&first, &["a", "b", "c", "d"], false, |taker| taker.hangs.get());
            world.storage = world.storage.crash(Survival::All);
            let rest = ["a b c d begin", "b c d begin", "c d begin", "d begin"];
            world.sees(Taker::default(), &[], false, rest[most - 1]);
        }
    }

    #[test]
    fn a_record_that_is_refused_is_set_aside() {
        let world = World::new();
        world.sees(Taker::default(), &["a", "refused", "b"], true, "begin a b");
        let aside = fs::read_to_string(world.folder.path().join(REFUSED)).unwrap();
        assert_eq!(aside, "{\"chan\":\"refused\",\"empty\":\"\"}\n");
        let count = |kept: Kept| world.status.records().find(|(k, _)| *k == kept).unwrap().1;
        assert_eq!((count(Kept::Written), count(Kept::Refused), count(Kept::Lost)), (2, 1, 0));
        assert_eq!(world.status.spooled(), 0);
    }

    #[test]
    fn a_file_that_can_t_be_read_costs_its_own_records_only() {
        let world = World::new();
        for chan in ["a", "b"] {
            let tried = |taker: &Taker| taker.tries.get() >= 2;
            world.live(&away(false), &[chan], false, tried);
        }
        let storage = FaultyStorage::new(world.storage.clone());
        let folder = SpoolFolder {
            storage: Arc::new(storage.clone()),
            path: world.folder.path().to_owned(),
        };
        let lane = Lane::open("test", Some(folder), Arc::clone(&world.status));
        assert_eq!(lane.counted.get(), 2);
        storage.refuse_reads_of(Some("cdr-test-00000001.spool"));
        let taker = Rc::new(Taker::default());
        lane.set_handler(Some(Rc::clone(&taker) as Rc<dyn TakesRecords>));
        world.runtime.block_on(async {
            let over = async {
                while taker.seen.borrow().len() < 2 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::select! {
                () = lane.run() => {}
                over = tokio::time::timeout(Duration::from_secs(50), over) => over.unwrap(),
            }
        });
        assert_eq!(taker.seen(), "b begin");
        assert_eq!(world.status.records().find(|(kept, _)| *kept == Kept::Lost).unwrap().1, 1);
        assert_eq!((lane.waiting.borrow().queue.len(), lane.counted.get()), (0, 0));
    }

    #[test]
    fn what_a_full_disk_kept_in_memory_outlives_a_stop_once_there_is_room() {
        let world = World::new();
        let storage = FaultyStorage::new(world.storage.clone());
        let folder = SpoolFolder {
            storage: Arc::new(storage.clone()),
            path: world.folder.path().to_owned(),
        };
        let lane = Lane::open("test", Some(folder), Arc::clone(&world.status));
        lane.set_handler(Some(away(false)));
        storage.fail_at(0, Fault::Crash);
        ["a", "b"].into_iter().for_each(|chan| lane.put(&record(chan)));
        // The first is on its way to the handler.
        assert!(lane.next(Which::All).is_some());
        storage.fail_at(u64::MAX, Fault::Full);
        lane.close();
        assert_eq!(world.status.records().find(|(kept, _)| *kept == Kept::Lost).unwrap().1, 0);
        world.sees(Taker::default(), &["c"], true, "a b begin c");
    }

    #[test]
    fn without_a_folder_records_wait_in_memory_within_bounds() {
        let status = Arc::new(Status::default());
        let lane = Lane::open("test", None, Arc::clone(&status));
        lane.set_handler(Some(Rc::new(Taker::default())));
        for _ in 0..=MAX_IN_MEMORY {
            lane.put(&record("a"));
        }
        assert_eq!(status.spooled(), MAX_IN_MEMORY as u64);
        assert_eq!(status.records().find(|(kept, _)| *kept == Kept::Lost).unwrap().1, 1);
    }
}
