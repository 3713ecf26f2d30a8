//! What a message offers to a query, and the values that a query is run with.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

/// The parameters of a message, by the names that Yate gives them.
pub trait Params {
    /// The value of `name`. `None` takes the template's default; an empty value stays empty.
    fn get(&self, name: &str) -> Option<Cow<'_, str>>;
}

/// No parameters at all, as for `engine.timer`.
impl Params for () {
    fn get(&self, _: &str) -> Option<Cow<'_, str>> {
        None
    }
}

impl<K: AsRef<str>, V: AsRef<str>> Params for [(K, V)] {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        let (_, value) = self.iter().find(|(known, _)| known.as_ref() == name)?;
        Some(Cow::Borrowed(value.as_ref()))
    }
}

impl<K: AsRef<str>, V: AsRef<str>, const N: usize> Params for [(K, V); N] {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        Params::get(self.as_slice(), name)
    }
}

impl Params for HashMap<String, String> {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        Self::get(self, name).map(|value| Cow::Borrowed(value.as_str()))
    }
}

/// The values of all statements of a template, for one message. It can be sent to any thread.
///
/// `Debug` shows no value: they may be secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Bound {
    pub(super) statements: Arc<[Box<[Value]>]>,
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let values: usize = self.statements.iter().map(|values| values.len()).sum();
        write!(f, "Bound({values} values)")
    }
}

impl Bound {
    /// The values of the statement at `position`.
    pub(super) fn values(&self, position: usize) -> &[Value] {
        self.statements.get(position).map_or(&[], |values| values)
    }
}

/// One value.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) text: Box<str>,
    /// Whether the `${}` stood outside of quotes: what looks like a number there is one.
    pub(super) bare: bool,
}

impl Value {
    /// The number that this value is, if it would be one where it stands.
    pub(super) fn number(&self) -> Option<Number> {
        let digits = |byte: &u8| byte.is_ascii_digit();
        if !self.bare || !self.text.as_bytes().last().is_some_and(digits) {
            return None;
        }
        if let Ok(integer) = self.text.parse() {
            return Some(Number::Integer(integer));
        }
        self.text.parse().ok().filter(|real: &f64| real.is_finite()).map(Number::Real)
    }
}

/// See [`Value::number`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    Integer(i64),
    Real(f64),
}
