//! What is known of an account's password: H(A1) by algorithm, never the password.

pub use crate::auth::digest::{Ha1Set, Secret};
