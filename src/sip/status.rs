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
    OK = 200 "OK";
    BAD_REQUEST = 400 "Bad Request";
    UNAUTHORIZED = 401 "Unauthorized";
    FORBIDDEN = 403 "Forbidden";
    NOT_FOUND = 404 "Not Found";
    METHOD_NOT_ALLOWED = 405 "Method Not Allowed";
    UNSUPPORTED_MEDIA_TYPE = 415 "Unsupported Media Type";
    UNSUPPORTED_URI_SCHEME = 416 "Unsupported URI Scheme";
    BAD_EXTENSION = 420 "Bad Extension";
    INTERVAL_TOO_BRIEF = 423 "Interval Too Brief";
    CALL_DOES_NOT_EXIST = 481 "Call/Transaction Does Not Exist";
    SERVICE_UNAVAILABLE = 503 "Service Unavailable";
    VERSION_NOT_SUPPORTED = 505 "Version Not Supported";
}

impl Status {
    /// The same code with a phrase that says more.
    pub const fn because(self, phrase: &'static str) -> Self {
        Self { code: self.code, phrase }
    }

    /// The position in [`Status::ALL`], for tables of counters.
    pub fn ordinal(self) -> Option<usize> {
        Self::ALL.iter().position(|s| s.code == self.code)
    }
}
