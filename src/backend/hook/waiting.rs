//! What of an outbox is in memory: who is next, who pauses, and who waits behind whom.
//!
//! An entry of a spool is done once all before it are. So that one notification that is refused for
//! ever doesn't hold up all others, it is moved to another spool, and with it all that follows of its
//! AoR or call until that spool has none of those any more. An entry is in the one before it is done in
//! the other, and it is done in the one only after that: what a crash leaves in both is known by its
//! id, and what it leaves of an AoR is in order.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    rc::Rc,
    time::Duration,
};

use persist::error::StorageError;
use tokio::time::Instant;

use super::outbox::{Note, decode, encode};
use crate::backend::spool::{Left, Put, Queue, Ticket};

/// Notifications that are looked at side by side; further ones wait on disk.
pub(super) const WINDOW: usize = 1024;

/// Notifications that may be postponed. What is refused then holds up the rest once a window of them
/// waits behind it.
const POSTPONED: usize = 16 * WINDOW;

/// A notification is postponed once it was refused so often, while as many others were taken: what is
/// refused in an outage stays where it is.
const TRIES: u32 = 8;

/// The pauses between tries of one notification, from the first to the longest.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Where a notification waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    Regular,
    Postponed,
}

/// A notification's row, and its number there.
pub(super) type Place = (Row, u64);

/// What became of a notification that was not taken.
#[derive(Debug)]
pub(super) enum Again {
    /// It pauses.
    Pauses,
    /// It and what is behind it wait in the other row.
    Postponed,
    /// They would, if there were room.
    NoRoom,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waits,
    /// It waits in the other row.
    Moved,
    Done,
}

/// A notification in a window.
struct Item {
    ticket: Ticket,
    /// Until it is done.
    note: Option<Rc<Note>>,
    stage: Stage,
    /// How often it was tried in vain, and after what pause it is tried again.
    tries: u32,
    pause: Duration,
    /// How many had been done at the first of those tries.
    done_before: u64,
    /// Of a postponed one: which number of the regular row has to be settled before it.
    after: Option<u64>,
}

impl Item {
    /// Whether nothing is needed of a postponed one, where the regular row begins at this number.
    fn is_over(&self, first: u64) -> bool {
        self.stage == Stage::Done && self.after.is_none_or(|after| after < first)
    }
}

/// What is looked at of a queue: its oldest ones.
#[derive(Default)]
struct Window {
    queue: Queue,
    items: VecDeque<Item>,
    /// Which number the first item has; they go up by one.
    first: u64,
    /// Those of one AoR or call that are not done, in order.
    lines: HashMap<Box<[u8]>, VecDeque<u64>>,
    /// Those that are first in their line, and may be sent.
    ready: BTreeSet<u64>,
    /// Those that are first in their line, and pause.
    pauses: BTreeSet<(Instant, u64)>,
    under_way: usize,
}

impl Window {
    fn item(&mut self, number: u64) -> Option<&mut Item> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.items.get_mut(at)
    }

    /// The number of the next item.
    fn end(&self) -> u64 {
        self.first + self.items.len() as u64
    }

    /// Adds an item; it stands in a line if it waits. Its number, if it is the first there.
    fn push(
        &mut self,
        ticket: Ticket,
        note: Option<Rc<Note>>,
        stage: Stage,
        after: Option<u64>,
    ) -> Option<u64> {
        let number = self.end();
        let mut is_first = false;
        if let Some(note) = note.as_ref().filter(|_| stage == Stage::Waits) {
            match self.lines.get_mut(&note.key) {
                Some(line) => line.push_back(number),
                None => {
                    is_first = true;
                    self.lines.insert(note.key.clone(), [number].into());
                }
            }
        }
        let note = note.filter(|_| stage == Stage::Waits);
        let (tries, pause, done_before) = (0, FIRST_PAUSE, 0);
        self.items.push_back(Item { ticket, note, stage, tries, pause, done_before, after });
        is_first.then_some(number)
    }

    fn next(&mut self, now: Instant) -> Option<(u64, Rc<Note>)> {
        while let Some((at, number)) = self.pauses.first().copied().filter(|(at, _)| *at <= now) {
            self.pauses.remove(&(at, number));
            self.ready.insert(number);
        }
        let number = self.ready.pop_first()?;
        let note = self.item(number)?.note.clone()?;
        self.under_way += 1;
        Some((number, note))
    }

    /// Has the one behind it be next. Its AoR or call, if there is none.
    fn done(&mut self, number: u64) -> Option<Rc<Note>> {
        self.under_way = self.under_way.saturating_sub(1);
        let item = self.item(number)?;
        item.stage = Stage::Done;
        let note = item.note.take()?;
        let line = self.lines.get_mut(&note.key)?;
        line.pop_front();
        if let Some(next) = line.front() {
            self.ready.insert(*next);
            return None;
        }
        self.lines.remove(&note.key);
        Some(note)
    }

    /// Forgets those at the front that are done, and for which `may_go`.
    fn settle(&mut self, mut may_go: impl FnMut(&Item) -> bool) -> Result<(), StorageError> {
        let mut result = Ok(());
        while self.items.front().is_some_and(&mut may_go) {
            let Some(item) = self.items.pop_front() else { break };
            self.first += 1;
            // That it could not be noted costs the next process another try of it.
            let done = self.queue.done(item.ticket);
            result = result.and(done);
        }
        result
    }
}

/// All notifications that wait for a hook.
#[derive(Default)]
pub(super) struct Waiting {
    regular: Window,
    postponed: Window,
    /// How many may be postponed.
    room: usize,
    /// The ids of those that an earlier process postponed.
    left: HashSet<Box<str>>,
    /// Whether some were postponed that may not be on the medium.
    is_unsynced: bool,
    /// How many of the regular window are in the other row, too.
    moved: u64,
    /// How many have been done.
    done: u64,
    /// Whether one that is postponed goes before the others.
    is_postponed_next: bool,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// What went wrong as more was taken into the window.
#[derive(Debug, Default)]
pub(super) struct Filled {
    pub(super) error: Option<StorageError>,
    /// Notifications that can't be read.
    pub(super) unreadable: u64,
    /// Notifications in files that can't be read.
    pub(super) lost: u64,
}

impl Waiting {
    /// With what an earlier process left in the queues.
    ///
    /// # Errors
    /// What was postponed can't be read, so nothing is postponed.
    pub(super) fn new(regular: Queue, mut postponed: Queue) -> (Self, Result<(), StorageError>) {
        let mut waiting = Self { room: POSTPONED, ..Self::default() };
        if regular.is_on_disk() && !postponed.is_on_disk() {
            waiting.room = 0;
        }
        // What a crash left in both is among as many as a window may have been.
        let overlap = regular.len().min(2 * WINDOW as u64).checked_sub(1);
        let mut read = Ok(());
        loop {
            let entries = postponed.take().unwrap_or_else(|error| {
                waiting.room = 0;
                read = Err(error);
                Vec::new()
            });
            if entries.is_empty() {
                break;
            }
            for (ticket, octets) in entries {
                let note = decode(&octets).map(Rc::new);
                let stage = if note.is_some() { Stage::Waits } else { Stage::Done };
                if overlap.is_some() {
                    waiting.left.extend(note.as_ref().map(|note| note.id.clone()));
                }
                let first = waiting.postponed.push(ticket, note, stage, overlap);
                waiting.postponed.ready.extend(first);
            }
        }
        (waiting.regular.queue, waiting.postponed.queue) = (regular, postponed);
        (waiting, read)
    }

    /// How many wait.
    pub(super) fn len(&self) -> u64 {
        let all = self.regular.queue.len() + self.postponed.queue.len();
        all.saturating_sub(self.moved)
    }

    /// Whether any is gone if the process is killed.
    pub(super) fn is_in_memory(&self) -> bool {
        self.regular.queue.in_memory() + self.postponed.queue.in_memory() > 0
    }

    /// Whether some wait in memory for the disk to be written again.
    pub(super) fn waits_for_disk(&self) -> bool {
        self.regular.queue.waits_for_disk()
    }

    /// How many files of an earlier process ended in something else than an entry.
    pub(super) fn torn(&self) -> u64 {
        self.regular.queue.torn() + self.postponed.queue.torn()
    }

    /// Adds one if there are fewer than `most`.
    pub(super) fn put(&mut self, note: &Note, most: u64) -> Put {
        let others = self.len().saturating_sub(self.regular.queue.len());
        self.regular.queue.put(encode(note), most.saturating_sub(others))
    }

    /// Takes more into the window.
    pub(super) fn fill(&mut self) -> Filled {
        let mut filled = Filled::default();
        while self.regular.items.len() < WINDOW {
            let entries = self.regular.queue.take().unwrap_or_else(|error| {
                filled.error = Some(error);
                Vec::new()
            });
            filled.lost += self.regular.queue.take_lost();
            if entries.is_empty() {
                break;
            }
            for (ticket, octets) in entries {
                match decode(&octets) {
                    Some(note) => filled.error = self.admit(ticket, note).err().or(filled.error),
                    // Never: its checksum was right.
                    None => {
                        filled.unreadable += 1;
                        self.regular.push(ticket, None, Stage::Done, None);
                    }
                }
            }
        }
        filled
    }

    fn admit(&mut self, ticket: Ticket, note: Note) -> Result<(), StorageError> {
        if self.left.contains(&note.id) {
            self.regular.push(ticket, None, Stage::Done, None);
            return Ok(());
        }
        let is_held = self.postponed.lines.contains_key(&note.key);
        let note = Rc::new(note);
        let mut result = Ok(());
        if is_held && !self.regular.lines.contains_key(&note.key) && self.has_room_for(1) {
            result = self.move_over(Rc::clone(&note), self.regular.end(), None);
            if result.is_ok() {
                self.regular.push(ticket, None, Stage::Moved, None);
                return Ok(());
            }
        }
        let first = self.regular.push(ticket, Some(note), Stage::Waits, None);
        self.regular.ready.extend(first.filter(|_| !is_held));
        result
    }

    fn has_room_for(&self, more: usize) -> bool {
        self.postponed.items.len() + more <= self.room
    }

    /// Adds what has this number in the regular row to the other one.
    fn move_over(
        &mut self,
        note: Rc<Note>,
        number: u64,
        pause: Option<Instant>,
    ) -> Result<(), StorageError> {
        let ticket = self.postponed.queue.append(&encode(&note))?;
        self.is_unsynced = true;
        self.moved += 1;
        let first = self.postponed.push(ticket, Some(note), Stage::Waits, Some(number));
        match (first, pause) {
            (Some(first), Some(until)) => {
                self.postponed.pauses.insert((until, first));
            }
            (first, _) => self.postponed.ready.extend(first),
        }
        Ok(())
    }

    /// The next that may be sent: the first of its AoR or call that isn't done. Of those that are
    /// postponed, at most `most` are under way.
    pub(super) fn next(&mut self, most: usize) -> Option<(Place, Rc<Note>)> {
        let now = Instant::now();
        let Self { regular, postponed, .. } = self;
        let mut take = |row: Row| {
            let window = match row {
                Row::Regular => &mut *regular,
                Row::Postponed if postponed.under_way < most => &mut *postponed,
                Row::Postponed => return None,
            };
            window.next(now).map(|(number, note)| ((row, number), note))
        };
        let (one, other) = match self.is_postponed_next {
            true => (Row::Postponed, Row::Regular),
            false => (Row::Regular, Row::Postponed),
        };
        let next = take(one).or_else(|| take(other))?;
        let ((row, _), _) = next;
        self.is_postponed_next = row == Row::Regular;
        Some(next)
    }

    /// When a pause is over.
    pub(super) fn next_try(&self, most: usize) -> Option<Instant> {
        let postponed = Some(&self.postponed).filter(|window| window.under_way < most);
        let windows = [Some(&self.regular), postponed].into_iter().flatten();
        windows.filter_map(|window| window.pauses.first()).map(|(at, _)| *at).min()
    }

    /// When what could not be read is tried again.
    pub(super) fn read_again(&self) -> Option<Instant> {
        let again = self.regular.queue.read_again();
        again.filter(|_| self.regular.items.len() < WINDOW)
    }

    /// Nothing more is to be done about one.
    pub(super) fn done(&mut self, (row, number): Place) {
        self.done += 1;
        match row {
            Row::Regular => drop(self.regular.done(number)),
            Row::Postponed => {
                let last = self.postponed.done(number);
                // Those that had no room there.
                let held = last.and_then(|note| self.regular.lines.get(&note.key));
                self.regular.ready.extend(held.and_then(|line| line.front()));
            }
        }
    }

    /// One was not taken: others have its place until its pause is over.
    ///
    /// # Errors
    /// It should be postponed, and could not be written to the disk.
    pub(super) fn try_again(&mut self, (row, number): Place) -> Result<Again, StorageError> {
        let done = self.done;
        let window = match row {
            Row::Regular => &mut self.regular,
            Row::Postponed => &mut self.postponed,
        };
        window.under_way = window.under_way.saturating_sub(1);
        let Some(item) = window.item(number) else { return Ok(Again::Pauses) };
        if item.tries == 0 {
            item.done_before = done;
        }
        item.tries = item.tries.saturating_add(1);
        let until = Instant::now() + item.pause;
        item.pause = (item.pause * 2).min(LONGEST_PAUSE);
        let others = done.saturating_sub(item.done_before);
        let mut again = Ok(Again::Pauses);
        if row == Row::Regular && item.tries >= TRIES && others >= u64::from(TRIES) {
            again = self.postpone(number, until);
        }
        let window = match row {
            Row::Regular => &mut self.regular,
            Row::Postponed => &mut self.postponed,
        };
        if window.item(number).is_some_and(|item| item.stage == Stage::Waits) {
            window.pauses.insert((until, number));
        }
        again
    }

    /// Moves one, and all behind it in its line.
    fn postpone(&mut self, number: u64, until: Instant) -> Result<Again, StorageError> {
        let Some(note) = self.regular.item(number).and_then(|item| item.note.clone()) else {
            return Ok(Again::Pauses);
        };
        let Some(line) = self.regular.lines.get(&note.key).filter(|l| self.has_room_for(l.len()))
        else {
            return Ok(Again::NoRoom);
        };
        for number in line.clone() {
            let Some(note) = self.regular.item(number).and_then(|i| i.note.clone()) else {
                continue;
            };
            // If it fails, this and what is behind it is held until those before it are done.
            self.move_over(Rc::clone(&note), number, Some(until))?;
            if let Some(item) = self.regular.item(number) {
                (item.stage, item.note) = (Stage::Moved, None);
            }
            if let Some(line) = self.regular.lines.get_mut(&note.key) {
                line.pop_front();
            }
        }
        self.regular.lines.remove(&note.key);
        Ok(Again::Postponed)
    }

    /// Forgets those that are done.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn settle(&mut self) -> Result<(), StorageError> {
        let mut synced = Ok(());
        // Otherwise they may wait a moment.
        if self.is_unsynced
            && self.regular.items.len() >= WINDOW
            && self.regular.items.front().is_some_and(|item| item.stage == Stage::Moved)
        {
            synced = self.sync_postponed();
        }
        let (is_synced, mut gone) = (!self.is_unsynced, 0);
        let settled = self.regular.settle(|item| {
            let is_moved = item.stage == Stage::Moved && is_synced;
            gone += u64::from(is_moved);
            is_moved || item.stage == Stage::Done
        });
        self.moved = self.moved.saturating_sub(gone);
        synced.and(settled)
    }

    /// Whether [`Waiting::sync`] has something to do for the sake of those that are postponed.
    pub(super) fn needs_sync(&self) -> bool {
        let after = self.regular.first;
        self.is_unsynced || self.postponed.items.front().is_some_and(|item| item.is_over(after))
    }

    /// Has what waits outlive a power cut too, unless the receiver is taking it anyway: a sync holds
    /// up all questions. Whether all that was there is taken or on the medium.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn sync(&mut self, unix: u64) -> Result<bool, StorageError> {
        let result = self.sync_moves();
        let Window { queue, items, .. } = &mut self.regular;
        match items.front() {
            None if queue.len() == 0 => return result.map(|()| true),
            Some(Item { note: Some(note), .. }) if unix <= note.unix => {
                return result.map(|()| false);
            }
            _ => {}
        }
        let synced = queue.sync();
        result.and(synced).map(|()| true)
    }

    /// Has the two rows be on the medium as they have to be: what was postponed before it goes from the
    /// one, and that it went before it goes from the other.
    fn sync_moves(&mut self) -> Result<(), StorageError> {
        let mut result = Ok(());
        if self.is_unsynced {
            result = self.sync_postponed();
        }
        let settled = self.settle();
        result = result.and(settled);
        let after = self.regular.first;
        if self.postponed.items.front().is_some_and(|item| item.is_over(after)) {
            let synced = self.regular.queue.sync();
            let settled = synced.and_then(|()| self.postponed.settle(|item| item.is_over(after)));
            result = result.and(settled);
        }
        result
    }

    fn sync_postponed(&mut self) -> Result<(), StorageError> {
        // It is no use to try again what failed.
        self.is_unsynced = false;
        self.postponed.queue.sync()
    }

    /// Ends this process's use of the queues.
    pub(super) fn close(mut self) -> Left {
        let moved = self.sync_moves();
        let Window { queue, items, .. } = &mut self.regular;
        for item in items.iter().rev() {
            queue.put_back(item.ticket, item.note.as_ref().map(|note| encode(note)));
        }
        let (one, other) = (self.regular.queue.close(), self.postponed.queue.close());
        Left {
            on_disk: (one.on_disk + other.on_disk).saturating_sub(self.moved),
            lost: one.lost + other.lost,
            closed: moved.and(one.closed).and(other.closed),
        }
    }
}
