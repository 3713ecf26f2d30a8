//! The transactions of RFC 3261 §17 with the corrections of RFC 6026, over an unreliable transport.
//!
//! Each is a small value that is told what happens, and the time, and tells what has to be done.
//! [`due`](InviteClient::due) is to be called when [`next`](InviteClient::next) has come.

use super::timer::{FAILOVER, T1, T2, T4, TIMER_D, TRANSACTION};

/// No time ever.
const NEVER: u64 = u64::MAX;

/// What has to be done because time has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The last message is sent again.
    Resend,
    /// The other side was silent for too long (timers B, F, H).
    TimedOut,
    /// It has ended, and may be forgotten.
    Over,
}

/// When a message is sent again, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Clockwork {
    resend: u64,
    interval: u64,
    end: u64,
}

impl Clockwork {
    /// Sends again after `T1`, and ever less often, until `TRANSACTION` has passed.
    fn insist(now: u64) -> Self {
        Self { resend: now + T1, interval: T1, end: now + TRANSACTION }
    }

    /// Sends nothing by itself.
    fn until(end: u64) -> Self {
        Self { resend: NEVER, interval: 0, end }
    }

    fn next(&self) -> u64 {
        self.resend.min(self.end)
    }

    /// Whether the end has come; else, whether it is time to send again, the next time after
    /// twice as long, but at most `longest`.
    fn is_over(&mut self, now: u64, longest: u64) -> Option<bool> {
        if now >= self.end {
            self.resend = NEVER;
            return Some(true);
        }
        if now < self.resend {
            return None;
        }
        self.interval = (2 * self.interval).min(longest);
        self.resend = now + self.interval;
        Some(false)
    }
}

/// The state of a client transaction (figures 5 and 6; RFC 6026 §8.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientState {
    /// `Calling`, `Trying`: nothing has come back.
    Trying,
    /// A provisional response has.
    Proceeding,
    /// A final one has; for an INVITE, one that is no 2xx.
    Completed,
    /// An INVITE's 2xx has.
    Accepted,
    /// It has ended.
    Terminated,
}

/// What becomes of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// It is for the transaction's user: not a repetition.
    pub is_news: bool,
    /// An ACK is sent for it (§17.1.1.3).
    pub ack: bool,
}

/// An INVITE client transaction (§17.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InviteClient {
    state: ClientState,
    clock: Clockwork,
}

impl InviteClient {
    /// The INVITE is being sent: timers A and B.
    pub fn begin(now: u64) -> Self {
        Self { state: ClientState::Trying, clock: Clockwork::insist(now) }
    }

    /// The same, where another server may have it if this one says nothing.
    pub fn begin_with_others(now: u64) -> Self {
        let clock = Clockwork { end: now + FAILOVER, ..Clockwork::insist(now) };
        Self { state: ClientState::Trying, clock }
    }

    /// Where it stands.
    pub fn state(&self) -> ClientState {
        self.state
    }

    /// When it wants to be woken.
    pub fn next(&self) -> u64 {
        self.clock.next()
    }

    /// A response has come.
    pub fn response(&mut self, now: u64, code: u16) -> Response {
        match (self.state, code) {
            (ClientState::Trying | ClientState::Proceeding, 100..200) => {
                // Timers A and B stop; how long a callee may ring is the proxy's to say (timer C).
                (self.state, self.clock) = (ClientState::Proceeding, Clockwork::until(NEVER));
                Response { is_news: true, ack: false }
            }
            (ClientState::Trying | ClientState::Proceeding, 200..300) => {
                let timer_m = Clockwork::until(now + TRANSACTION);
                (self.state, self.clock) = (ClientState::Accepted, timer_m);
                Response { is_news: true, ack: false }
            }
            (ClientState::Trying | ClientState::Proceeding, _) => {
                (self.state, self.clock) =
                    (ClientState::Completed, Clockwork::until(now + TIMER_D));
                Response { is_news: true, ack: true }
            }
            // Each 2xx goes on, whoever it is from (RFC 6026 §7.2).
            (ClientState::Accepted, 200..300) => Response { is_news: true, ack: false },
            (ClientState::Completed, 300..) => Response { is_news: false, ack: true },
            _ => Response::default(),
        }
    }

    /// Gives up what was begun: the request could not be sent, or nobody wants to wait any more.
    pub fn terminate(&mut self) {
        (self.state, self.clock) = (ClientState::Terminated, Clockwork::until(NEVER));
    }

    /// What has to be done now, if anything.
    pub fn due(&mut self, now: u64) -> Option<Due> {
        // Timer A has no longest interval.
        let is_over = self.clock.is_over(now, NEVER / 4)?;
        if !is_over {
            return Some(Due::Resend);
        }
        let is_waiting = self.state == ClientState::Trying;
        self.terminate();
        Some(if is_waiting { Due::TimedOut } else { Due::Over })
    }
}

/// A client transaction of any other request (§17.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    state: ClientState,
    clock: Clockwork,
}

impl Client {
    /// The request is being sent: timers E and F.
    pub fn begin(now: u64) -> Self {
        Self { state: ClientState::Trying, clock: Clockwork::insist(now) }
    }

    /// Where it stands.
    pub fn state(&self) -> ClientState {
        self.state
    }

    /// When it wants to be woken.
    pub fn next(&self) -> u64 {
        self.clock.next()
    }

    /// A response has come; whether it is news.
    pub fn response(&mut self, now: u64, code: u16) -> bool {
        match (self.state, code) {
            (ClientState::Trying | ClientState::Proceeding, 100..200) => {
                if self.state == ClientState::Trying {
                    // Timer E at T2 from here on; timer F goes on.
                    (self.clock.interval, self.clock.resend) = (T2, now + T2);
                }
                self.state = ClientState::Proceeding;
                true
            }
            (ClientState::Trying | ClientState::Proceeding, _) => {
                // Timer K.
                (self.state, self.clock) = (ClientState::Completed, Clockwork::until(now + T4));
                true
            }
            _ => false,
        }
    }

    /// Gives up what was begun.
    pub fn terminate(&mut self) {
        (self.state, self.clock) = (ClientState::Terminated, Clockwork::until(NEVER));
    }

    /// What has to be done now, if anything.
    pub fn due(&mut self, now: u64) -> Option<Due> {
        let is_over = self.clock.is_over(now, T2)?;
        if !is_over {
            return Some(Due::Resend);
        }
        let is_waiting = matches!(self.state, ClientState::Trying | ClientState::Proceeding);
        self.terminate();
        Some(if is_waiting { Due::TimedOut } else { Due::Over })
    }
}

/// The state of a server transaction (figures 7 and 8; RFC 6026 §7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// Nothing has been answered, or nothing final.
    Proceeding,
    /// A final response was; for an INVITE, one that is no 2xx.
    Completed,
    /// And the ACK for it has come.
    Confirmed,
    /// An INVITE's 2xx was sent.
    Accepted,
    /// It has ended.
    Terminated,
}

/// An INVITE server transaction (§17.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InviteServer {
    state: ServerState,
    clock: Clockwork,
}

impl InviteServer {
    /// An INVITE has come.
    pub fn begin() -> Self {
        Self { state: ServerState::Proceeding, clock: Clockwork::until(NEVER) }
    }

    /// Where it stands.
    pub fn state(&self) -> ServerState {
        self.state
    }

    /// When it wants to be woken.
    pub fn next(&self) -> u64 {
        self.clock.next()
    }

    /// A response is to be sent; whether it may.
    pub fn respond(&mut self, now: u64, code: u16) -> bool {
        match (self.state, code) {
            (ServerState::Proceeding, 100..200) => true,
            (ServerState::Proceeding | ServerState::Accepted, 200..300) => {
                if self.state == ServerState::Proceeding {
                    let timer_l = Clockwork::until(now + TRANSACTION);
                    (self.state, self.clock) = (ServerState::Accepted, timer_l);
                }
                true
            }
            (ServerState::Proceeding, _) => {
                // Timers G and H.
                (self.state, self.clock) = (ServerState::Completed, Clockwork::insist(now));
                true
            }
            _ => false,
        }
    }

    /// The INVITE has come again; whether the last response is sent again.
    pub fn repeated(&self) -> bool {
        matches!(self.state, ServerState::Proceeding | ServerState::Completed)
    }

    /// An ACK has come for a response that is no 2xx.
    pub fn ack(&mut self, now: u64) {
        if self.state == ServerState::Completed {
            // Timer I.
            (self.state, self.clock) = (ServerState::Confirmed, Clockwork::until(now + T4));
        }
    }

    /// What has to be done now, if anything.
    pub fn due(&mut self, now: u64) -> Option<Due> {
        let is_over = self.clock.is_over(now, T2)?;
        if !is_over {
            return Some(Due::Resend);
        }
        let is_waiting = self.state == ServerState::Completed;
        (self.state, self.clock) = (ServerState::Terminated, Clockwork::until(NEVER));
        Some(if is_waiting { Due::TimedOut } else { Due::Over })
    }
}

/// A server transaction of any other request (§17.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    state: ServerState,
    clock: Clockwork,
}

impl Server {
    /// A request has come.
    pub fn begin() -> Self {
        Self { state: ServerState::Proceeding, clock: Clockwork::until(NEVER) }
    }

    /// Where it stands.
    pub fn state(&self) -> ServerState {
        self.state
    }

    /// When it wants to be woken.
    pub fn next(&self) -> u64 {
        self.clock.next()
    }

    /// A response is to be sent; whether it may.
    pub fn respond(&mut self, now: u64, code: u16) -> bool {
        if self.state != ServerState::Proceeding {
            return false;
        }
        if code >= 200 {
            // Timer J.
            (self.state, self.clock) =
                (ServerState::Completed, Clockwork::until(now + TRANSACTION));
        }
        true
    }

    /// Gives up: there will be no response.
    pub fn terminate(&mut self) {
        (self.state, self.clock) = (ServerState::Terminated, Clockwork::until(NEVER));
    }

    /// The request has come again; whether the last response, if there is any, is sent again.
    pub fn repeated(&self) -> bool {
        self.state != ServerState::Terminated
    }

    /// What has to be done now, if anything.
    pub fn due(&mut self, now: u64) -> Option<Due> {
        self.clock.is_over(now, T2)?;
        (self.state, self.clock) = (ServerState::Terminated, Clockwork::until(NEVER));
        Some(Due::Over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that happens by itself from `from` to `to`, with the milliseconds since `from`.
    fn let_pass(
        from: u64,
        to: u64,
        mut next: impl FnMut() -> u64,
        mut due: impl FnMut(u64) -> Option<Due>,
    ) -> Vec<(u64, Due)> {
        let mut happened = Vec::new();
        let mut now = from;
        loop {
            now = next().max(now);
            if now > to {
                return happened;
            }
            happened.extend(due(now).map(|due| (now - from, due)));
        }
    }

    macro_rules! pass {
        ($transaction:expr, $from:expr, $to:expr) => {{
            let cell = std::cell::RefCell::new(&mut $transaction);
            let_pass($from, $to, || cell.borrow().next(), |now| cell.borrow_mut().due(now))
        }};
    }

    fn resends(at: &[u64]) -> Vec<(u64, Due)> {
        at.iter().map(|&at| (at, Due::Resend)).collect()
    }

    const HOUR: u64 = 3_600_000;

    #[test]
    fn an_invite_is_sent_seven_times_and_then_given_up() {
        let mut invite = InviteClient::begin(1000);
        let mut expected = resends(&[500, 1500, 3500, 7500, 15_500, 31_500]);
        expected.push((32_000, Due::TimedOut));
        assert_eq!(pass!(invite, 1000, HOUR), expected);
        assert_eq!(invite.state(), ClientState::Terminated);
        assert_eq!(invite.response(HOUR, 200), Response::default());
    }

    #[test]
    fn a_provisional_response_stops_an_invite_from_being_sent_again() {
        let mut invite = InviteClient::begin(0);
        assert_eq!(pass!(invite, 0, 600), resends(&[500]));
        assert_eq!(invite.response(700, 100), Response { is_news: true, ack: false });
        assert_eq!(invite.response(800, 180), Response { is_news: true, ack: false });
        assert_eq!(invite.state(), ClientState::Proceeding);
        assert_eq!(pass!(invite, 800, HOUR), []);
    }

    #[test]
    fn a_refusal_is_acknowledged_each_time_and_told_once() {
        for first in [false, true] {
            let mut invite = InviteClient::begin(0);
            if first {
                invite.response(10, 183);
            }
            assert_eq!(invite.response(20, 486), Response { is_news: true, ack: true });
            assert_eq!(invite.response(600, 486), Response { is_news: false, ack: true });
            // Neither a provisional response nor a 2xx counts any more.
            assert_eq!(invite.response(700, 180), Response::default());
            assert_eq!(invite.response(700, 200), Response::default());
            assert_eq!(pass!(invite, 20, HOUR), [(TIMER_D, Due::Over)]);
        }
    }

    #[test]
    fn each_answer_to_an_invite_goes_on_for_a_while() {
        let mut invite = InviteClient::begin(0);
        assert_eq!(invite.response(10, 200), Response { is_news: true, ack: false });
        assert_eq!(invite.state(), ClientState::Accepted);
        assert_eq!(invite.response(510, 200), Response { is_news: true, ack: false });
        assert_eq!(invite.response(520, 180), Response::default());
        assert_eq!(invite.response(520, 486), Response::default());
        assert_eq!(pass!(invite, 10, HOUR), [(TRANSACTION, Due::Over)]);
    }

    #[test]
    fn other_requests_are_sent_every_four_seconds_at_last() {
        let mut bye = Client::begin(0);
        let mut expected =
            resends(&[500, 1500, 3500, 7500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500]);
        expected.push((32_000, Due::TimedOut));
        assert_eq!(pass!(bye, 0, HOUR), expected);

        let mut bye = Client::begin(0);
        assert!(bye.response(100, 100));
        assert_eq!(bye.state(), ClientState::Proceeding);
        assert_eq!(pass!(bye, 100, 9000), resends(&[4000, 8000]));
        assert!(bye.response(9000, 200));
        assert!(!bye.response(9100, 200));
        assert_eq!(pass!(bye, 9000, HOUR), [(T4, Due::Over)]);
    }

    #[test]
    fn timer_f_goes_on_after_a_provisional_response() {
        let mut bye = Client::begin(0);
        bye.response(100, 100);
        let last = pass!(bye, 0, HOUR).pop();
        assert_eq!(last, Some((TRANSACTION, Due::TimedOut)));
    }

    #[test]
    fn a_refusal_of_an_invite_is_sent_until_it_is_acknowledged() {
        let mut invite = InviteServer::begin();
        assert!(invite.respond(0, 100) && invite.repeated());
        assert!(invite.respond(10, 180));
        assert!(invite.respond(20, 486));
        assert!(!invite.respond(30, 200) && !invite.respond(30, 500));
        assert!(invite.repeated());
        assert_eq!(pass!(invite, 20, 8000), resends(&[500, 1500, 3500, 7500]));
        invite.ack(8100);
        assert_eq!(invite.state(), ServerState::Confirmed);
        assert!(!invite.repeated());
        invite.ack(8200);
        assert_eq!(pass!(invite, 8100, HOUR), [(T4, Due::Over)]);
    }

    #[test]
    fn a_refusal_that_nobody_acknowledges_is_given_up() {
        let mut invite = InviteServer::begin();
        invite.respond(0, 404);
        let happened = pass!(invite, 0, HOUR);
        assert_eq!(happened.last(), Some(&(TRANSACTION, Due::TimedOut)));
        assert_eq!(happened.len(), 11);
    }

    #[test]
    fn an_answered_invite_takes_more_answers_but_no_other_response() {
        let mut invite = InviteServer::begin();
        assert!(invite.respond(0, 200));
        assert_eq!(invite.state(), ServerState::Accepted);
        // RFC 6026 §7.1: a repeated INVITE is absorbed, the callee repeats its 2xx itself.
        assert!(!invite.repeated());
        assert!(invite.respond(500, 200));
        assert!(!invite.respond(500, 180) && !invite.respond(500, 603));
        assert_eq!(pass!(invite, 0, HOUR), [(TRANSACTION, Due::Over)]);
    }

    #[test]
    fn another_request_is_answered_once_and_repeats_that() {
        let mut bye = Server::begin();
        assert!(bye.respond(0, 100) && bye.repeated());
        assert!(bye.respond(10, 200));
        assert!(!bye.respond(20, 200) && !bye.respond(20, 100) && bye.repeated());
        assert_eq!(pass!(bye, 10, HOUR), [(TRANSACTION, Due::Over)]);
        assert!(!bye.repeated());
    }
}
