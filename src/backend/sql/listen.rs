//! What PostgreSQL tells whoever listens (`LISTEN`, `NOTIFY`).

/// Something that came over a listening connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notification {
    /// Listening begins, or begins again after a gap: what was told before is lost, so anything
    /// may have changed.
    Listening,
    /// `NOTIFY channel, 'payload'`.
    Notified {
        /// The channel.
        channel: Box<str>,
        /// The payload; empty if there is none.
        payload: Box<str>,
    },
}

/// How many notifications wait for whoever reads them. Beyond that the server's own buffers fill.
pub(super) const QUEUE: usize = 1024;
