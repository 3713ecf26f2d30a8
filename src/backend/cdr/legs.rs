//! From what happens to calls to Yate's `call.cdr`, leg by leg.

use std::{collections::HashMap, fmt, sync::Arc};

use crate::{
    backend::message::{Message, MessageName},
    proxy::{Call, CallEvent, End, Stage},
    subscribers::split_name,
    time::Now,
};

/// The reason of calls that a stop of this process ends, as far as it knows of them: Yate's.
const SHUTDOWN: &str = "shutdown";

/// The reason of a phone that rang until another one was picked up: Yate's.
const PICKUP: &str = "pickup";

/// A call's part between one party and us. The caller's is `incoming`, that of who is called
/// `outgoing`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Incoming,
    Outgoing,
}

impl Direction {
    fn as_str(self) -> &'static str {
        match self {
            Self::Incoming => "incoming",
            Self::Outgoing => "outgoing",
        }
    }
}

/// What is done to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend) enum Operation {
    Initialize,
    Update,
    Finalize,
    Combined,
}

/// Some of the operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::backend) struct Operations(u8);

impl Operations {
    pub(in crate::backend) const ALL: Self = Self(u8::MAX);

    /// Those besides this one.
    #[must_use]
    pub(in crate::backend) fn and(self, operation: Operation) -> Self {
        Self(self.0 | 1 << operation as u8)
    }

    /// Those of either.
    #[must_use]
    pub(super) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn contains(self, operation: Operation) -> bool {
        self.0 & 1 << operation as u8 != 0
    }
}

impl Operation {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Initialize => "initialize",
            Self::Update => "update",
            Self::Finalize => "finalize",
            Self::Combined => "combined",
        }
    }
}

/// Calls in progress, and the records that are made of them.
#[derive(Debug)]
pub(super) struct Recorder {
    /// Tells this process from those before it: when it began, in Unix seconds.
    run: u64,
    /// Legs so far: their number is in `chan` and `cdrid`.
    legs: u64,
    calls: HashMap<u64, Open>,
    /// In how many calls a user of ours is, by the name in `external`.
    inuse: HashMap<Box<str>, u32>,
    /// The records that anybody wants: most sites keep those of a call's end alone.
    wanted: Operations,
}

/// A call in progress.
#[derive(Debug)]
struct Open {
    stage: Stage,
    incoming: Leg,
    outgoing: Option<Leg>,
    /// What became of phones that rang in vain.
    passed: Vec<Message>,
    /// As it was told last.
    call: Call,
}

/// One leg's record.
#[derive(Debug)]
struct Leg {
    number: u64,
    direction: Direction,
    /// When it began: what `time` says, which tells its row from others and thus stays the same
    /// whatever becomes of the wall clock.
    time: Seconds,
    began: u64,
    /// The AoR of ours at its other end.
    aor: Option<Arc<[u8]>>,
    /// Who is at its other end.
    external: Box<str>,
    status: &'static str,
}

/// Milliseconds that are shown as seconds with three decimals, as Yate does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// The wall clock's milliseconds at a moment of the monotonic clock.
fn wall(now: Now, millis: u64) -> Seconds {
    // Both clocks tick together.
    let wall = now.unix.saturating_mul(1000).saturating_add(now.millis % 1000);
    Seconds(wall.saturating_sub(now.millis.saturating_sub(millis)))
}

impl Recorder {
    /// Records of a process that began at `started`, in Unix seconds.
    pub(super) fn new(started: u64) -> Self {
        Self {
            run: started,
            legs: 0,
            calls: HashMap::new(),
            inuse: HashMap::new(),
            wanted: Operations::ALL,
        }
    }

    /// Has records of these operations made from now on, and no others.
    pub(super) fn want(&mut self, operations: Operations) {
        self.wanted = operations;
    }

    /// The records that an event makes, in order.
    pub(super) fn take(&mut self, event: CallEvent) -> Vec<Message> {
        let CallEvent { now, call } = event;
        let mut records = Vec::new();
        let (mut open, is_new) = match self.calls.remove(&call.id) {
            Some(open) => (open, false),
            None => (self.begin(now, call.clone(), &mut records), true),
        };
        // What comes late says nothing new.
        let is_news = is_new || call.stage > open.stage;
        open.stage = open.stage.max(call.stage);
        open.call = call;
        self.follow_callee(now, &mut open, &mut records);
        let ended = open.call.ended;
        match open.stage {
            Stage::Ended => {
                let (at, end) = ended.unwrap_or((now.millis, End::Dead));
                self.end(open, at, end.reason(), &mut records);
                return records;
            }
            Stage::Ringing | Stage::Answered if is_news => {
                let status = open.stage.as_str();
                let Open { incoming, outgoing, call, .. } = &mut open;
                for leg in std::iter::once(incoming).chain(outgoing) {
                    // A leg that begins by being answered is answered when it begins.
                    leg.status = status;
                    self.add(&mut records, leg, Operation::Update, call, now.millis);
                }
            }
            Stage::Calling | Stage::Ringing | Stage::Answered => {}
        }
        self.calls.insert(open.call.id, open);
        records
    }

    /// The records of all calls in progress, whose end this process won't see.
    pub(super) fn finish(&mut self, now: Now) -> Vec<Message> {
        let mut records = Vec::new();
        let mut calls: Vec<Open> = self.calls.drain().map(|(_, open)| open).collect();
        calls.sort_by_key(|open| open.call.id);
        for open in calls {
            self.end(open, now.millis, SHUTDOWN, &mut records);
        }
        records
    }

    fn begin(&mut self, now: Now, call: Call, records: &mut Vec<Message>) -> Open {
        let external = name_of(call.parties.from_aor.as_deref(), &call.parties.caller);
        let incoming = Leg {
            number: self.number(),
            direction: Direction::Incoming,
            time: wall(now, call.began),
            began: call.began,
            aor: call.parties.from_aor.as_deref().map(Into::into),
            external,
            status: Direction::Incoming.as_str(),
        };
        self.count(&incoming, true);
        self.add(records, &incoming, Operation::Initialize, &call, call.began);
        Open { stage: Stage::Calling, incoming, outgoing: None, passed: Vec::new(), call }
    }

    /// Begins the leg of who is called as soon as that is known, and another one when it turns out
    /// to be somebody else: of several phones that rang, the one that was picked up.
    fn follow_callee(&mut self, now: Now, open: &mut Open, records: &mut Vec<Message>) {
        let Open { outgoing, passed, call, stage, .. } = open;
        if let Some(leg) = outgoing.take_if(|leg| leg.aor != call.to_aor) {
            self.count(&leg, false);
            let record = self.record(&leg, Operation::Finalize, call, now.millis, PICKUP);
            if self.wanted.contains(Operation::Finalize) {
                records.push(record.clone());
            }
            passed.push(record);
        }
        let is_known = call.to_aor.is_some()
            || call.target.is_some()
            || matches!(stage, Stage::Ringing | Stage::Answered);
        if outgoing.is_some() || !is_known {
            return;
        }
        // Another phone than the first: that one's time is part of the row's name.
        let began = if passed.is_empty() { call.began } else { now.millis };
        let leg = Leg {
            number: self.number(),
            direction: Direction::Outgoing,
            time: wall(now, began),
            began,
            aor: call.to_aor.clone(),
            external: name_of(call.to_aor.as_deref(), &call.parties.called),
            status: Direction::Outgoing.as_str(),
        };
        self.count(&leg, true);
        self.add(records, &leg, Operation::Initialize, call, began);
        *outgoing = Some(leg);
    }

    fn end(&mut self, open: Open, at: u64, reason: &str, records: &mut Vec<Message>) {
        let Open { mut incoming, mut outgoing, passed, call, .. } = open;
        // Also of what nobody told before.
        let status = match (call.answered, call.rang) {
            (Some(_), _) => Some(Stage::Answered),
            (None, Some(_)) => Some(Stage::Ringing),
            (None, None) => None,
        };
        if let Some(stage) = status {
            for leg in std::iter::once(&mut incoming).chain(&mut outgoing) {
                leg.status = stage.as_str();
            }
        }
        let (is_each, is_whole) =
            (self.wanted.contains(Operation::Finalize), self.wanted.contains(Operation::Combined));
        let mut out_legs = Vec::new();
        if let Some(leg) = &outgoing {
            self.count(leg, false);
            if is_each || is_whole {
                out_legs.push(self.record(leg, Operation::Finalize, &call, at, reason));
            }
        }
        if is_each {
            records.extend(out_legs.iter().cloned());
        }
        self.count(&incoming, false);
        if is_each {
            records.push(self.record(&incoming, Operation::Finalize, &call, at, reason));
        }
        if !is_whole {
            return;
        }
        out_legs.extend(passed);
        let mut combined = self.record(&incoming, Operation::Combined, &call, at, reason);
        for (number, leg) in out_legs.iter().enumerate() {
            let prefix = match number {
                0 => "out_leg.".to_owned(),
                number => format!("out_leg.{number}."),
            };
            for (name, value) in leg.params() {
                combined.add(format!("{prefix}{name}"), value);
            }
        }
        records.push(combined);
    }

    fn number(&mut self) -> u64 {
        self.legs += 1;
        self.legs
    }

    /// Counts a leg for the user of ours at its end, or no longer.
    fn count(&mut self, leg: &Leg, begins: bool) {
        if leg.aor.is_none() {
            return;
        }
        if begins {
            *self.inuse.entry(leg.external.clone()).or_default() += 1;
        } else if let Some(calls) = self.inuse.get_mut(&leg.external) {
            *calls = calls.saturating_sub(1);
            if *calls == 0 {
                self.inuse.remove(&leg.external);
            }
        }
    }

    /// Adds a leg's record that isn't its last, if anybody wants it.
    fn add(
        &self,
        records: &mut Vec<Message>,
        leg: &Leg,
        operation: Operation,
        call: &Call,
        at: u64,
    ) {
        if self.wanted.contains(operation) {
            records.push(self.record(leg, operation, call, at, ""));
        }
    }

    /// One `call.cdr`, with Yate's parameters in its order; `inuse` is ours.
    fn record(
        &self,
        leg: &Leg,
        operation: Operation,
        call: &Call,
        at: u64,
        reason: &str,
    ) -> Message {
        // Since when, until when or until now; never before the leg began.
        let since = |from: Option<u64>, until: Option<u64>| {
            let from = from.unwrap_or(at).max(leg.began);
            Seconds(until.unwrap_or(at).min(at).saturating_sub(from))
        };
        let mut message = Message::new(MessageName::CallCdr);
        message.add("time", leg.time.to_string());
        message.add("chan", format!("sip/{}", leg.number));
        message.add("cdrid", leg.number.to_string());
        message.add("runid", self.run.to_string());
        message.add("operation", operation.as_str());
        message.add("direction", leg.direction.as_str());
        message.add("duration", since(Some(leg.began), None).to_string());
        // Who rang in vain was never answered, whatever became of the call.
        let answered = call.answered.filter(|_| reason != PICKUP);
        message.add("billtime", since(answered, None).to_string());
        message.add("ringtime", since(call.rang, answered).to_string());
        message.add("status", leg.status);
        message.add("external", &*leg.external);
        message.add("cdrwrite", "true");
        message.add("billid", format!("{}-{}", self.run, call.id));
        if !reason.is_empty() {
            message.add("reason", reason);
        }
        match leg.direction {
            Direction::Incoming => message.add("address", call.parties.source.to_string()),
            Direction::Outgoing => {
                if let Some(target) = call.target {
                    message.add("address", target.to_string());
                }
            }
        }
        message.add("caller", text(&call.parties.caller));
        message.add("called", text(&call.parties.called));
        message.add("calledfull", text(&call.parties.called));
        if let Some(username) = &call.parties.username {
            message.add("username", text(username));
        }
        message.add("callid", text(&call.parties.call_id));
        let inuse = self.inuse.get(&leg.external).copied().unwrap_or(0);
        message.add("inuse", inuse.to_string());
        message
    }
}

/// Who is at the end of a leg: the user part of the AoR, else the name that was given.
fn name_of(aor: Option<&[u8]>, given: &[u8]) -> Box<str> {
    let user = match aor {
        // In a flat namespace it is the user part alone, which may have an `@` in it.
        Some(aor) if aor == given => aor,
        Some(aor) => split_name(aor).map_or(aor, |(user, _)| user),
        None => given,
    };
    text(user).into()
}

/// What is not UTF-8 is shown, not passed on.
fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::proxy::Parties;

    /// 2026-11-23, and half a minute after the process began.
    pub(in crate::backend::cdr) fn now(millis: u64) -> Now {
        Now { millis, unix: 1_795_446_213 + millis / 1000 }
    }

    pub(in crate::backend::cdr) fn call(id: u64) -> Call {
        let parties = Parties {
            call_id: (*b"abc").into(),
            caller: (*b"100").into(),
            called: (*b"200").into(),
            username: Some((*b"100").into()),
            from_aor: Some((*b"100@example.com").into()),
            source: "192.0.2.1:5060".parse().unwrap(),
        };
        let to_aor = Some((*b"200@example.com").into());
        Call { id, ..Call::new(now(30_123), parties.into(), to_aor) }
    }

    /// A call that is answered after it rang, and ended by one of its parties.
    pub(in crate::backend::cdr) fn answered(id: u64) -> Vec<CallEvent> {
        let calling = call(id);
        let target = Some("192.0.2.2:5062".parse().unwrap());
        let rang = Some(30_500);
        let ringing = Call { stage: Stage::Ringing, rang, target, ..calling.clone() };
        let answered = Call { stage: Stage::Answered, answered: Some(31_750), ..ringing.clone() };
        let ended =
            Call { stage: Stage::Ended, ended: Some((33_000, End::Bye)), ..answered.clone() };
        [(30_123, calling), (30_500, ringing), (31_750, answered), (33_000, ended)]
            .map(|(millis, call)| CallEvent { now: now(millis), call })
            .into()
    }

    const SHOWN: [&str; 11] = [
        "operation",
        "direction",
        "chan",
        "time",
        "duration",
        "billtime",
        "ringtime",
        "status",
        "reason",
        "external",
        "inuse",
    ];

    fn shown(records: &[Message]) -> Vec<String> {
        let show = |record: &Message| {
            SHOWN.map(|name| record.get(name).unwrap_or("-").to_owned()).join(" ")
        };
        records.iter().map(show).collect()
    }

    fn taken(recorder: &mut Recorder, events: impl IntoIterator<Item = CallEvent>) -> Vec<String> {
        shown(&events.into_iter().flat_map(|event| recorder.take(event)).collect::<Vec<_>>())
    }

    #[test]
    fn an_answered_call_leg_by_leg() {
        let mut recorder = Recorder::new(1_795_446_183);
        assert_eq!(
            taken(&mut recorder, answered(7)),
            [
                "initialize incoming sip/1 1795446243.123 0.000 0.000 0.000 incoming - 100 1",
                "initialize outgoing sip/2 1795446243.123 0.000 0.000 0.000 outgoing - 200 1",
                "update incoming sip/1 1795446243.123 0.377 0.000 0.000 ringing - 100 1",
                "update outgoing sip/2 1795446243.123 0.377 0.000 0.000 ringing - 200 1",
                "update incoming sip/1 1795446243.123 1.627 0.000 1.250 answered - 100 1",
                "update outgoing sip/2 1795446243.123 1.627 0.000 1.250 answered - 200 1",
                "finalize outgoing sip/2 1795446243.123 2.877 1.250 1.250 answered - 200 0",
                "finalize incoming sip/1 1795446243.123 2.877 1.250 1.250 answered - 100 0",
                "combined incoming sip/1 1795446243.123 2.877 1.250 1.250 answered - 100 0",
            ]
        );
        assert!(recorder.calls.is_empty() && recorder.inuse.is_empty());
    }

    #[test]
    fn parameters_are_yates_in_its_order() {
        let mut recorder = Recorder::new(1_795_446_183);
        let records: Vec<Message> =
            answered(7).into_iter().flat_map(|event| recorder.take(event)).collect();
        let params = |record: &Message| {
            let all = record.params().map(|(name, value)| format!("{name}={value}"));
            all.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            params(&records[7]),
            "time=1795446243.123 chan=sip/1 cdrid=1 runid=1795446183 operation=finalize \
             direction=incoming duration=2.877 billtime=1.250 ringtime=1.250 status=answered \
             external=100 cdrwrite=true billid=1795446183-7 address=192.0.2.1:5060 caller=100 \
             called=200 calledfull=200 username=100 callid=abc inuse=0"
        );
        let combined = &records[8];
        assert_eq!(combined.get("out_leg.chan"), Some("sip/2"));
        assert_eq!(combined.get("out_leg.address"), Some("192.0.2.2:5062"));
        assert_eq!(combined.get("out_leg.1.chan"), None);
    }

    fn ended(call: &Call, millis: u64, end: End) -> CallEvent {
        let call = Call { stage: Stage::Ended, ended: Some((millis, end)), ..call.clone() };
        CallEvent { now: now(millis), call }
    }

    #[test]
    fn calls_that_come_to_nothing() {
        let mut recorder = Recorder::new(0);
        // Nobody of ours is called, and nothing rings.
        let parties = Parties { from_aor: None, ..(*call(1).parties).clone() };
        let call = Call { to_aor: None, parties: parties.into(), ..call(1) };
        let began = CallEvent { now: now(30_123), call: call.clone() };
        assert_eq!(
            taken(&mut recorder, [began, ended(&call, 30_200, End::Refused(404))]),
            [
                "initialize incoming sip/1 1795446243.123 0.000 0.000 0.000 incoming - 100 0",
                "finalize incoming sip/1 1795446243.123 0.077 0.000 0.000 incoming noroute 100 0",
                "combined incoming sip/1 1795446243.123 0.077 0.000 0.000 incoming noroute 100 0",
            ]
        );
        // It rings, and the caller gives up. Nobody told of its beginning.
        let call = Call { rang: Some(31_000), ..self::call(2) };
        assert_eq!(
            taken(&mut recorder, [ended(&call, 41_000, End::Cancelled)]),
            [
                "initialize incoming sip/2 1795446243.123 0.000 0.000 0.000 incoming - 100 1",
                "initialize outgoing sip/3 1795446243.123 0.000 0.000 0.000 outgoing - 200 1",
                "finalize outgoing sip/3 1795446243.123 10.877 0.000 10.000 ringing cancelled 200 0",
                "finalize incoming sip/2 1795446243.123 10.877 0.000 10.000 ringing cancelled 100 0",
                "combined incoming sip/2 1795446243.123 10.877 0.000 10.000 ringing cancelled 100 0",
            ]
        );
    }

    #[test]
    fn of_several_phones_that_ring_the_one_picked_up_counts() {
        let mut recorder = Recorder::new(0);
        let mut events = answered(1);
        for event in &mut events[2..] {
            event.call.to_aor = Some((*b"201@example.com").into());
        }
        assert_eq!(
            taken(&mut recorder, events)[4..],
            [
                "finalize outgoing sip/2 1795446243.123 1.627 0.000 1.250 ringing pickup 200 0",
                "initialize outgoing sip/3 1795446244.750 0.000 0.000 0.000 outgoing - 201 1",
                "update incoming sip/1 1795446243.123 1.627 0.000 1.250 answered - 100 1",
                "update outgoing sip/3 1795446244.750 0.000 0.000 0.000 answered - 201 1",
                "finalize outgoing sip/3 1795446244.750 1.250 1.250 0.000 answered - 201 0",
                "finalize incoming sip/1 1795446243.123 2.877 1.250 1.250 answered - 100 0",
                "combined incoming sip/1 1795446243.123 2.877 1.250 1.250 answered - 100 0",
            ]
        );
    }

    #[test]
    fn a_user_is_in_as_many_calls_as_there_are() {
        let mut recorder = Recorder::new(0);
        let mut inuse = |event: CallEvent| {
            let records = recorder.take(event);
            records.first().and_then(|record| record.get("inuse")).map(str::to_owned)
        };
        let begin = |id| answered(id).remove(0);
        let end = |id| answered(id).remove(3);
        assert_eq!(inuse(begin(1)).as_deref(), Some("1"));
        assert_eq!(inuse(begin(2)).as_deref(), Some("2"));
        // A stranger of the same name changes nothing.
        let mut stranger = begin(3);
        Arc::make_mut(&mut stranger.call.parties).from_aor = None;
        assert_eq!(inuse(stranger).as_deref(), Some("2"));
        assert_eq!(inuse(end(1)).as_deref(), Some("2"));
    }

    #[test]
    fn what_nobody_wants_is_not_made() {
        let all = taken(&mut Recorder::new(0), answered(1));
        for operation in
            [Operation::Initialize, Operation::Update, Operation::Finalize, Operation::Combined]
        {
            let mut recorder = Recorder::new(0);
            recorder.want(Operations::default().and(operation));
            let wanted: Vec<_> =
                all.iter().filter(|line| line.starts_with(operation.as_str())).cloned().collect();
            assert!(!wanted.is_empty());
            assert_eq!(taken(&mut recorder, answered(1)), wanted);
        }
    }

    #[test]
    fn a_clock_that_is_set_changes_no_rows_name() {
        let mut recorder = Recorder::new(0);
        let mut events = answered(1);
        events[3].now.unix += 3600;
        let times = taken(&mut recorder, events);
        assert!(times.iter().all(|line| line.contains(" 1795446243.123 ")), "{times:?}");
    }

    #[test]
    fn a_stop_ends_all_records() {
        let mut recorder = Recorder::new(0);
        let mut events = answered(1);
        events.truncate(3);
        taken(&mut recorder, events);
        assert_eq!(
            shown(&recorder.finish(now(40_000)))[..2],
            [
                "finalize outgoing sip/2 1795446243.123 9.877 8.250 1.250 answered shutdown 200 0",
                "finalize incoming sip/1 1795446243.123 9.877 8.250 1.250 answered shutdown 100 0",
            ]
        );
        assert!(recorder.finish(now(40_000)).is_empty());
    }
}
