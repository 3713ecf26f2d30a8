//! Why requests are refused, said in the log at most once a second for each cause.

use std::net::SocketAddr;

use crate::{sip::Status, time::Now};

/// Causes that are told apart: more than there are labels, some sixty.
const CAUSES: usize = 96;

/// Octets of To that are logged: a name, not a novel.
const TO_LEN: usize = 128;

/// Keeps a stranger from filling the log: one line a second and cause, with the number of those
/// that were left out.
#[derive(Debug)]
pub(super) struct Refusals {
    causes: [Option<Cause>; CAUSES],
}

impl Default for Refusals {
    fn default() -> Self {
        Self { causes: [None; CAUSES] }
    }
}

#[derive(Clone, Copy, Debug)]
struct Cause {
    label: &'static str,
    second: u32,
    left_out: u64,
}

impl Refusals {
    /// Logs that a request from `source` about `user` was answered by `status` because of
    /// `label`, unless this second has had its line.
    pub(super) fn log(
        &mut self,
        now: Now,
        label: &'static str,
        status: Status,
        source: SocketAddr,
        user: &[u8],
    ) {
        if !tracing::enabled!(tracing::Level::INFO) {
            return;
        }
        let Some(left_out) = self.due(now, label) else { return };
        tracing::info!(
            cause = label,
            code = status.code,
            reason = status.phrase,
            %source,
            to = %user.get(..TO_LEN).unwrap_or(user).escape_ascii(),
            left_out,
            "refused"
        );
    }

    /// How many refusals were left out since the last line about this cause, if it is time for
    /// another one.
    fn due(&mut self, now: Now, label: &'static str) -> Option<u64> {
        // They fill from the front and stay: the first free one comes after all known ones.
        let slot = self.causes.iter_mut().find(|c| c.is_none_or(|c| c.label == label))?;
        match slot {
            Some(cause) if cause.second == now.second() => {
                cause.left_out += 1;
                None
            }
            Some(cause) => {
                cause.second = now.second();
                Some(std::mem::take(&mut cause.left_out))
            }
            free => {
                *free = Some(Cause { label, second: now.second(), left_out: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many lines a second of refusals with these labels would make.
    fn lines(refusals: &mut Refusals, second: u64, labels: &[&'static str]) -> usize {
        let now = Now { millis: second * 1000, unix: 0 };
        labels.iter().filter(|label| refusals.due(now, label).is_some()).count()
    }

    #[test]
    fn one_line_a_second_and_cause() {
        let mut refusals = Refusals::default();
        assert_eq!(lines(&mut refusals, 1, &["a", "b", "a", "a", "b"]), 2);
        assert_eq!(lines(&mut refusals, 1, &["a", "b", "c"]), 1);
        assert_eq!(lines(&mut refusals, 2, &["a", "a"]), 1);
        assert_eq!(refusals.due(Now { millis: 3000, unix: 0 }, "a"), Some(1));
    }

    #[test]
    fn more_causes_than_there_is_room_for_are_not_logged() {
        let labels: Vec<&'static str> =
            (0..CAUSES + 5).map(|n| &*Box::leak(n.to_string().into_boxed_str())).collect();
        let mut refusals = Refusals::default();
        assert_eq!(lines(&mut refusals, 1, &labels), CAUSES);
        assert_eq!(lines(&mut refusals, 1, &labels), 0);
    }
}
