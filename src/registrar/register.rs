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
    time::{Deadline, DeltaSeconds, Now},
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
    /// User-Agent.
    pub agent: &'a [u8],
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
    /// The record as it will be.
    record: Vec<u8>,
}

#[derive(Debug)]
enum Planned {
    /// A contact of the request, by position.
    Bound { contact: usize, granted: DeltaSeconds, params: Range<usize> },
    /// A stored binding that a retransmission asks for again, by position.
    Unchanged(usize),
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

    /// Takes a record that stays as it is, to be answered from.
    pub fn keep(&mut self, record: Option<AorRecord<'_>>) {
        self.record.clear();
        self.record.extend_from_slice(record.map_or(&[], |r| r.as_bytes()));
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
    let stored = || record.iter().flat_map(AorRecord::stored);
    let mut changes = Changes::default();

    match request.wanted {
        Wanted::Bindings => {}
        Wanted::Nothing => {
            // Step 6: `*` goes with an expiration of zero only.
            if request.expires.and_then(delta_seconds) != Some(DeltaSeconds(0)) {
                return Err(Refusal::WildcardExpires);
            }
            for (at, binding) in stored().enumerate() {
                if !binding.deadline.is_past(now) {
                    order(policy, request, &binding)?;
                    changes.removed += 1;
                }
                work.moved.push(at);
            }
        }
        Wanted::Contacts(contacts) => {
            for at in 0..contacts.len() {
                plan_contact(policy, now, request, contacts, at, record, work, &mut changes)?;
            }
        }
    }

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
    for planned in &work.plan {
        let binding = match planned {
            Planned::Bound { contact, granted, params } => {
                let contact = &contacts[*contact];
                Binding {
                    uri: contact.uri,
                    params: &work.params[params.clone()],
                    q: contact.q,
                    deadline: Deadline::after(now, *granted),
                    updated: now.second(),
                    call_id: request.call_id,
                    cseq: request.cseq,
                    branch: request.branch,
                    flow: request.flow,
                    path: request.path,
                    agent: &request.agent[..request.agent.len().min(MAX_AGENT)],
                }
            }
            Planned::Unchanged(at) => stored().nth(*at).ok_or(Refusal::ContactTooLong)?,
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
        _ => Outcome::Registered(changes),
    })
}

/// Step 7, for the contact at position `at`.
#[expect(clippy::too_many_arguments, reason = "the loop body of `register`, kept apart to be read")]
fn plan_contact(
    policy: &Policy,
    now: Now,
    request: &Register<'_>,
    contacts: &[Contact<'_>],
    at: usize,
    record: Option<AorRecord<'_>>,
    work: &mut Workspace,
    changes: &mut Changes,
) -> Result<(), Refusal> {
    let contact = &contacts[at];
    let granted = granted(policy, request, contact)?;
    let is_removal = granted == DeltaSeconds(0);

    // A contact named twice in one request: the later one holds.
    let planned = work.plan.len();
    work.plan.retain(|planned| match planned {
        Planned::Bound { contact: earlier, .. } => !same(&contacts[*earlier], contact),
        Planned::Unchanged(_) => true,
    });
    let found = record.iter().flat_map(AorRecord::stored).enumerate().find(|(_, binding)| {
        !binding.deadline.is_past(now)
            && binding.matches(contact.uri, contact.instance, contact.reg_id)
    });
    match found {
        Some((position, binding)) => {
            let order = order(policy, request, &binding)?;
            if !work.moved.contains(&position) {
                work.moved.push(position);
                if order == Order::Retransmission && !is_removal {
                    work.plan.push(Planned::Unchanged(position));
                    return Ok(());
                }
                if is_removal {
                    changes.removed += 1;
                } else {
                    changes.refreshed += 1;
                }
            }
        }
        None if work.plan.len() < planned => changes.added -= u16::from(is_removal),
        None => changes.added += u16::from(!is_removal),
    }
    if !is_removal {
        let start = work.params.len();
        keep_params(contact, &mut work.params);
        let params = start..work.params.len();
        work.plan.push(Planned::Bound { contact: at, granted, params });
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
fn granted(
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
    std::str::from_utf8(text.trim_ascii())
        .ok()
        .filter(|t| t.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|t| t.parse().ok())
        .map(DeltaSeconds)
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
