//! What an operator asks external modules by name: Yate's `engine.status` and `engine.command`, which
//! there come from rmanager.

use tokio::sync::oneshot;

use super::{
    chain::{Chain, Dispatched, Failure},
    message::{Message, MessageName},
};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineQuestion {
    /// How a module does, or all do if none is named.
    Status {
        /// The module's name; empty for all.
        module: String,
    },
    /// What comes of this line.
    Command {
        /// As it was typed.
        line: String,
    },
}

/// What modules said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineAnswer {
    /// Whether one of them took it to be its own.
    pub handled: bool,
    /// Their text; lines end as they have ended them.
    pub text: String,
}

/// A question, and where the answer goes.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) question: EngineQuestion,
    pub(super) answer: oneshot::Sender<EngineAnswer>,
}

/// Has a question answered.
pub(super) async fn answer(chain: Chain, Asked { question, answer }: Asked) {
    let mut message = match question {
        EngineQuestion::Status { module } => {
            let mut message = Message::new(MessageName::EngineStatus);
            if module.is_empty() || module == "extmodule" {
                message.retval = status(&chain);
            }
            if !module.is_empty() {
                message.set("module", module);
            }
            message.set("details", "true");
            message
        }
        EngineQuestion::Command { line } => {
            let mut message = Message::new(MessageName::EngineCommand);
            message.set("line", line);
            message
        }
    };
    let own = !message.retval.is_empty();
    let handled = match chain.dispatch(&mut message).await {
        Dispatched::Handled { .. } => true,
        Dispatched::Unhandled => own,
        Dispatched::Failed(Failure { reason, .. }) => {
            tracing::warn!(message = %message.name, "{reason}");
            own
        }
    };
    // Whoever has asked may have gone.
    let _ = answer.send(EngineAnswer { handled, text: message.retval });
}

/// Our own line of `engine.status`, in Yate's form: who has installed what, at which priority, and who is
/// missing.
fn status(chain: &Chain) -> String {
    let mut modules: Vec<(String, Vec<String>)> = Vec::new();
    for (who, name, priority) in chain.guests().wanted() {
        let installed = format!("{name} {priority}");
        match modules.iter_mut().find(|(known, _)| **known == *who) {
            Some((_, names)) => names.push(installed),
            None => modules.push((who.to_string(), vec![installed])),
        }
    }
    let count = modules.len();
    let modules = modules.iter().map(|(who, names)| format!("{who}={}", names.join("|")));
    let away = chain.guests().away();
    let away = away.iter().map(|who| format!("{who}=away"));
    let modules: Vec<String> = modules.chain(away).collect();
    let head = format!("name=extmodule,type=misc,format=Installed;scripts={count},chans=0");
    [head, modules.join(",")].join(";") + "\r\n"
}
