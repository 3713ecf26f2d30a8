//! `bindery list`: all bindings, as they come.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use super::{
    client::{Client, ServerArgs, percent_encode_into, write_json},
    table::{Table, printed, span},
};
use crate::admin::view::{Item, Page};

/// Bindings of one request: the server's most.
const PAGE: u64 = 1000;

/// List bindings, in no particular order
#[derive(Clone, Debug, Default, clap::Args)]
pub struct List {
    /// Only AoRs that begin with this
    #[arg(value_name = "PREFIX")]
    pub aor: Option<String>,
    /// Only bindings over this transport
    #[arg(long, value_name = "NAME")]
    pub transport: Option<String>,
    /// Only phones whose User-Agent contains this, in any case
    #[arg(long, value_name = "TEXT")]
    pub user_agent: Option<String>,
    /// Only bindings from this address, or address and port
    #[arg(long, value_name = "ADDR")]
    pub source: Option<String>,
    /// At most this many bindings
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// How to reach the server; with --json, one binding a line
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Runs `bindery list`.
///
/// # Errors
/// No server answers, or it does not understand a filter.
pub fn run(args: &List) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.server)?;
    let mut out = io::stdout().lock();
    let mut listing = Listing::new(args.server.json);
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut cursor = None;
    loop {
        let page: Page = client.get(&query(args, left.min(PAGE), cursor.as_deref()))?;
        // The server shows the last AoR of a page whole.
        let items = page.items.get(..usize::try_from(left)?.min(page.items.len()));
        let items = items.unwrap_or_default();
        left -= items.len() as u64;
        if let Err(error) = listing.write(&mut out, items) {
            return printed(Err(error.into()));
        }
        cursor = page.next;
        if cursor.is_none() || left == 0 {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn query(args: &List, limit: u64, cursor: Option<&str>) -> String {
    // A limit of zero is refused by the server; what comes is not printed.
    let mut path = format!("bindings?limit={}", limit.max(1));
    let filters = [
        ("aor", args.aor.as_deref()),
        ("transport", args.transport.as_deref()),
        ("user_agent", args.user_agent.as_deref()),
        ("source", args.source.as_deref()),
        ("cursor", cursor),
    ];
    for (name, value) in filters {
        if let Some(value) = value {
            path += &format!("&{name}=");
            percent_encode_into(value.as_bytes(), &mut path);
        }
    }
    path
}

/// A list that is printed as it comes.
struct Listing {
    table: Option<Table<5>>,
}

impl Listing {
    fn new(json: bool) -> Self {
        let heads = ["AOR", "CONTACT", "EXPIRES IN", "FROM", "USER AGENT"];
        Self { table: (!json).then(|| Table::new(heads)) }
    }

    fn write(&mut self, out: &mut dyn Write, items: &[Item]) -> io::Result<()> {
        let Some(table) = &mut self.table else {
            return items.iter().try_for_each(|item| write_json(out, item));
        };
        for Item { aor, binding } in items {
            table.push([
                aor.clone(),
                binding.contact.clone(),
                span(binding.expires.into()),
                format!("{} {}", binding.transport, binding.source),
                binding.user_agent.clone().unwrap_or_default(),
            ]);
        }
        table.write(out, "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_part_of_the_path() {
        let args =
            List { aor: Some("a&b".into()), source: Some("[::1]:5060".into()), ..List::default() };
        assert_eq!(
            query(&args, 1000, Some("00")),
            "bindings?limit=1000&aor=a%26b&source=%5B%3A%3A1%5D%3A5060&cursor=00"
        );
        assert_eq!(query(&List::default(), 0, None), "bindings?limit=1");
    }
}
