//! Accounts: who may register, and the digests that prove it.
