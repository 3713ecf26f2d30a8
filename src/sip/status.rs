//! Status codes (RFC 3261 §21 and later registrations), named by their reason phrase.

/// A status code and the phrase it is sent with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// 100 to 699.
    pub code: u16,
    /// What a person reads in a trace.
    pub phrase: &'static str,
}

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $code:literal $phrase:literal;)*) => {
        impl Status {
            $(
                #[doc = concat!("`", stringify!($code), " ", $phrase, "`.")]
                $(#[$doc])*
                pub const $name: Self = Self { code: $code, phrase: $phrase };
            )*

            /// The codes above, for tables by code.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
        }
    };
}

statuses! {
    TRYING = 100 "Trying";
    OK = 200 "OK";
    MOVED_TEMPORARILY = 302 "Moved Temporarily";
    BAD_REQUEST = 400 "Bad Request";
    UNAUTHORIZED = 401 "Unauthorized";
    PAYMENT_REQUIRED = 402 "Payment Required";
    FORBIDDEN = 403 "Forbidden";
    NOT_FOUND = 404 "Not Found";
    METHOD_NOT_ALLOWED = 405 "Method Not Allowed";
    NOT_ACCEPTABLE = 406 "Not Acceptable";
    REQUEST_TIMEOUT = 408 "Request Timeout";
    GONE = 410 "Gone";
    PROXY_AUTHENTICATION_REQUIRED = 407 "Proxy Authentication Required";
    UNSUPPORTED_MEDIA_TYPE = 415 "Unsupported Media Type";
    UNSUPPORTED_URI_SCHEME = 416 "Unsupported URI Scheme";
    BAD_EXTENSION = 420 "Bad Extension";
    INTERVAL_TOO_BRIEF = 423 "Interval Too Brief";
    TEMPORARILY_UNAVAILABLE = 480 "Temporarily Unavailable";
    CALL_DOES_NOT_EXIST = 481 "Call/Transaction Does Not Exist";
    LOOP_DETECTED = 482 "Loop Detected";
    TOO_MANY_HOPS = 483 "Too Many Hops";
    MAX_BREADTH_EXCEEDED = 440 "Max-Breadth Exceeded";
    ADDRESS_INCOMPLETE = 484 "Address Incomplete";
    BUSY_HERE = 486 "Busy Here";
    REQUEST_TERMINATED = 487 "Request Terminated";
    NOT_ACCEPTABLE_HERE = 488 "Not Acceptable Here";
    REQUEST_PENDING = 491 "Request Pending";
    SERVER_INTERNAL_ERROR = 500 "Server Internal Error";
    NOT_IMPLEMENTED = 501 "Not Implemented";
    SERVICE_UNAVAILABLE = 503 "Service Unavailable";
    SERVER_TIMEOUT = 504 "Server Time-out";
    VERSION_NOT_SUPPORTED = 505 "Version Not Supported";
    MESSAGE_TOO_LARGE = 513 "Message Too Large";
    BUSY_EVERYWHERE = 600 "Busy Everywhere";
    DECLINE = 603 "Decline";
}

impl Status {
    /// The same code with a phrase that says more.
    pub const fn because(self, phrase: &'static str) -> Self {
        Self { code: self.code, phrase }
    }

    /// The status that a back end means by `code`; what is no failure, or none that is sent here, is
    /// the most general of its kind (RFC 3261 §8.1.3.2), or 403.
    pub fn of_refusal(code: u16) -> Self {
        let known = |code: u16| Self::ALL.iter().find(|s| s.code == code && code >= 400).copied();
        known(code).unwrap_or(match code {
            500..600 => Self::SERVER_INTERNAL_ERROR,
            600..700 => Self::DECLINE,
            _ => Self::FORBIDDEN,
        })
    }

    /// The status of a code that a proxy has made up its mind about.
    pub fn of_code(code: u16) -> Self {
        Self::ALL.iter().find(|s| s.code == code).copied().unwrap_or(Self::SERVER_INTERNAL_ERROR)
    }

    /// The position in [`Status::ALL`], for tables of counters.
    pub fn ordinal(self) -> Option<usize> {
        Self::ALL.iter().position(|s| s.code == self.code)
    }
}
