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
}

/// All codes that are registered (IANA registry "Response Codes"), for tables of counters: what is
/// passed back from a phone may have any of them.
pub const REGISTERED_CODES: [u16; 75] = [
    100, 180, 181, 182, 183, 199, 200, 202, 204, 300, 301, 302, 305, 380, 400, 401, 402, 403, 404,
    405, 406, 407, 408, 410, 412, 413, 414, 415, 416, 417, 420, 421, 422, 423, 424, 425, 428, 429,
    430, 433, 436, 437, 438, 439, 440, 469, 470, 480, 481, 482, 483, 484, 485, 486, 487, 488, 489,
    491, 493, 494, 500, 501, 502, 503, 504, 505, 513, 555, 580, 600, 603, 604, 606, 607, 608,
];

/// The position in [`REGISTERED_CODES`]. A code without a registration counts as the most general
/// of its kind (RFC 3261 §8.1.3.2), so that nobody can make up labels.
pub fn code_ordinal(code: u16) -> usize {
    let at = usize::from(code.clamp(100, 699) - 100);
    CODE_ORDINALS.get(at).map_or(0, |ordinal| usize::from(*ordinal))
}

/// By code less 100.
static CODE_ORDINALS: [u8; 600] = {
    let mut ordinals = [0; 600];
    let mut code = 100;
    while code < 700 {
        // RFC 3261 §8.1.3.2: an unknown 1xx is 183, any other its x00.
        let general = if code < 200 { 183 } else { code / 100 * 100 };
        let (mut exact, mut kind, mut at) = (None, 0, 0);
        while at < REGISTERED_CODES.len() {
            #[expect(clippy::cast_possible_truncation, reason = "there are fewer than 256")]
            let ordinal = at as u8;
            if REGISTERED_CODES[at] == code {
                exact = Some(ordinal);
            }
            if REGISTERED_CODES[at] == general {
                kind = ordinal;
            }
            at += 1;
        }
        ordinals[code as usize - 100] = match exact {
            Some(ordinal) => ordinal,
            None => kind,
        };
        code += 1;
    }
    ordinals
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_counts_as_itself_or_as_its_kind() {
        let counts_as = |code: u16| REGISTERED_CODES[code_ordinal(code)];
        for status in Status::ALL {
            assert_eq!(counts_as(status.code), status.code);
        }
        for (code, expected) in
            [(180, 180), (150, 183), (299, 200), (499, 400), (668, 600), (7, 100)]
        {
            assert_eq!(counts_as(code), expected, "{code}");
        }
        assert!(REGISTERED_CODES.is_sorted());
    }
}
