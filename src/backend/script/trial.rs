//! One script, started as it would be and asked what a phone's REGISTER and its call would ask.

use std::{cell::RefCell, io, rc::Rc, sync::Arc, time::Duration};

use tokio::{net::unix::pipe, time::Instant};

use super::{
    line::Shown,
    link::converse,
    module::{Beginning, Effect, Module},
    process::Process,
};
use crate::{
    backend::{
        chain::{Failure, Handling},
        message::{Message, MessageName},
    },
    config::extmodule::{self, Program},
    time::SystemClock,
};

/// How long a script may take to install something.
const BEGINS: Duration = Duration::from_secs(5);

/// Octets of a line of complaints.
const MAX_LINE: usize = 4096;

/// For how long it has to install nothing more before it is asked.
const SETTLES: Duration = Duration::from_millis(300);

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The names of the messages that it has installed.
    pub installed: Vec<String>,
    /// How many questions it was asked.
    pub asked: usize,
    /// What went wrong, a sentence each.
    pub faults: Vec<String>,
}

/// Runs a script and tells `say` the dialogue, line by line.
///
/// # Errors
/// It can't be started.
pub fn run(
    program: &Program,
    settings: &extmodule::Module,
    say: impl Fn(&str) + 'static,
) -> io::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(attend(program, settings, Rc::new(say)))
}

async fn attend(
    program: &Program,
    settings: &extmodule::Module,
    say: Rc<dyn Fn(&str)>,
) -> io::Result<Report> {
    let shown = Rc::clone(&say);
    let tap = move |is_from_it: bool, line: &[u8]| {
        let arrow = if is_from_it { "<--" } else { "-->" };
        shown(&format!("{arrow} {}", Shown(line)));
    };
    let module = Module::new(Beginning {
        number: 1,
        name: program.name.as_ref().into(),
        settings: settings.clone(),
        restart: Some(program.restart),
        has_to_connect: false,
        status: Arc::default(),
        clock: Arc::new(SystemClock::new()),
        tap: Some(Rc::new(tap)),
    });
    let (mut process, link, stderr) = Process::start(program)?;
    let report = RefCell::new(Report::default());
    let unfinished = RefCell::default();
    {
        let over = async { process.ended().await.why() };
        let effect = |effect| {
            if let Effect::Sent(sent) = effect {
                // There is nobody else here.
                module.sent(&sent, None, false);
            }
        };
        tokio::select! {
            why = converse(&module, &link, over, effect) => {
                report.borrow_mut().faults.push(why.into());
            }
            () = question(&module, &report, &*say) => {}
            () = show(stderr, &unfinished, &*say) => {}
        }
    }
    let unfinished = unfinished.into_inner();
    if !unfinished.is_empty() {
        complain(&unfinished, &*say);
    }
    module.gone();
    drop(link);
    let ended = process.stop().await;
    say(&format!("    {}", ended.why()));
    Ok(report.into_inner())
}

/// Waits until a script is ready, and asks it.
async fn question(module: &Module, report: &RefCell<Report>, say: &dyn Fn(&str)) {
    let (begun, mut settled) = (Instant::now(), (0, Instant::now()));
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let installed = module.installed().len();
        if installed != settled.0 {
            settled = (installed, Instant::now());
        }
        let is_settled = installed > 0 && settled.1.elapsed() >= SETTLES;
        if is_settled || module.watches() && begun.elapsed() >= SETTLES {
            break;
        }
        if begun.elapsed() >= BEGINS {
            return report.borrow_mut().faults.push("it has installed nothing".to_owned());
        }
    }
    let names = module.installed().into_iter().map(|installed| installed.name);
    report.borrow_mut().installed = names.collect();
    for mut message in samples() {
        let name = message.name;
        let installed = module.installed();
        let of_it = installed.iter().find(|installed| installed.name == name.as_str());
        let Some(installed) = of_it else {
            say(&format!("    {name}: not installed"));
            continue;
        };
        if !installed.takes(&message) {
            say(&format!("    {name}: not for it, by its filter"));
            continue;
        }
        report.borrow_mut().asked += 1;
        match module.ask(&mut message).await {
            Handling::Handled => say(&format!("    {name}: handled; {}", meaning(&message))),
            Handling::Passed => say(&format!("    {name}: left to others")),
            Handling::Failed(Failure { reason, .. }) => {
                say(&format!("    {name}: {reason}"));
                report.borrow_mut().faults.push(format!("{name}: {reason}"));
            }
        }
    }
}

/// What an answer comes to.
fn meaning(message: &Message) -> String {
    match (message.name, &*message.retval) {
        (MessageName::UserAuth, "-") => "the user is refused".to_owned(),
        (MessageName::UserAuth, "") => "anybody is let in, whatever the password".to_owned(),
        (MessageName::UserAuth, _) => "the password is what it returned".to_owned(),
        (MessageName::CallRoute, "" | "-" | "error") => "the call goes nowhere".to_owned(),
        (MessageName::CallRoute, target) => format!("the call goes to {target}"),
        _ => "done".to_owned(),
    }
}

/// Shows what a script complains of, line by line; what has no end yet stays in `unfinished`.
async fn show(stderr: pipe::Receiver, unfinished: &RefCell<Vec<u8>>, say: &dyn Fn(&str)) {
    let mut space = [0; 4096];
    loop {
        let read = match stderr.readable().await {
            Ok(()) => stderr.try_read(&mut space),
            Err(error) => Err(error),
        };
        match read {
            Ok(octets @ 1..) => {
                let mut unfinished = unfinished.borrow_mut();
                for octet in space.get(..octets).unwrap_or_default() {
                    if *octet == b'\n' || unfinished.len() >= MAX_LINE {
                        complain(&unfinished, say);
                        unfinished.clear();
                    }
                    if *octet != b'\n' {
                        unfinished.push(*octet);
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // It may have closed it, and go on.
            Ok(_) | Err(_) => std::future::pending().await,
        }
    }
}

fn complain(line: &[u8], say: &dyn Fn(&str)) {
    say(&format!("!!! {}", String::from_utf8_lossy(line).trim_end().escape_debug()));
}

/// What user 100 asks who registers, calls 200 and goes, with Yate's parameters in its order.
fn samples() -> Vec<Message> {
    let flow = [
        ("ip_host", "192.0.2.10"),
        ("ip_port", "5062"),
        ("ip_transport", "UDP"),
        ("address", "192.0.2.10:5062"),
        ("connection_id", "general"),
        ("connection_reliable", "false"),
    ];
    let make = |name: MessageName, params: &[&[(&str, &str)]]| {
        let mut message = Message::new(name);
        for (name, value) in params.iter().copied().flatten() {
            message.set(name, *value);
        }
        message
    };
    let credentials = [
        ("protocol", "sip"),
        ("username", "100"),
        ("realm", "example.com"),
        ("nonce", "0123456789abcdef"),
        ("response", "0123456789abcdef0123456789abcdef"),
        ("method", "REGISTER"),
        ("uri", "sip:example.com"),
    ];
    let who = [("newcall", "false"), ("domain", "example.com"), ("device", "Phone/1.0: 100%")];
    let number = [("number", "100"), ("expires", "600")];
    let bound = [
        ("number", "100"),
        ("sip_uri", "sip:example.com"),
        ("sip_callid", "1@192.0.2.10"),
        ("expires", "600"),
        ("realm", "example.com"),
        ("newcall", "false"),
        ("domain", "example.com"),
        ("device", "Phone/1.0: 100%"),
        ("username", "100"),
        ("driver", "sip"),
        ("data", "sip/sip:100@192.0.2.10:5062;transport=udp"),
    ];
    let route = [
        ("route_params", "oconnection_id"),
        ("oconnection_id", "general"),
        ("sip_to", "sip:100@192.0.2.10:5062;transport=udp"),
        ("sip_contact", "<sip:100@192.0.2.10:5062;transport=udp>;expires=600"),
    ];
    let status = |status| [("module", "sip"), ("status", status), ("address", "192.0.2.10:5062")];
    let incoming = [("answered", "false"), ("direction", "incoming"), ("callid", "2@192.0.2.10")];
    let to = |caller, called, uri, from, to| {
        [
            ("caller", caller),
            ("called", called),
            ("ip_host", "192.0.2.10"),
            ("ip_port", "5062"),
            ("ip_transport", "UDP"),
            ("connection_id", "general"),
            ("connection_reliable", "false"),
            ("sip_uri", uri),
            ("sip_from", from),
            ("sip_to", to),
            ("sip_callid", "2@192.0.2.10"),
            ("device", "Phone/1.0: 100%"),
            ("username", caller),
            ("realm", "example.com"),
            ("domain", "example.com"),
            ("called_domain", "example.com"),
            ("method", "INVITE"),
        ]
    };
    let (one, other) = ("sip:100@example.com", "sip:200@example.com");
    let (there, back) = (to("100", "200", other, one, other), to("200", "100", one, other, one));
    let (leg, billid) = ([("id", "sip/1")], [("billid", "1800000000-1")]);
    let parties = [("caller", "100"), ("called", "200"), ("username", "100")];
    let callto = [("callto", "sip/sip:200")];
    let record = [
        ("time", "1800000000.000"),
        ("chan", "sip/1"),
        ("cdrid", "1"),
        ("runid", "1800000000"),
        ("operation", "finalize"),
        ("direction", "incoming"),
        ("duration", "12.000"),
        ("billtime", "10.000"),
        ("ringtime", "2.000"),
        ("status", "answered"),
        ("external", "100"),
        ("cdrwrite", "true"),
        ("billid", "1800000000-1"),
        ("address", "192.0.2.10:5062"),
        ("caller", "100"),
        ("called", "200"),
        ("calledfull", "200"),
        ("username", "100"),
        ("callid", "2@192.0.2.10"),
        ("inuse", "0"),
    ];
    let gone = [("username", "100"), ("driver", "sip"), ("expires", "0")];
    vec![
        make(MessageName::EngineStart, &[]),
        make(MessageName::UserAuth, &[&credentials, &flow, &who, &number]),
        make(MessageName::UserRegister, &[&bound, &flow, &route]),
        make(MessageName::UserAuthfail, &[&credentials, &flow, &who, &number]),
        make(MessageName::CallPreroute, &[&status("incoming"), &incoming, &there]),
        make(MessageName::CallRoute, &[&status("incoming"), &incoming, &there]),
        make(MessageName::CallRoute, &[&status("incoming"), &incoming, &back]),
        make(MessageName::ChanStartup, &[&leg, &status("incoming"), &billid, &incoming, &parties]),
        make(
            MessageName::CallExecute,
            &[&leg, &status("incoming"), &billid, &incoming, &parties, &callto],
        ),
        make(MessageName::ChanHangup, &[&leg, &status("answered"), &billid, &incoming]),
        make(MessageName::CallCdr, &[&record]),
        make(MessageName::EngineStatus, &[&[("details", "true")]]),
        make(MessageName::EngineCommand, &[&[("line", "hello")]]),
        make(MessageName::EngineTimer, &[&[("time", "1800000000")]]),
        make(MessageName::UserUnregister, &[&gone]),
        make(MessageName::EngineHalt, &[]),
    ]
}
