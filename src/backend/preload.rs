//! All accounts at once, at the start.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    register::HASHES,
    run::secret_of,
    sql::{Database, DatabaseError, Row, Statements},
};
use crate::{
    subscribers::{Fetched, FetchedCache, Known},
    time::{DeltaSeconds, Now},
    worker::Rules,
};

/// A query that gives all accounts.
#[derive(Debug)]
pub(super) struct Preload {
    pub(super) statements: Statements,
    pub(super) database: Database,
    /// The column with the password.
    pub(super) result: Option<Box<str>>,
}

/// The longest that it may take: ten million accounts, from a slow disk.
pub(super) const PATIENCE: Duration = Duration::from_secs(600);

/// How often the log says how far it is.
const SAID: Duration = Duration::from_secs(2);

impl Preload {
    /// Reads all accounts into the cache of `rules`; how many.
    pub(super) async fn run(
        &self,
        rules: &Rules,
        cache: &FetchedCache,
        now: Now,
    ) -> Result<u64, DatabaseError> {
        let generation = cache.generation();
        let (mut count, mut said) = (0, Instant::now());
        let mut row = |columns: &[Box<str>], row: Row| {
            count += u64::from(self.take(rules, (cache, generation), now, columns, &row));
            if said.elapsed() >= SAID {
                said = Instant::now();
                tracing::info!(accounts = count, "loading accounts");
            }
        };
        let bound = self.statements.bind(&());
        let deadline = Instant::now() + PATIENCE;
        self.database.stream(&self.statements, &bound, deadline, &mut row).await?;
        Ok(count)
    }

    fn take(
        &self,
        rules: &Rules,
        (cache, generation): (&FetchedCache, u64),
        now: Now,
        columns: &[Box<str>],
        row: &Row,
    ) -> bool {
        let value = |name: &str| {
            let position = columns.iter().position(|column| **column == *name)?;
            row.get(position)?.as_deref().filter(|value| !value.is_empty())
        };
        let Some(username) = value("username") else { return false };
        let password = self.result.as_deref().and_then(value).unwrap_or_default();
        let secret = secret_of(rules, username.as_bytes(), password, value);
        let Some(secret) = secret else { return false };
        let is_param = |name: &str| {
            name != "username" && Some(name) != self.result.as_deref() && !HASHES.contains(&name)
        };
        let params = columns.iter().filter(|column| is_param(column));
        let params = params.filter_map(|column| Some((column.clone(), value(column)?.into())));
        let granted = value("expires").and_then(|text| DeltaSeconds::granted(text.as_bytes()));
        let known = Known::Account(Fetched { secret, granted, params: params.collect() });
        let known = Arc::new(known);
        match value("domain") {
            Some(domain) => {
                cache.keep(now, generation, username.as_bytes(), domain.as_bytes(), &known);
            }
            None if rules.domains.is_flat() => {
                cache.keep(now, generation, username.as_bytes(), b"", &known)
            }
            None => {
                for domain in rules.domains.names() {
                    cache.keep(now, generation, username.as_bytes(), domain.as_bytes(), &known);
                }
            }
        }
        true
    }
}
