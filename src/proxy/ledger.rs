//! The calls that are in progress.

use std::{collections::HashMap, sync::Arc};

use super::{
    call::{Call, CallEvent, End, Stage},
    effects::Effects,
    policy::Policy,
    probe::Probe,
};
use crate::{
    flow::Flow,
    time::{DeltaSeconds, Now},
};

/// Milliseconds that a call goes on after its session has expired (RFC 4028 §10): its parties hang
/// up themselves, a little before.
const SESSION_GRACE: u64 = 32_000;

/// The calls of one worker.
#[derive(Debug)]
pub(super) struct Ledger {
    calls: HashMap<u64, Entry>,
    /// Those that were answered, by a hash of their dialog.
    by_dialog: HashMap<u64, u64>,
    next: u64,
}

/// A call.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) call: Call,
    /// The dialog with who answered.
    dialog: Option<u64>,
    /// When it is taken for dead.
    pub(super) until: u64,
    /// Whether a session timer says that, which only INVITE and UPDATE prolong.
    pub(super) is_timed: bool,
    /// What it takes to ask its parties, where they are asked.
    pub(super) probe: Option<Box<Probe>>,
    /// When the wheel wakes it.
    pub(super) armed: u64,
}

impl Ledger {
    /// An empty ledger, which numbers calls from `first` on.
    pub(super) fn new(first: u64) -> Self {
        Self { calls: HashMap::new(), by_dialog: HashMap::new(), next: first }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    /// The call that was answered in a dialog: another phone that was answered too may be hung up on
    /// without its end.
    pub(super) fn of_dialog(&self, dialog: u64) -> Option<u64> {
        self.by_dialog.get(&dialog).copied()
    }

    /// A call begins; its number.
    pub(super) fn begin(&mut self, now: Now, mut call: Call, fx: &mut Effects) -> u64 {
        let id = self.number();
        call.id = id;
        fx.tell(CallEvent { now, call: call.clone() });
        // Timer C, the ringing and the transactions see to it that it goes on or ends.
        let (until, armed) = (u64::MAX, u64::MAX);
        let entry = Entry { call, dialog: None, until, is_timed: false, probe: None, armed };
        self.calls.insert(id, entry);
        id
    }

    /// A call came to nothing before it was passed on.
    pub(super) fn refuse(&mut self, now: Now, mut call: Call, why: End, fx: &mut Effects) {
        call.id = self.number();
        (call.stage, call.ended) = (Stage::Ended, Some((now.millis, why)));
        fx.tell(CallEvent { now, call });
    }

    fn number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    /// Somewhere a phone rings.
    pub(super) fn ring(
        &mut self,
        now: Now,
        id: u64,
        target: std::net::SocketAddr,
        fx: &mut Effects,
    ) {
        let Some(Entry { call, .. }) = self.calls.get_mut(&id) else { return };
        if call.stage == Stage::Calling {
            (call.stage, call.rang, call.target) = (Stage::Ringing, Some(now.millis), Some(target));
            fx.tell(CallEvent { now, call: call.clone() });
        }
    }

    /// It was answered there, by a phone of this AoR, in this dialog; it is taken for dead as `dies`
    /// says, if nobody says otherwise. The result is whether that is news.
    pub(super) fn answer(
        &mut self,
        now: Now,
        id: u64,
        (target, aor, dialog): (std::net::SocketAddr, Option<Arc<[u8]>>, u64),
        dies: Dies,
        fx: &mut Effects,
    ) -> bool {
        let Some(entry) = self.calls.get_mut(&id) else { return false };
        let Entry { call, dialog: own_dialog, until, is_timed, .. } = entry;
        if call.stage >= Stage::Answered {
            return false;
        }
        (call.stage, call.answered, call.target) =
            (Stage::Answered, Some(now.millis), Some(target));
        call.to_aor = aor;
        (*own_dialog, *until, *is_timed) = (Some(dialog), dies.at, dies.is_timed);
        fx.tell(CallEvent { now, call: call.clone() });
        self.by_dialog.insert(dialog, id);
        true
    }

    /// Both parties have said that it goes on.
    pub(super) fn renew(&mut self, id: u64, dies: Dies) {
        if let Some(entry) = self.calls.get_mut(&id)
            && entry.call.stage == Stage::Answered
        {
            (entry.until, entry.is_timed) = (dies.at, dies.is_timed);
            if dies.is_timed {
                // Who refreshes it need not be asked.
                entry.probe = None;
            }
        }
    }

    /// One of its parties has sent a request.
    pub(super) fn hear(&mut self, now: Now, id: u64, heard: Heard, policy: &Policy) {
        if let Some(entry) = self.calls.get_mut(&id)
            && entry.call.stage == Stage::Answered
            && !entry.is_timed
        {
            entry.until = Dies::after(now, None, policy.dead_call).at;
            if let Some(probe) = &mut entry.probe {
                probe.hear(now, heard, policy);
            }
        }
    }

    /// A call that is in progress.
    pub(super) fn entry(&mut self, id: u64) -> Option<&mut Entry> {
        self.calls.get_mut(&id)
    }

    /// When it has to be woken, if nothing wakes it before.
    pub(super) fn arm(&mut self, id: u64) -> Option<u64> {
        let entry = self.calls.get_mut(&id)?;
        let probe = entry.probe.as_ref().map_or(u64::MAX, |probe| probe.next());
        let next = entry.until.min(probe);
        (next < entry.armed).then(|| {
            entry.armed = next;
            next
        })
    }

    /// It is over.
    pub(super) fn end(&mut self, now: Now, id: u64, why: End, fx: &mut Effects) {
        let Some(Entry { mut call, dialog, .. }) = self.calls.remove(&id) else { return };
        if let Some(dialog) = dialog
            && self.by_dialog.get(&dialog) == Some(&id)
        {
            self.by_dialog.remove(&dialog);
        }
        (call.stage, call.ended) = (Stage::Ended, Some((now.millis, why)));
        fx.tell(CallEvent { now, call });
    }
}

/// A request that came in a dialog.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    /// Whether the caller has sent it.
    pub(super) by_caller: bool,
    pub(super) cseq: u32,
    /// Where it came from.
    pub(super) flow: Flow,
}

/// When a call is taken for dead.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dies {
    /// In milliseconds of the monotonic clock.
    pub(super) at: u64,
    is_timed: bool,
}

impl Dies {
    /// When a call of which something was heard just now is dead: as its session timer says
    /// (RFC 4028), else by the setting.
    pub(super) fn after(now: Now, session: Option<u32>, dead_call: DeltaSeconds) -> Self {
        let by_setting = now.millis + 1000 * u64::from(dead_call.0);
        match session {
            Some(seconds) => {
                let at = now.millis + 1000 * u64::from(seconds) + SESSION_GRACE;
                Self { at: at.min(by_setting), is_timed: true }
            }
            None => Self { at: by_setting, is_timed: false },
        }
    }
}
