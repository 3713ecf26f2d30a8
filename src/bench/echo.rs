//! Echoes, which must be the octets that were sent.

use super::Error;
use super::answer::INDEX_LEN;
use super::challenge::lines;
use super::engine::Engine;
use super::plan::Operation;
use super::request::{CSEQ_LEN, Credentials, Form, MAX_REQUEST, Values, read_branch};
use super::tally::Fault;

/// One in so many echoes is compared octet by octet; of the others the length, the user and the
/// CSeq count.
const WHOLE: u32 = 16;

/// What an echo is to answer.
#[derive(Debug, Default)]
pub(super) struct Echo {
    /// Octets of each answer. An echo may cut what it sends back, or fill it up, so that its
    /// answers are as long as a registrar's.
    len: usize,
    /// Where a request is written once more, to compare it.
    sent: Vec<u8>,
}

impl Engine<'_> {
    /// Has all requests carry credentials of the usual size, as an echo reads none.
    pub(super) fn pretend(&mut self) {
        self.common.credentials = Some(Credentials {
            realm: self.common.domain.clone().into_bytes(),
            opaque: None,
            algorithm: crate::auth::policy::Algorithm::Md5,
            qop_auth: true,
        });
        for user in 0..self.phones.count() {
            self.phones.set_nonce(user, b"a-nonce-of-twenty-two.");
        }
        self.echo.sent = vec![0; MAX_REQUEST];
    }

    /// Judges the answer to the first user's first request, and learns how long all are.
    pub(super) fn first_echo(&mut self, datagram: &[u8]) -> Result<(), Error> {
        let target = self.plan.target;
        self.echo.len = datagram.len();
        if !self.is_echo(0, datagram) {
            return Err(Error::NoEcho(target));
        }
        let branch_at = self.lines.first().and_then(|line| line.branch_at()).unwrap_or(0);
        let needed = branch_at + INDEX_LEN + CSEQ_LEN;
        if datagram.len() < needed {
            return Err(Error::ShortEcho(target, datagram.len(), needed));
        }
        Ok(())
    }

    /// Takes what came to a line, and finds whose it is.
    pub(super) fn echoed(&mut self, line: usize, datagram: &[u8], now: u64) {
        let branch_at = self.lines.get(line).and_then(|line| line.branch_at());
        let named = branch_at.and_then(|at| read_branch(datagram, at));
        let known = named.and_then(|(user, cseq)| Some((user, cseq, self.phones.get(user)?)));
        let Some((user, cseq, phone)) = known else {
            self.tally.fault(Fault::Foreign, b"");
            return;
        };
        if phone.operation.is_none() || phone.cseq != cseq {
            self.tally.late += 1;
        } else if self.is_right(user, cseq, datagram) {
            self.complete(user, now);
        } else if self.end(user).is_some() {
            self.tally.fault(Fault::Altered, lines(datagram).next().unwrap_or_default());
            self.tally.of(Operation::Echo).failed += 1;
        }
    }

    /// Whether an answer to the request of this user and CSeq is as long as it is to be, and of one
    /// in [`WHOLE`], whether it is all of it: more would cost the generator what the echo costs.
    fn is_right(&mut self, user: u32, cseq: u32, datagram: &[u8]) -> bool {
        let is_checked = user.wrapping_add(cseq).is_multiple_of(WHOLE);
        datagram.len() == self.echo.len && (!is_checked || self.is_echo(user, datagram))
    }

    /// Whether an answer is the last request of `user`, as far as it goes.
    fn is_echo(&mut self, user: u32, datagram: &[u8]) -> bool {
        let Some(phone) = self.phones.get(user) else { return false };
        self.plan.users.name(user, &mut self.name);
        let nonce = self.phones.nonce(user);
        let values = Values { name: &self.name, user, cseq: phone.cseq, nc: phone.nc, nonce };
        let line = self.lines.get_mut(super::engine::line_number(self.plan, user));
        let sent = line.and_then(|line| {
            let len = line.rewrite(&self.common, Form::Bind, &values, &mut self.echo.sent)?;
            self.echo.sent.get(..len)
        });
        sent.is_some_and(|sent| {
            let len = sent.len().min(datagram.len());
            datagram.len() == self.echo.len && datagram.get(..len) == sent.get(..len)
        })
    }
}
