//! What a churn was told: which change of each user is acknowledged, and which ones are open.
//!
//! A server that is killed and started again must serve what it has acknowledged. What it was asked
//! and has not answered may have come about or not: both are right.

use super::clock::unix;
use super::plan::Operation;

/// One change of a user's binding, of which each user has one at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Change {
    /// The CSeq that asked for it.
    pub cseq: u32,
    /// Whether it binds the contact; otherwise it is removed.
    pub bound: bool,
    /// Seconds: granted, or of an open change those asked for. 0 where it is removed.
    pub expires: u32,
    /// When the request was first sent, in Unix seconds.
    pub sent: u64,
    /// When its answer came, in Unix seconds; 0 while there is none.
    pub answered: u64,
}

/// What is known of one user at the end.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Standing {
    /// The user's name.
    pub user: String,
    /// The Call-ID of all its requests.
    pub call_id: String,
    /// The last change that was acknowledged.
    pub acknowledged: Option<Change>,
    /// How many were, in all.
    pub changes: u64,
    /// Changes asked for since, that were neither acknowledged nor refused.
    pub open: Vec<Change>,
}

/// What is known of all users.
#[derive(Debug)]
pub(super) struct Ledger(Vec<Entry>);

#[derive(Clone, Debug, Default)]
struct Entry {
    acknowledged: Option<Change>,
    changes: u64,
    open: Vec<Change>,
}

/// The shortest expiry that is asked for, in seconds: longer than any campaign's round.
const SHORTEST: u32 = 1000;

/// How many different ones there are. All have four digits, so that requests keep their length.
const SPREAD: u32 = 2600;

/// The expiry that the request of this CSeq asks for, in seconds: sent again, it asks the same.
pub(super) fn expires(user: u32, cseq: u32) -> u32 {
    SHORTEST + user.wrapping_add(cseq).wrapping_mul(0x9e37_79b1) % SPREAD
}

/// What a phone does next, any number being as likely as any other: six bind of ten.
pub(super) fn pick(number: u64) -> Operation {
    match number % 10 {
        0..6 => Operation::Reregistration,
        6..9 => Operation::Unregistration,
        _ => Operation::Clearing,
    }
}

impl Ledger {
    /// Nothing is known yet of `count` users.
    pub(super) fn new(count: u32) -> Self {
        Self(vec![Entry::default(); usize::try_from(count).unwrap_or(0)])
    }

    fn entry(&mut self, user: u32) -> Option<&mut Entry> {
        self.0.get_mut(usize::try_from(user).ok()?)
    }

    /// A request with credentials leaves.
    pub(super) fn asked(&mut self, user: u32, cseq: u32, operation: Operation) {
        let Some(entry) = self.entry(user) else { return };
        let bound = operation == Operation::Reregistration;
        let expires = if bound { expires(user, cseq) } else { 0 };
        entry.open.push(Change { cseq, bound, expires, sent: unix(), answered: 0 });
    }

    /// The last request was answered 200 by an answer that grants `granted` seconds.
    pub(super) fn acknowledged(&mut self, user: u32, granted: u32) {
        let Some(entry) = self.entry(user) else { return };
        let Some(change) = entry.open.pop() else { return };
        entry.acknowledged = Some(Change { expires: granted, answered: unix(), ..change });
        entry.changes += 1;
        // What was open before has a lower CSeq: it can't come about any more.
        entry.open.clear();
    }

    /// The last request was refused. One that was sent more than once may have been taken before.
    pub(super) fn refused(&mut self, user: u32, cseq: u32, was_repeated: bool) {
        if let Some(entry) = self.entry(user)
            && !was_repeated
        {
            entry.open.pop_if(|change| change.cseq == cseq);
        }
    }

    /// How many users it knows of.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// What is known of `user`, the one of this number.
    pub(super) fn standing(&self, number: u32, user: String, call_id: String) -> Option<Standing> {
        let Entry { acknowledged, changes, open } =
            self.0.get(usize::try_from(number).ok()?)?.clone();
        Some(Standing { user, call_id, acknowledged, changes, open })
    }
}

/// The `expires` of the Contact that `contact` (user, host and port) names in an answer, in seconds.
pub(super) fn granted(answer: &[u8], contact: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"expires=";
    let at = memchr::memmem::find(answer, contact)? + contact.len();
    let rest = answer.get(at..)?;
    let end = rest.iter().position(|octet| b",\r\n".contains(octet)).unwrap_or(rest.len());
    let params = rest.get(..end)?;
    let digits = params.get(memchr::memmem::find(params, NAME)? + NAME.len()..)?;
    let len = digits.iter().take_while(|octet| octet.is_ascii_digit()).count();
    std::str::from_utf8(digits.get(..len)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cseqs(ledger: &Ledger) -> (Option<u32>, Vec<u32>) {
        let standing = ledger.standing(1, "u1".into(), "call".into()).unwrap();
        let open = standing.open.iter().map(|change| change.cseq).collect();
        (standing.acknowledged.map(|change| change.cseq), open)
    }

    #[test]
    fn an_acknowledgement_settles_all_that_was_open() {
        let mut ledger = Ledger::new(2);
        ledger.asked(1, 5, Operation::Reregistration);
        assert_eq!(cseqs(&ledger), (None, vec![5]));
        ledger.refused(1, 5, true);
        ledger.asked(1, 6, Operation::Reregistration);
        assert_eq!(cseqs(&ledger), (None, vec![5, 6]));
        ledger.acknowledged(1, 1200);
        assert_eq!(cseqs(&ledger), (Some(6), vec![]));
        let change = ledger.standing(1, String::new(), String::new()).unwrap().acknowledged;
        assert!(change.is_some_and(|change| change.bound && change.expires == 1200));
    }

    #[test]
    fn what_is_refused_was_not_done() {
        let mut ledger = Ledger::new(2);
        ledger.asked(1, 5, Operation::Clearing);
        ledger.refused(1, 5, false);
        assert_eq!(cseqs(&ledger), (None, vec![]));
        assert!(ledger.standing(2, String::new(), String::new()).is_none());
    }

    #[test]
    fn the_granted_expiry_is_that_of_our_contact() {
        let answer =
            b"Contact: <sip:a@h:1>;expires=7, <sip:b@h:1>;q=1;expires=1234\r\nExpires: 9\r\n";
        assert_eq!(granted(answer, b"b@h:1"), Some(1234));
        assert_eq!(granted(answer, b"a@h:1"), Some(7));
        assert_eq!(granted(answer, b"c@h:1"), None);
        assert_eq!(granted(b"Contact: <sip:a@h:1>\r\nExpires: 9\r\n", b"a@h:1"), None);
    }

    #[test]
    fn expiries_differ_and_have_four_digits() {
        let all: Vec<_> = (0..100).map(|cseq| expires(7, 100_000_000 + cseq)).collect();
        assert!(all.iter().all(|expires| (1000..3600).contains(expires)));
        assert!(all.iter().any(|expires| *expires != all[0]));
    }
}
