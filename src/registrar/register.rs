//! The rules of RFC 3261 §10.3 steps 6 to 8, for one address-of-record.

use std::ops::Range;

use super::{
    binding::{Binding, MAX_AGENT},
    outcome::{Changes, Outcome, Refusal},
    policy::{CseqOrder, OnLimit, Policy},
    record::{AorRecord, RecordWriter},
};
use crate::{
    flow::Flow,
    sip::header::Contact,
    time::{Deadline, DeltaSeconds, Moment, Now},
};

/// What a malformed expiration counts as (RFC 3261 §10.2.1.1).
const MALFORMED_EXPIRES: DeltaSeconds = DeltaSeconds(3600);

/// What a REGISTER asks for.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// The list of bindings: there is no Contact.
    Bindings,
    /// Each of these contacts bound, or no longer bound.
    Contacts(&'a [Contact<'a>]),
    /// No binding left: `Contact: *`.
    Nothing,
}

/// An authorised REGISTER, as far as the bindings are concerned.
#[derive(Clone, Copy, Debug)]
pub struct Register<'a> {
    /// What is asked for.
    pub wanted: Wanted<'a>,
    /// The Expires header.
    pub expires: Option<&'a [u8]>,
    /// What the account grants whatever is asked, removal excepted; from its settings.
    pub granted: Option<DeltaSeconds>,
    /// Call-ID.
    pub call_id: &'a [u8],
    /// CSeq.
    pub cseq: u32,
    /// A hash of the topmost Via's branch; zero if there is none.
    pub branch: u32,
    /// Where the request came from.
    pub flow: Flow,
    /// All Path values, joined by commas.
    pub path: &'a [u8],
    /// Whether the client says that it knows Path (RFC 3327 §5.1).
    pub supports_path: bool,
    /// User-Agent.
    pub agent: &'a [u8],
}

impl Register<'_> {
    /// The time that a contact of it is granted; zero removes it.
    ///
    /// # Errors
    /// It is less than the least that is granted.
    pub fn interval(
        &self,
        policy: &Policy,
        contact: &Contact<'_>,
    ) -> Result<DeltaSeconds, Refusal> {
        granted(policy, self, contact)
    }

    /// Whether it can do no more to bindings than add or refresh some, and asks for no others.
    pub fn only_adds(&self, policy: &Policy) -> bool {
        let Wanted::Contacts(contacts) = self.wanted else { return false };
        let is_bound = |contact| granted(policy, self, contact) != Ok(DeltaSeconds(0));
        contacts.iter().all(is_bound)
    }
}

/// The space a REGISTER is worked out in; used again for the next.
#[derive(Debug, Default)]
pub struct Workspace {
    /// What the record will hold first, in order.
    plan: Vec<Planned>,
    /// Kept parameters of the planned contacts.
    params: Vec<u8>,
    /// The positions of stored bindings that do not stay where they are.
    moved: Vec<usize>,
    /// Whether a stored binding was made by this very request.
    is_retransmission: bool,
    /// The record as it will be.
    record: Vec<u8>,
}

/// A contact of the request, by position, that will be bound.
#[derive(Debug)]
struct Planned {
    contact: usize,
    granted: DeltaSeconds,
    params: Range<usize>,
    /// The position of the stored binding whose place it takes.
    replaces: Option<usize>,
}

impl Workspace {
    /// The record that the last successful [`register`] decided on.
    pub fn record(&self) -> Option<AorRecord<'_>> {
        AorRecord::new(&self.record)
    }

    /// Its octets.
    pub fn record_bytes(&self) -> &[u8] {
        &self.record
    }

    /// Takes a record that was decided on elsewhere.
    pub fn take(&mut self, record: AorRecord<'_>) {
        self.record.clear();
        self.record.extend_from_slice(record.as_bytes());
    }

    /// What the plan adds, refreshes and removes.
    fn changes(&self) -> Changes {
        let is_replaced = |at: &&usize| self.plan.iter().any(|p| p.replaces == Some(**at));
        let refreshed = self.moved.iter().filter(is_replaced).count();
        let count = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
        Changes {
            added: count(self.plan.len() - refreshed),
            refreshed: count(refreshed),
            removed: count(self.moved.len() - refreshed),
            ..Changes::default()
        }
    }

    /// Packs the bindings that are in force with other nonce counts. `None` if a text is too long,
    /// which none is that was packed before.
    pub fn carry_over(
        &mut self,
        now: Now,
        aor: &[u8],
        nonces: &[u8],
        record: Option<AorRecord<'_>>,
    ) -> Option<()> {
        let mut writer = RecordWriter::new(&mut self.record, aor, nonces)?;
        record.iter().flat_map(|r| r.bindings(now)).try_for_each(|b| writer.push(&b))?;
        writer.finish();
        Some(())
    }
}

/// Works out what becomes of the bindings of `aor`.
///
/// Nothing is changed here: the whole outcome is in `work`, to be committed at once or not at all
/// (RFC 3261 §10.3: a REGISTER is atomic). `nonces` is what the record will hold of the account's
/// nonces.
///
/// # Errors
/// Why the request fails; then nothing of it may take effect.
pub fn register(
    policy: &Policy,
    now: Now,
    request: &Register<'_>,
    aor: &[u8],
    nonces: &[u8],
    record: Option<AorRecord<'_>>,
    work: &mut Workspace,
) -> Result<Outcome, Refusal> {
    work.plan.clear();
    work.params.clear();
    work.moved.clear();
    work.is_retransmission = false;
    let stored = || record.iter().flat_map(AorRecord::stored);

    if !request.path.is_empty() && !request.supports_path {
        return Err(Refusal::PathUnsupported);
    }
    match request.wanted {
        Wanted::Bindings => {}
        Wanted::Nothing => {
            // Step 6: `*` goes with an expiration of zero only.
            if request.expires.and_then(delta_seconds) != Some(DeltaSeconds(0)) {
                return Err(Refusal::WildcardExpires);
            }
            for (at, binding) in stored().enumerate().filter(|(_, b)| !b.deadline.is_past(now)) {
                work.is_retransmission |=
                    order(policy, request, &binding)? == Order::Retransmission;
                work.moved.push(at);
            }
        }
        Wanted::Contacts(contacts) => {
            for at in 0..contacts.len() {
                plan_contact(policy, now, request, contacts, at, record, work)?;
            }
        }
    }
    if work.is_retransmission {
        if !work.plan.is_empty() {
            // It was committed as a whole when it came first.
            work.plan.clear();
            work.moved.clear();
        } else if policy.cseq == CseqOrder::Strict {
            // A request that binds nothing made no binding: it is another one with its numbers.
            return Err(Refusal::OutOfOrder);
        }
    }
    let mut changes = work.changes();

    let contacts = match request.wanted {
        Wanted::Contacts(contacts) => contacts,
        Wanted::Bindings | Wanted::Nothing => &[],
    };
    let stays = |(at, binding): &(usize, Binding<'_>)| {
        !binding.deadline.is_past(now) && !work.moved.contains(at)
    };
    let mut room = usize::from(policy.max_contacts)
        .checked_sub(work.plan.len())
        .ok_or(Refusal::TooManyContacts)?;
    let staying = stored().enumerate().filter(stays).count();
    // Two contacts can stand for one binding, by its instance and by its URI: neither is added, and
    // yet there is one more.
    let live = stored().filter(|binding| !binding.deadline.is_past(now)).count();
    let grows = work.plan.len() + staying > live;
    if grows && staying > room && policy.on_limit == OnLimit::Reject {
        return Err(Refusal::TooManyContacts);
    }
    if !grows {
        // A limit that was lowered does not take what is there.
        room = room.max(staying);
    }

    let mut writer =
        RecordWriter::new(&mut work.record, aor, nonces).ok_or(Refusal::ContactTooLong)?;
    for Planned { contact, granted, params, .. } in &work.plan {
        let contact = &contacts[*contact];
        let binding = Binding {
            uri: contact.uri,
            params: &work.params[params.clone()],
            q: contact.q,
            deadline: Deadline::after(now, *granted),
            updated: Moment::of(now),
            call_id: request.call_id,
            cseq: request.cseq,
            branch: request.branch,
            flow: request.flow,
            path: request.path,
            agent: &request.agent[..request.agent.len().min(MAX_AGENT)],
        };
        writer.push(&binding).ok_or(Refusal::ContactTooLong)?;
    }
    // The latest refreshed come first, so the oldest are those beyond the room there is.
    for (_, binding) in stored().enumerate().filter(stays).take(room) {
        writer.push(&binding).ok_or(Refusal::ContactTooLong)?;
    }
    writer.finish();
    let count = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
    changes.evicted = count(staying.saturating_sub(room));
    changes.expired = count(stored().filter(|b| b.deadline.is_past(now)).count());
    Ok(match request.wanted {
        Wanted::Bindings => Outcome::Queried,
        _ if work.is_retransmission => Outcome::Retransmitted,
        _ => Outcome::Registered(changes),
    })
}

/// Step 7, for the contact at position `at`.
fn plan_contact(
    policy: &Policy,
    now: Now,
    request: &Register<'_>,
    contacts: &[Contact<'_>],
    at: usize,
    record: Option<AorRecord<'_>>,
    work: &mut Workspace,
) -> Result<(), Refusal> {
    let contact = &contacts[at];
    let granted = granted(policy, request, contact)?;

    // A contact named twice in one request: the later one holds.
    work.plan.retain(|planned| !same(&contacts[planned.contact], contact));
    let found = record.iter().flat_map(AorRecord::stored).enumerate().find(|(_, binding)| {
        !binding.deadline.is_past(now)
            && binding.matches(contact.uri, contact.instance, contact.reg_id)
    });
    if let Some((position, binding)) = &found {
        work.is_retransmission |= order(policy, request, binding)? == Order::Retransmission;
        if !work.moved.contains(position) {
            work.moved.push(*position);
        }
    }
    if granted > DeltaSeconds(0) {
        let start = work.params.len();
        keep_params(contact, &mut work.params);
        let params = start..work.params.len();
        let replaces = found.map(|(position, _)| position);
        work.plan.push(Planned { contact: at, granted, params, replaces });
    }
    Ok(())
}

/// How a request stands to a binding that it concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// It comes after what the binding was made by.
    Later,
    /// It is what the binding was made by, sent again.
    Retransmission,
}

/// The Call-ID and CSeq rule of steps 6 and 7, as `[registrar] cseq=` has it.
fn order(policy: &Policy, request: &Register<'_>, binding: &Binding<'_>) -> Result<Order, Refusal> {
    if request.call_id != binding.call_id || request.cseq > binding.cseq {
        return Ok(Order::Later);
    }
    if request.cseq == binding.cseq && request.branch == binding.branch && request.branch != 0 {
        return Ok(Order::Retransmission);
    }
    match policy.cseq {
        CseqOrder::Lenient => Ok(Order::Later),
        CseqOrder::Strict => Err(Refusal::OutOfOrder),
    }
}

/// The time a contact is granted: its own `expires`, else the Expires header, else the default
/// (step 7), within the bounds.
pub(super) fn granted(
    policy: &Policy,
    request: &Register<'_>,
    contact: &Contact<'_>,
) -> Result<DeltaSeconds, Refusal> {
    let asked = match contact.expires.or(request.expires) {
        Some(text) => delta_seconds(text).unwrap_or(MALFORMED_EXPIRES),
        None => policy.expires_def,
    };
    if asked == DeltaSeconds(0) {
        return Ok(asked);
    }
    if let Some(granted) = request.granted {
        return Ok(granted);
    }
    if asked < policy.expires_min {
        return Err(Refusal::IntervalTooBrief { min: policy.expires_min });
    }
    Ok(asked.min(policy.expires_max))
}

/// `delta-seconds`, within quotes too; `None` if malformed or too large to be one.
fn delta_seconds(text: &[u8]) -> Option<DeltaSeconds> {
    let text = text.strip_prefix(b"\"").and_then(|t| t.strip_suffix(b"\"")).unwrap_or(text);
    let digits = text.trim_ascii();
    let value = digits.iter().try_fold(0_u32, |value, octet| {
        let digit = octet.is_ascii_digit().then(|| octet - b'0')?;
        value.checked_mul(10)?.checked_add(u32::from(digit))
    });
    value.filter(|_| !digits.is_empty()).map(DeltaSeconds)
}

/// Whether two contacts of one request ask for the same binding.
fn same(a: &Contact<'_>, b: &Contact<'_>) -> bool {
    match (a.instance, b.instance) {
        (Some(x), Some(y)) => x.eq_ignore_ascii_case(y) && a.reg_id == b.reg_id,
        _ => crate::sip::uri::equal(a.uri, b.uri),
    }
}

/// Appends the parameters that a binding keeps: all but `expires`, each octet as it came.
fn keep_params(contact: &Contact<'_>, out: &mut Vec<u8>) {
    if contact.expires.is_none() {
        out.extend_from_slice(contact.params.as_bytes());
        return;
    }
    for param in contact.kept_params() {
        out.push(b';');
        out.extend_from_slice(param.raw);
    }
}

/// Whether `kept` is what [`keep_params`] keeps of a contact.
pub(super) fn is_kept(contact: &Contact<'_>, kept: &[u8]) -> bool {
    let sent = contact.params.as_bytes();
    if contact.expires.is_none() {
        return kept == sent;
    }
    // The usual: `;expires=600` and nothing beside it.
    if kept.is_empty() && sent.iter().skip(1).all(|&octet| octet != b';') {
        return true;
    }
    let rest = contact.kept_params().try_fold(kept, |rest, param| {
        rest.strip_prefix(b";").and_then(|rest| rest.strip_prefix(param.raw))
    });
    rest.is_some_and(<[u8]>::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{flow::ListenerId, sip::header::Params, sip::uri, time::Deadline};
    use proptest::prelude::*;

    const AOR: &[u8] = b"alice@example.com";

    /// Contacts that differ, equal each other, or name an instance.
    const CONTACTS: [&str; 6] = [
        "<sip:a@192.0.2.1>",
        "<sip:%61@192.0.2.1;x=1>",
        "<sip:a@192.0.2.1;x=2>",
        "<sip:b@192.0.2.2>;q=0.5",
        "<sip:c@192.0.2.3>;+sip.instance=\"<urn:uuid:1>\"",
        "<sip:d@192.0.2.4>;+sip.instance=\"<urn:uuid:1>\"",
    ];

    /// A request of the property: contacts by number, each with what it asks for.
    #[derive(Clone, Debug)]
    struct Asked {
        wait: u64,
        wanted: Option<Vec<(usize, Option<u32>)>>,
        header: Option<u32>,
        call_id: u8,
        cseq: u32,
        branch: u32,
    }

    fn asked() -> impl Strategy<Value = Asked> {
        let expires = || prop::option::of(prop_oneof![Just(0), Just(59), Just(60), 61..5000_u32]);
        let contacts = prop::collection::vec((0..CONTACTS.len(), expires()), 0..4);
        // `None` stands for `Contact: *`.
        let wanted = prop::option::weighted(0.9, contacts);
        (0..100_u64, wanted, expires(), 0..2_u8, 1..5_u32, 1..4_u32).prop_map(
            |(wait, wanted, header, call_id, cseq, branch)| Asked {
                wait,
                wanted,
                header,
                call_id,
                cseq,
                branch,
            },
        )
    }

    /// A binding as the model knows it: the URI and instance, its end and who made it.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Known {
        uri: Vec<u8>,
        instance: Option<Vec<u8>>,
        deadline: u32,
        made_by: (u8, u32, u32),
    }

    impl Known {
        fn is(&self, uri: &[u8], instance: Option<&[u8]>) -> bool {
            match (&self.instance, instance) {
                (Some(mine), Some(other)) => mine == other,
                _ => uri::equal(&self.uri, uri),
            }
        }
    }

    /// RFC 3261 §10.3 steps 6 and 7 as they read, with lists and no space saved. `None`: it fails.
    fn model(policy: &Policy, now: Now, asked: &Asked, before: &[Known]) -> Option<Vec<Known>> {
        let made_by = (asked.call_id, asked.cseq, asked.branch);
        let live: Vec<Known> =
            before.iter().filter(|k| k.deadline > now.second()).cloned().collect();
        let is_late = |k: &Known| k.made_by.0 == asked.call_id && asked.cseq <= k.made_by.1;
        let Some(wanted) = &asked.wanted else {
            let may = asked.header == Some(0) && !live.iter().any(is_late);
            return may.then(Vec::new);
        };
        let texts: Vec<Contact<'_>> =
            wanted.iter().map(|(c, _)| Contact::parse(CONTACTS[*c].as_bytes()).unwrap()).collect();
        let (mut bound, mut gone, mut again): (Vec<Known>, Vec<Known>, bool) =
            (Vec::new(), Vec::new(), false);
        for (contact, (_, expires)) in texts.iter().zip(wanted) {
            let time = expires.or(asked.header).unwrap_or(policy.expires_def.0);
            if time > 0 && time < policy.expires_min.0 {
                return None;
            }
            if let Some(old) = live.iter().find(|k| k.is(contact.uri, contact.instance)) {
                if old.made_by == made_by {
                    again = true;
                } else if is_late(old) {
                    return None;
                }
                gone.push(old.clone());
            }
            bound.retain(|k| !k.is(contact.uri, contact.instance));
            if time > 0 {
                bound.push(Known {
                    uri: contact.uri.to_vec(),
                    instance: contact.instance.map(<[u8]>::to_vec),
                    deadline: now.second() + time.min(policy.expires_max.0),
                    made_by,
                });
            }
        }
        if again {
            return (!bound.is_empty()).then_some(live);
        }
        bound.extend(live.into_iter().filter(|k| !gone.contains(k)));
        Some(bound)
    }

    /// Plays a request; the result is the packed record after it, or `None` if it fails.
    fn play(policy: &Policy, now: Now, asked: &Asked, before: &[u8]) -> Option<Vec<u8>> {
        let texts: Vec<String> = asked.wanted.iter().flatten().map(text).collect();
        let contacts: Vec<Contact<'_>> =
            texts.iter().map(|text| Contact::parse(text.as_bytes()).unwrap()).collect();
        let header = asked.header.map(|h| h.to_string());
        let call_id = [b'a' + asked.call_id];
        let request = Register {
            wanted: match &asked.wanted {
                None => Wanted::Nothing,
                Some(list) if list.is_empty() => Wanted::Bindings,
                Some(_) => Wanted::Contacts(&contacts),
            },
            expires: header.as_ref().map(String::as_bytes),
            granted: None,
            call_id: &call_id,
            cseq: asked.cseq,
            branch: asked.branch,
            flow: Flow {
                listener: ListenerId(0),
                transport: crate::flow::Transport::Udp,
                local: None,
                remote: "192.0.2.1:5060".parse().unwrap(),
            },
            path: b"",
            supports_path: true,
            agent: b"",
        };
        let mut work = Workspace::default();
        let record = AorRecord::new(before);
        register(policy, now, &request, AOR, b"", record, &mut work).ok()?;
        Some(work.record_bytes().to_vec())
    }

    fn text((contact, expires): &(usize, Option<u32>)) -> String {
        match expires {
            Some(expires) => format!("{};expires={expires}", CONTACTS[*contact]),
            None => CONTACTS[*contact].to_owned(),
        }
    }

    fn known(record: &[u8], now: Now) -> Vec<Known> {
        let record = AorRecord::new(record);
        let known = |b: Binding<'_>| Known {
            uri: b.uri.to_vec(),
            instance: Params::new(b.params)
                .find("+sip.instance")
                .and_then(|p| p.value)
                .map(Into::into),
            deadline: b.deadline.0,
            made_by: (b.call_id[0] - b'a', b.cseq, b.branch),
        };
        record.iter().flat_map(|r| r.bindings(now)).map(known).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Any sequence of requests leaves the bindings that the RFC's steps leave, in the order of
        /// their last refresh, and one that fails leaves what was.
        #[test]
        fn steps_6_and_7(requests in prop::collection::vec(asked(), 1..12)) {
            let policy = Policy { max_contacts: 100, ..Policy::default() };
            let mut now = Now { millis: 1000, unix: 1_800_000_000 };
            let (mut record, mut bindings) = (Vec::new(), Vec::new());
            for asked in requests {
                now.millis += 1000 * asked.wait;
                let (played, modelled) =
                    (play(&policy, now, &asked, &record), model(&policy, now, &asked, &bindings));
                prop_assert_eq!(played.is_some(), modelled.is_some(), "{:?} on {:?}", &asked, &bindings);
                record = played.unwrap_or(record);
                bindings = modelled.unwrap_or(bindings);
                bindings.retain(|k| k.deadline > now.second());
                prop_assert_eq!(&known(&record, now), &bindings, "{:?}", &asked);
            }
        }
    }

    #[test]
    fn a_deadline_far_away_does_not_wrap() {
        let policy = Policy { expires_max: DeltaSeconds(u32::MAX), ..Policy::default() };
        let now = Now { millis: 5000, unix: 1_800_000_000 };
        let asked = Asked {
            wait: 0,
            wanted: Some(vec![(0, Some(u32::MAX))]),
            header: None,
            call_id: 0,
            cseq: 1,
            branch: 1,
        };
        let record = play(&policy, now, &asked, b"").unwrap();
        assert_eq!(known(&record, now)[0].deadline, Deadline(u32::MAX).0);
    }
}
