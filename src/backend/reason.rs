//! What handlers give as the reason of a refusal, and the code it is answered with: Yate's names.

use super::message::Message;

/// Yate's reasons with their codes. `offline` is 480 here (DESIGN §13.9), not 404.
const REASONS: [(&str, u16); 32] = [
    ("busy", 486),
    ("congestion", 480),
    ("failure", 500),
    ("forbidden", 403),
    ("incomplete", 484),
    ("interworking", 500),
    ("invalid-message", 400),
    ("looping", 483),
    ("moved", 410),
    ("noanswer", 480),
    ("noauth", 401),
    ("noautoauth", 401),
    ("nocall", 481),
    ("noconn", 503),
    ("nomedia", 415),
    ("noresource", 503),
    ("noroute", 404),
    ("offline", 480),
    ("pending", 491),
    ("postdialdelay", 504),
    ("protocol-error", 400),
    ("rejected", 406),
    ("service-not-implemented", 501),
    ("service-unavailable", 503),
    ("timeout", 408),
    ("unacceptable", 488),
    ("unallocated", 410),
    ("unimplemented", 501),
    ("unknown", 404),
    ("user-not-registered", 480),
    ("wrongpassword", 403),
    ("wronguser", 404),
];

/// The code that a reason means; a number stands for itself, from 300 to 699.
pub(super) fn code_of_reason(reason: &str) -> Option<u16> {
    let named = REASONS.iter().find(|(name, _)| *name == reason).map(|(_, code)| *code);
    named.or_else(|| reason.parse().ok()).filter(|code| (300..700).contains(code))
}

/// The code that a message was refused with: by its `code`, else its `error`, else its `reason`.
/// `None` if it says nothing of the kind.
pub(super) fn code_of(message: &Message) -> Option<u16> {
    ["code", "error", "reason"].into_iter().find_map(|name| code_of_reason(message.get(name)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::message::MessageName;

    #[test]
    fn names_and_numbers() {
        for (reason, code) in [
            ("forbidden", Some(403)),
            ("offline", Some(480)),
            ("486", Some(486)),
            ("200", None),
            ("700", None),
            ("nonsense", None),
            ("", None),
        ] {
            assert_eq!(code_of_reason(reason), code, "{reason}");
        }
    }

    #[test]
    fn the_code_goes_before_the_reason() {
        let mut message = Message::new(MessageName::UserRegister);
        assert_eq!(code_of(&message), None);
        message.set("reason", "busy");
        assert_eq!(code_of(&message), Some(486));
        message.set("code", "603");
        assert_eq!(code_of(&message), Some(603));
    }
}
