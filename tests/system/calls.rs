//! Calls, as whoever watches the server sees them.

use std::{
    net::{SocketAddr, UdpSocket},
    process::Command,
    time::Duration,
};

use super::support::{Server, wait_until};

const CONF: &str = "[listener main]\naddr=127.0.0.1\nport=0\n[registrar]\nauth_required=no\n";

/// A socket, and what it says.
struct Party {
    socket: UdpSocket,
    server: SocketAddr,
}

impl Party {
    fn new(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { socket, server }
    }

    /// Sends a request of alice's to a user.
    fn ask(&self, method: &str, user: &str, rest: &str) {
        let port = self.socket.local_addr().unwrap().port();
        // An ACK is of its INVITE's transaction.
        let of = if method == "ACK" { "INVITE" } else { method };
        let text = format!(
            "{method} sip:{user}@127.0.0.1 SIP/2.0\r\n\
             Via: SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bK-{of}-{user};rport\r\n\
             Max-Forwards: 70\r\n\
             From: <sip:alice@127.0.0.1>;tag=a\r\n\
             {rest}\
             Call-ID: {of}-{user}\r\n\
             CSeq: 1 {method}\r\n\
             Contact: <sip:x@127.0.0.1:{port}>\r\n\
             Content-Length: 0\r\n\r\n"
        );
        self.socket.send_to(text.as_bytes(), self.server).unwrap();
    }

    fn hear(&self) -> String {
        let mut space = [0; 65_535];
        let (len, _) = self.socket.recv_from(&mut space).unwrap();
        String::from_utf8(space[..len].to_vec()).unwrap()
    }

    /// Hears until something begins with this.
    fn expect(&self, start: &str) -> String {
        loop {
            let heard = self.hear();
            if heard.starts_with(start) {
                return heard;
            }
        }
    }

    fn answer(&self, request: &str, status: &str) {
        let kept = ["Via:", "From:", "To:", "Call-ID:", "CSeq:", "Record-Route:"];
        let mut text = format!("SIP/2.0 {status}\r\n");
        for line in request.lines().filter(|line| kept.iter().any(|name| line.starts_with(name))) {
            let tag = if line.starts_with("To:") { ";tag=b" } else { "" };
            text.push_str(&format!("{line}{tag}\r\n"));
        }
        text.push_str("Content-Length: 0\r\n\r\n");
        self.socket.send_to(text.as_bytes(), self.server).unwrap();
    }
}

fn metrics(server: &Server) -> String {
    let answer = super::admin::ask(server, "GET", "/metrics", "", "");
    answer.text
}

#[test]
fn responses_of_calls_and_their_ends_are_counted() {
    let users = "[alice]\npassword=a\n[bob]\npassword=b\n";
    let server = Server::start(&[("bindery.conf", CONF), ("regfile.conf", users)]);
    let (alice, bob) = (Party::new(server.sip[0]), Party::new(server.sip[0]));
    bob.ask("REGISTER", "bob", "To: <sip:bob@127.0.0.1>\r\n");
    bob.expect("SIP/2.0 200");

    alice.ask("INVITE", "bob", "To: <sip:bob@127.0.0.1>\r\n");
    let invite = bob.expect("INVITE ");
    bob.answer(&invite, "180 Ringing");
    alice.expect("SIP/2.0 180");
    // Nobody has registered this one.
    bob.answer(&invite, "499 Out Of Order");
    let refused = alice.expect("SIP/2.0 499");
    let to = refused.lines().find(|line| line.starts_with("To:")).unwrap();
    alice.ask("ACK", "bob", &format!("{to}\r\n"));
    alice.ask("INVITE", "nobody", "To: <sip:nobody@127.0.0.1>\r\n");
    let refused = alice.expect("SIP/2.0 404");
    let to = refused.lines().find(|line| line.starts_with("To:")).unwrap();
    alice.ask("ACK", "nobody", &format!("{to}\r\n"));

    let expected = [
        "bindery_responses_total{method=\"INVITE\",code=\"100\"} 2",
        "bindery_responses_total{method=\"INVITE\",code=\"180\"} 1",
        "bindery_responses_total{method=\"REGISTER\",code=\"200\"} 1",
        "bindery_calls 0",
        "bindery_calls_begun_total 1",
        "bindery_calls_ended_total{result=\"refused\"} 1",
        "bindery_calls_ended_total{result=\"busy\"} 0",
        "bindery_calls_refused_total{reason=\"unknown_callee\"} 1",
        "bindery_calls_refused_total{reason=\"offline\"} 0",
    ];
    // They are counted a moment after they have left. A refusal may have to be sent again.
    let refusals = ["400", "404"]
        .map(|code| format!("\nbindery_responses_total{{method=\"INVITE\",code=\"{code}\"}} "));
    wait_until("all is counted", || {
        let text = metrics(&server);
        refusals.iter().all(|start| text.contains(start))
            && expected.iter().all(|line| text.lines().any(|told| told == *line))
    });
    let stats = Command::new(env!("CARGO_BIN_EXE_bindery"))
        .current_dir(server.path(""))
        .args(["stats", "--admin", &server.admin.to_string()])
        .output()
        .unwrap();
    let stats = String::from_utf8(stats.stdout).unwrap();
    assert!(stats.contains("0 in progress, 1 begun ("), "{stats}");
    assert!(stats.contains("/s), ended: refused 1\n"), "{stats}");
    assert!(stats.contains("\nrefused    unknown_callee 1\n"), "{stats}");
    assert!(stats.contains("2 in regfile.conf\n"), "{stats}");
}
