//! How much of a message is taken: what `[limits]` in `bindery.conf` resolves to.

/// Bounds on one message. What exceeds them is refused by name, never cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Header lines; more draw 400. A phone sends about 12, a long proxy chain 60.
    pub max_headers: u16,
    /// Octets of a Request-URI, or of the URI of From, To or a Contact.
    pub max_uri: u16,
    /// Octets of a Call-ID, which is kept with each binding.
    pub max_call_id: u16,
    /// Contacts in one REGISTER.
    pub max_contacts: u16,
    /// Octets of all Path values of one REGISTER, which are kept with each binding.
    pub max_path: u16,
    /// Octets of all parameters of a Contact, which are kept with the binding.
    pub max_contact_params: u16,
}

impl Limits {
    /// No limits but what the numbers can say, for what was judged before.
    pub const NONE: Self = Self {
        max_headers: u16::MAX,
        max_uri: u16::MAX,
        max_call_id: u16::MAX,
        max_contacts: u16::MAX,
        max_path: u16::MAX,
        max_contact_params: u16::MAX,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_headers: 128,
            max_uri: 512,
            max_call_id: 255,
            max_contacts: 32,
            max_path: 1024,
            max_contact_params: 512,
        }
    }
}
