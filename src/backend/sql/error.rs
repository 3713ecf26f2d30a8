//! Why a database gave no answer.

/// Why a query has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseError {
    /// There is no connection, or it broke before the answer came.
    #[error("the database can't be reached: {0}")]
    Unreachable(String),
    /// The account's `timeout` has passed.
    #[error("the database didn't answer in time")]
    TimedOut,
    /// All connections were busy for the account's `timeout`, or too many queries wait already.
    #[error("all connections to the database are busy")]
    PoolExhausted,
    /// The server refuses the query.
    #[error("the database refuses the query: {message} (SQLSTATE {sqlstate})")]
    Refused {
        /// Five characters, or what SQLite calls its code.
        sqlstate: Box<str>,
        /// The server's own words.
        message: Box<str>,
    },
    /// A value has a NUL in it, which no text of PostgreSQL can hold: no row can match it.
    #[error("a value holds a NUL, which no text in the database can")]
    NoSuchText,
}

impl DatabaseError {
    /// Whether the database couldn't be asked at all, so that another time may go better. The
    /// others are about the query or its values.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::TimedOut | Self::PoolExhausted)
    }

    /// Whether the error is about the values of a query, which then fails whenever it is run: they
    /// aren't of the right type, or the row can't be as they have it (SQLSTATE classes 22 and 23).
    pub fn is_about_values(&self) -> bool {
        match self {
            Self::NoSuchText => true,
            Self::Refused { sqlstate, .. } => {
                let classes = ["22", "23", "ConstraintViolation", "TypeMismatch", "TooBig"];
                classes.iter().any(|class| sqlstate.starts_with(class))
            }
            Self::Unreachable(_) | Self::TimedOut | Self::PoolExhausted => false,
        }
    }

    /// A word for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::TimedOut => "timed_out",
            Self::PoolExhausted => "pool_exhausted",
            Self::Refused { .. } => "refused",
            Self::NoSuchText => "no_such_text",
        }
    }

    pub(super) fn refused(sqlstate: &str, message: &str) -> Self {
        Self::Refused { sqlstate: sqlstate.into(), message: message.into() }
    }

    /// Whether the server undid the transaction since another was in its way.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { sqlstate, .. } if matches!(&**sqlstate, "40001" | "40P01"))
    }
}
