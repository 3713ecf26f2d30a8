//! Where other domains are (RFC 3263): what calls to them wait for.
//!
//! Nothing of it is a worker's: a request whose targets have names comes here as
//! [`Question::Resolve`](crate::worker::parking::Question::Resolve), and goes back with addresses.

mod client;
mod locate;

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::HashMap,
    hash::Hasher as _,
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use siphasher::sip::SipHasher13;
use tokio::sync::oneshot;

use self::{client::Client, locate::locate};
use super::status::Status;
use crate::{
    config::settings::Dns,
    proxy::{Named, Resolved, Unreachable},
    worker::LookedUp,
};

/// Names that are looked up at a time. A name server that says nothing keeps each for
/// `dns_timeout`; callers for more are told at once that nobody knows.
const MAX_FLIGHTS: usize = 1000;

/// Who knows where domains are.
#[derive(Debug)]
pub(super) struct Resolver {
    settings: Dns,
    status: Arc<Status>,
    /// Made for the first name: many never call out. `None` if there is no name server.
    client: OnceCell<Option<Client>>,
    /// Names that are being looked up, and who waits for the same.
    flights: RefCell<HashMap<Named, Vec<oneshot::Sender<Resolved>>>>,
    dice: Dice,
}

impl Resolver {
    /// One that goes by these settings. It asks nobody before there is something to ask.
    pub(super) fn new(settings: Dns, status: Arc<Status>) -> Self {
        let (client, flights) = (OnceCell::new(), RefCell::default());
        Self { settings, status, client, flights, dice: Dice::new() }
    }

    /// Looks all names up that have not been.
    pub(super) async fn resolve_all(&self, hops: &mut [LookedUp]) {
        let open = hops.iter_mut().filter(|(_, resolved)| resolved.is_none());
        join_all(open.map(async |(named, resolved)| *resolved = Some(self.resolve(named).await)))
            .await;
    }

    /// Looks one name up, unless somebody does already.
    async fn resolve(&self, named: &Named) -> Resolved {
        let waits = {
            let mut flights = self.flights.borrow_mut();
            let is_full = flights.len() >= MAX_FLIGHTS;
            match flights.get_mut(named) {
                Some(others) => {
                    let (sender, receiver) = oneshot::channel();
                    others.push(sender);
                    Some(receiver)
                }
                None if is_full => return Err(Unreachable::Unanswered),
                None => {
                    flights.insert(named.clone(), Vec::new());
                    None
                }
            }
        };
        if let Some(receiver) = waits {
            return receiver.await.unwrap_or(Err(Unreachable::Unanswered));
        }
        let resolved = self.look_up(named).await;
        if let Err(why) = &resolved {
            tracing::debug!(host = &*named.host, ?why, "a domain can't be reached");
        }
        for waiting in self.flights.borrow_mut().remove(named).unwrap_or_default() {
            let _ = waiting.send(resolved.clone());
        }
        resolved
    }

    async fn look_up(&self, named: &Named) -> Resolved {
        let client = self.client.get_or_init(|| {
            Client::new(&self.settings, Arc::clone(&self.status))
                .inspect_err(|error| tracing::error!("[calls] no name server: {error}"))
                .ok()
        });
        let client = client.as_ref().ok_or(Unreachable::Unanswered)?;
        let longest = Duration::from_secs(self.settings.timeout.0.into());
        let located = tokio::time::timeout(longest, locate(client, named, &self.dice)).await;
        located.unwrap_or(Err(Unreachable::Unanswered))
    }
}

/// Numbers that nobody foresees, for the choice among servers of one priority.
#[derive(Debug)]
pub(super) struct Dice {
    key: [u8; 16],
    thrown: Cell<u64>,
}

impl Dice {
    fn new() -> Self {
        let mut key = [0; 16];
        if let Err(error) = getrandom::fill(&mut key) {
            tracing::warn!(%error, "no random numbers: servers are chosen in a fixed order");
        }
        Self { key, thrown: Cell::new(0) }
    }

    /// A number from 0 to `most`, each as likely as the others.
    fn throw(&self, most: u32) -> u32 {
        self.thrown.set(self.thrown.get() + 1);
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write_u64(self.thrown.get());
        u32::try_from(hasher.finish() % (u64::from(most) + 1)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{SocketAddr, UdpSocket},
        rc::Rc,
        thread,
    };

    use prometheus_client::registry::Registry;
    use tokio::task::LocalSet;

    use super::*;
    use crate::{proxy::By, time::DeltaSeconds};

    /// After so long nothing more will come.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn run<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, work)
    }

    fn named(host: &str) -> Named {
        Named { host: host.into(), by: By::Port(5060) }
    }

    #[test]
    fn a_name_server_that_says_nothing_keeps_nobody_for_longer_than_it_may() {
        // It takes questions, and never answers.
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let servers = [silent.local_addr().unwrap()].into();
        let dns = Dns { servers, timeout: DeltaSeconds(1) };
        run(async {
            let resolver = Rc::new(Resolver::new(dns, Arc::default()));
            let mut hops: Vec<LookedUp> =
                ["a.example", "b.example", "a.example"].map(|host| (named(host), None)).into();
            resolver.resolve_all(&mut hops).await;
            assert!(hops.iter().all(|(_, r)| *r == Some(Err(Unreachable::Unanswered))));
            assert!(resolver.flights.borrow().is_empty());
        });
    }

    /// A name server that knows the address of everybody, and nothing else; it lives as long as the
    /// tests do.
    fn knows_everybody() -> SocketAddr {
        knows_everybody_but(&[])
    }

    /// One that doesn't answer questions of these types.
    fn knows_everybody_but(silent: &'static [u8]) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = socket.local_addr().unwrap();
        thread::spawn(move || {
            let mut space = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut space) {
                let question = &space[..len];
                // Behind the header, the name ends with an empty label; then type and class.
                let name = question[12..].iter().position(|b| *b == 0).unwrap() + 13;
                if silent.contains(&question[name + 1]) {
                    continue;
                }
                let is_a = question[name..name + 2] == [0, 1];
                let mut answer = question[..name + 4].to_vec();
                answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
                if is_a {
                    // The same name, A, IN, no time to live, four octets.
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 192, 0, 2, 7]);
                }
                socket.send_to(&answer, from).unwrap();
            }
        });
        at
    }

    #[test]
    fn servers_that_say_nothing_cost_nothing_while_another_answers() {
        let silent = [(); 3].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let silent = silent.each_ref().map(|socket| socket.local_addr().unwrap());
        // Whoever waited for a silent one would wait for an attempt, a third of a day. Of four servers
        // one is not asked with the others, and is among the first in the next attempt.
        for (dead, timeout) in [(1, 86_400), (2, 86_400), (3, 6)] {
            let servers = [&silent[..dead], &[knows_everybody()]].concat().into();
            let dns = Dns { servers, timeout: DeltaSeconds(timeout) };
            run(async {
                let resolver = Resolver::new(dns, Arc::default());
                for host in ["a.example", "b.example", "c.example"] {
                    let mut hops = [(named(host), None)];
                    let answered = tokio::time::timeout(PATIENCE, resolver.resolve_all(&mut hops));
                    answered.await.unwrap_or_else(|_| panic!("{dead} silent ones: {host} waits"));
                    let Some(Ok(found)) = &hops[0].1 else { panic!("{host}: {:?}", hops[0].1) };
                    assert_eq!(*found[0], ["192.0.2.7:5060".parse().unwrap()]);
                }
            });
        }
    }

    #[test]
    fn a_server_that_is_silent_about_some_types_still_tells_of_others() {
        const AAAA: u8 = 28;
        const NAPTR: u8 = 35;
        let at = knows_everybody_but(&[AAAA, NAPTR]);
        // Whoever waited for addresses of the other family would wait for all of it.
        let dns = Dns { servers: [at].into(), timeout: DeltaSeconds(3) };
        run(async {
            let mut hops = [(Named { host: "a.example".into(), by: By::Naptr }, None)];
            Resolver::new(dns, Arc::default()).resolve_all(&mut hops).await;
            let Some(Ok(found)) = &hops[0].1 else { panic!("{:?}", hops[0].1) };
            assert_eq!(*found[0], ["192.0.2.7:5060".parse().unwrap()]);
        });
    }

    #[test]
    fn look_ups_are_timed_by_the_type_of_their_records() {
        let dns = Dns { servers: [knows_everybody()].into(), ..Dns::default() };
        let status = Arc::new(Status::default());
        run(async {
            let mut hops = [(Named { host: "a.example".into(), by: By::Naptr }, None)];
            Resolver::new(dns, Arc::clone(&status)).resolve_all(&mut hops).await;
        });
        let mut registry = Registry::default();
        registry.register("backend", "", status.queries().clone());
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for query in ["naptr", "srv", "aaaa", "a"] {
            let count = format!("backend_count{{backend=\"dns\",query=\"{query}\"}} 1");
            assert!(text.lines().any(|line| line == count), "{text}");
        }
    }

    #[test]
    fn what_is_known_is_not_looked_up_again() {
        let dns = Dns { servers: ["127.0.0.1:9".parse().unwrap()].into(), ..Dns::default() };
        let known = Some(Err(Unreachable::Unknown));
        let mut hops = [(named("a.example"), known.clone())];
        run(Resolver::new(dns, Arc::default()).resolve_all(&mut hops));
        assert_eq!(hops[0].1, known);
    }

    #[test]
    fn all_sides_of_the_dice_come_up() {
        let dice = Dice::new();
        let mut seen = [false; 4];
        for _ in 0..1000 {
            seen[dice.throw(3) as usize] = true;
        }
        assert_eq!((seen, dice.throw(0)), ([true; 4], 0));
    }
}
