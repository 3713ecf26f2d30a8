//! Why requests are refused, said in the log at most once a second for each cause.

use std::net::SocketAddr;

use crate::{sip::Status, time::Now};

/// Causes that are told apart; a worker meets few at a time.
const CAUSES: usize = 16;

/// Keeps a stranger from filling the log: one line a second and cause, with the number of those
/// that were left out.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    causes: [Option<Cause>; CAUSES],
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
        let known = self.causes.iter().position(|c| c.is_some_and(|c| c.label == label));
        let slot = known.or_else(|| self.causes.iter().position(Option::is_none)).unwrap_or(0);
        let cause = match &mut self.causes[slot] {
            Some(cause) if cause.label == label => {
                if cause.second == now.second() {
                    cause.left_out += 1;
                    return;
                }
                cause
            }
            other => other.insert(Cause { label, second: 0, left_out: 0 }),
        };
        let left_out = std::mem::take(&mut cause.left_out);
        cause.second = now.second();
        tracing::info!(
            cause = label,
            code = status.code,
            reason = status.phrase,
            %source,
            to = %user.escape_ascii(),
            left_out,
            "refused"
        );
    }
}
