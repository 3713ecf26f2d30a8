//! The questions to one module: which are yet to be written, and which it owes an answer to.
//!
//! What is written can't be taken back. A module that stops for a while, or is asked more than it can
//! answer, would find nothing but questions that nobody waits for any more; so they are written a few
//! at a time, and whoever is given up before is not written at all.

use std::collections::{BTreeSet, VecDeque};

use bytes::BytesMut;

/// Octets that are handed over for writing at a time.
const HANDED: usize = 16 << 10;

/// Octets of questions that may wait.
const MAX_WAITING: usize = 4 << 20;

/// Numbers of questions that were given up, and may be answered yet.
const MAX_LATE: usize = 4096;

/// Questions by number; numbers go up.
#[derive(Debug, Default)]
pub(super) struct Questions {
    asked: u64,
    /// Not written yet, in the order of their numbers.
    waiting: VecDeque<(u64, Vec<u8>)>,
    /// Octets of those.
    octets: usize,
    /// Written, given up, and not answered.
    late: BTreeSet<u64>,
}

impl Questions {
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

    /// Has the line of the question that was numbered last wait.
    pub(super) fn put(&mut self, line: Vec<u8>) {
        self.octets += line.len();
        self.waiting.push_back((self.asked, line));
    }

    /// Hands over some, if what was handed over before is about to be written.
    pub(super) fn hand_over(&mut self, out: &mut BytesMut) {
        while out.len() < HANDED
            && let Some((_, line)) = self.waiting.pop_front()
        {
            self.octets -= line.len();
            out.extend_from_slice(&line);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(questions: &mut Questions, octets: usize) -> u64 {
        let number = questions.number();
        questions.put(vec![b'x'; octets]);
        number
    }

    #[test]
    fn what_is_given_up_before_it_is_written_is_not() {
        let (mut questions, mut out) = (Questions::default(), BytesMut::new());
        let numbers = [3, 5, 7].map(|octets| ask(&mut questions, octets));
        questions.give_up(numbers[1]);
        assert!(!questions.is_waiting(numbers[1]));
        questions.hand_over(&mut out);
        assert_eq!((out.len(), questions.octets), (10, 0));
        assert!(!questions.is_owed(numbers[1]));
    }

    #[test]
    fn few_are_handed_over_at_a_time() {
        let (mut questions, mut out) = (Questions::default(), BytesMut::new());
        for _ in 0..4 {
            ask(&mut questions, HANDED - 1);
        }
        questions.hand_over(&mut out);
        assert_eq!(out.len(), 2 * (HANDED - 1));
        assert!(questions.is_waiting(3));
        out.clear();
        questions.hand_over(&mut out);
        assert!(!questions.is_waiting(4));
    }

    #[test]
    fn an_answer_is_owed_once_and_little_is_kept_of_who_gives_none() {
        let (mut questions, mut out) = (Questions::default(), BytesMut::new());
        let most = u64::try_from(MAX_LATE).unwrap();
        for _ in 0..=most {
            let number = ask(&mut questions, 1);
            questions.hand_over(&mut out);
            out.clear();
            questions.give_up(number);
        }
        assert_eq!(questions.late.len(), MAX_LATE);
        assert!(!questions.is_owed(1));
        assert!(questions.is_owed(most + 1));
        assert!(!questions.is_owed(most + 1));
    }
}
