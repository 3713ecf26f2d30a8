//! The questions to one module: which are yet to be written, and which it owes an answer to.
//!
//! What is written can't be taken back. A module that stops for a while, or is asked more than it can
//! answer, would find nothing but questions that nobody waits for any more. So whoever is given up
//! before is not written at all, and only as many are written as it has been seen to answer in half of
//! `timeout`. A question that was overtaken by the answer to a later one is not among them: a module
//! answers in the order in which it is asked, or works on several at once, or leaves some out.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use bytes::BytesMut;
use tokio::time::Instant;

/// Octets that are handed over for writing at a time.
const HANDED: usize = 16 << 10;

/// Octets of questions that may wait.
const MAX_WAITING: usize = 4 << 20;

/// Questions that a module has at once, however few it has answered.
const FEWEST: usize = 32;

/// Numbers of questions that were given up, and may be answered yet.
const MAX_LATE: usize = 4096;

/// Questions by number; numbers go up.
#[derive(Debug)]
pub(super) struct Questions {
    asked: u64,
    /// Not written yet, in the order of their numbers.
    waiting: VecDeque<(u64, Vec<u8>)>,
    /// Octets of those.
    octets: usize,
    /// Written when; neither answered nor overtaken.
    ahead: VecDeque<(u64, Instant)>,
    /// Written, given up, and not answered.
    late: BTreeSet<u64>,
    answered: Recently,
    timeout: Duration,
}

impl Questions {
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            asked: 0,
            waiting: VecDeque::new(),
            octets: 0,
            ahead: VecDeque::new(),
            late: BTreeSet::new(),
            answered: Recently::default(),
            timeout,
        }
    }

    /// How long an answer may take from now on.
    pub(super) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Gives the next question its number.
    pub(super) fn number(&mut self) -> u64 {
        self.asked += 1;
        self.asked
    }

    /// Whether there was a question with this number.
    pub(super) fn has_asked(&self, number: u64) -> bool {
        (1..=self.asked).contains(&number)
    }

    /// Whether another has room.
    pub(super) fn has_room(&self) -> bool {
        self.octets < MAX_WAITING
    }

    /// Whether any is yet to be written.
    pub(super) fn any_waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Has the line of the question that was numbered last wait.
    pub(super) fn put(&mut self, line: Vec<u8>) {
        self.octets += line.len();
        self.waiting.push_back((self.asked, line));
    }

    /// Hands over some, if what was handed over before is about to be written, and the module may have
    /// more.
    pub(super) fn hand_over(&mut self, now: Instant, out: &mut BytesMut) {
        if self.waiting.is_empty() {
            return;
        }
        // Who has not answered by then has thrown it away.
        let forgotten = 2 * self.timeout;
        while self.ahead.front().is_some_and(|(_, written)| now >= *written + forgotten) {
            self.ahead.pop_front();
        }
        let most = (self.answered.in_about(self.timeout, now) / 2).max(FEWEST);
        while out.len() < HANDED
            && self.ahead.len() < most
            && let Some((number, line)) = self.waiting.pop_front()
        {
            self.octets -= line.len();
            self.ahead.push_back((number, now));
            out.extend_from_slice(&line);
        }
    }

    /// It has answered this one, in time or not.
    pub(super) fn answered(&mut self, number: u64, now: Instant) {
        while self.ahead.front().is_some_and(|(first, _)| *first <= number) {
            self.ahead.pop_front();
        }
        self.answered.count(self.timeout, now);
    }

    /// Whether it waits to be written.
    pub(super) fn is_waiting(&self, number: u64) -> bool {
        self.place(number).is_some()
    }

    fn place(&self, number: u64) -> Option<usize> {
        self.waiting.binary_search_by_key(&number, |(waiting, _)| *waiting).ok()
    }

    /// Nobody waits for its answer any more.
    pub(super) fn give_up(&mut self, number: u64) {
        if let Some((_, line)) = self.place(number).and_then(|at| self.waiting.remove(at)) {
            self.octets -= line.len();
            return;
        }
        self.late.insert(number);
        if self.late.len() > MAX_LATE {
            self.late.pop_first();
        }
    }

    /// An answer that nobody waits for: whether it was owed.
    pub(super) fn is_owed(&mut self, number: u64) -> bool {
        self.late.remove(&number)
    }
}

/// How many there have been of late, about.
#[derive(Debug, Default)]
struct Recently {
    /// When the present half began, and how many there have been in it and in the one before.
    half: Option<(Instant, usize, usize)>,
}

impl Recently {
    /// How many there have been in the last `period`, or in half of it.
    fn in_about(&mut self, period: Duration, now: Instant) -> usize {
        let Some((began, present, last)) = self.half else { return 0 };
        let half = period / 2;
        if now < began + half {
            return present + last;
        }
        let last = if now < began + period { present } else { 0 };
        self.half = Some((now, 0, last));
        last
    }

    fn count(&mut self, period: Duration, now: Instant) {
        self.in_about(period, now);
        let (began, present, last) = self.half.unwrap_or((now, 0, 0));
        self.half = Some((began, present + 1, last));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn questions() -> (Questions, BytesMut, Instant) {
        (Questions::new(Duration::from_secs(10)), BytesMut::new(), Instant::now())
    }

    fn ask(questions: &mut Questions, octets: usize) -> u64 {
        let number = questions.number();
        questions.put(vec![b'x'; octets]);
        number
    }

    #[test]
    fn what_is_given_up_before_it_is_written_is_not() {
        let (mut questions, mut out, now) = questions();
        let numbers = [3, 5, 7].map(|octets| ask(&mut questions, octets));
        questions.give_up(numbers[1]);
        assert!(!questions.is_waiting(numbers[1]));
        questions.hand_over(now, &mut out);
        assert_eq!((out.len(), questions.octets), (10, 0));
        assert!(!questions.is_owed(numbers[1]));
    }

    #[test]
    fn few_are_handed_over_at_a_time() {
        let (mut questions, mut out, now) = questions();
        for _ in 0..4 {
            ask(&mut questions, HANDED - 1);
        }
        questions.hand_over(now, &mut out);
        assert_eq!(out.len(), 2 * (HANDED - 1));
        assert!(questions.is_waiting(3));
        out.clear();
        questions.hand_over(now, &mut out);
        assert!(!questions.any_waits());
    }

    #[test]
    fn an_answer_is_owed_once_and_little_is_kept_of_who_gives_none() {
        let (mut questions, mut out, mut now) = questions();
        let most = u64::try_from(MAX_LATE).unwrap();
        for _ in 0..=most {
            let number = ask(&mut questions, 1);
            questions.hand_over(now, &mut out);
            assert!(!questions.any_waits());
            out.clear();
            questions.give_up(number);
            now += questions.timeout;
        }
        assert_eq!(questions.late.len(), MAX_LATE);
        assert!(!questions.is_owed(1));
        assert!(questions.is_owed(most + 1));
        assert!(!questions.is_owed(most + 1));
    }

    #[test]
    fn who_leaves_some_out_is_asked_on() {
        let (mut questions, mut out, now) = questions();
        for n in 1..=10 * FEWEST {
            let number = ask(&mut questions, 1);
            questions.hand_over(now, &mut out);
            assert!(!questions.any_waits(), "{n}");
            out.clear();
            if n % FEWEST == 0 {
                questions.answered(number, now);
            }
        }
    }

    /// A module that answers one question after the other, each in so many milliseconds, and is asked
    /// one each `between`: how many of ten seconds it answers in time, once it has been for so long.
    fn answered_in_time(took: u64, between: u64, timeout: u64) -> usize {
        let millis = Duration::from_millis;
        let mut questions = Questions::new(millis(timeout));
        let (begun, mut out) = (Instant::now(), BytesMut::new());
        // When each was asked, and what is in its pipe.
        let (mut asked, mut pipe) = (vec![0], VecDeque::new());
        let (mut busy_until, mut in_time) = (None, 0);
        for at in 0..20_000 {
            let now = begun + millis(at);
            if at % between == 0 {
                ask(&mut questions, 1);
                asked.push(at);
            }
            for number in 1..asked.len() as u64 {
                let age = at - asked[usize::try_from(number).unwrap()];
                if age == timeout / 4 && questions.is_waiting(number) {
                    questions.give_up(number);
                }
            }
            let before = questions.ahead.back().map_or(0, |(number, _)| *number);
            questions.hand_over(now, &mut out);
            out.clear();
            pipe.extend(questions.ahead.iter().map(|(n, _)| *n).filter(|n| *n > before));
            if let Some((until, number)) = busy_until.filter(|(until, _)| *until <= at) {
                questions.answered(number, now);
                let is_late = until - asked[usize::try_from(number).unwrap()] >= timeout;
                in_time += usize::from(!is_late && at >= 10_000);
                busy_until = None;
            }
            if busy_until.is_none() {
                busy_until = pipe.pop_front().map(|number| (at + took, number));
            }
        }
        in_time
    }

    #[test]
    fn who_is_asked_more_than_it_can_answer_answers_what_it_can() {
        // Milliseconds an answer, between two questions, and of `timeout`.
        for (took, between, timeout) in
            [(5, 2, 500), (5, 4, 500), (10, 1, 1000), (60, 20, 10_000), (300, 100, 20_000)]
        {
            let (in_time, all) = (answered_in_time(took, between, timeout), 10_000 / took);
            let all = usize::try_from(all).unwrap();
            assert!(in_time * 10 >= all * 8, "{took} {between} {timeout}: {in_time} of {all}");
        }
    }
}
