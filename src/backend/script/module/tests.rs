//! Dialogues with a module that has no pipe.

use super::{obey::MAX_SENT, *};
use crate::backend::chain::{Failure, Handling};

fn module_with(change: impl FnOnce(&mut Beginning)) -> Rc<Module> {
    let mut beginning = Beginning {
        number: 7,
        name: "script test".into(),
        settings: extmodule::Module::default(),
        restart: Some(true),
        has_to_connect: false,
        status: Arc::default(),
        clock: Arc::new(SystemClock::new()),
        tap: None,
    };
    change(&mut beginning);
    Rc::new(Module::new(beginning))
}

fn module() -> Rc<Module> {
    module_with(|_| {})
}

/// What is to be written to it now.
fn said(module: &Module) -> String {
    let mut text = String::new();
    let all: Result<(), ()> = module.write_out(|out| {
        text.push_str(std::str::from_utf8(out).unwrap());
        Ok(out.len())
    });
    all.unwrap();
    text
}

#[test]
fn a_dialogue_goes_as_with_yate() {
    let module = module();
    for (line, answer) in [
        ("%%>install:50:user.auth", "%%<install:50:user.auth:true\n"),
        ("%%>install:60:user.auth", "%%<install:60:user.auth:false\n"),
        ("%%>install::a%zb:x:y", "%%<install:100:a%zb:true\n"),
        ("%%>uninstall:user.auth", "%%<uninstall:50:user.auth:true\n"),
        ("%%>uninstall:user.auth", "%%<uninstall:0:user.auth:false\n"),
        ("%%>watch:", "%%<watch::true\n"),
        ("%%>watch:", "%%<watch::false\n"),
        ("%%>unwatch:", "%%<unwatch::true\n"),
        ("%%>unwatch:x", "%%<unwatch:x:false\n"),
        ("%%>setlocal:timeout:500", "%%<setlocal:timeout:500:true\n"),
        ("%%>setlocal:timeout:", "%%<setlocal:timeout:500:true\n"),
        ("%%>setlocal:timeout:-1", "%%<setlocal:timeout:0:true\n"),
        ("%%>setlocal:bufsize:1", "%%<setlocal:bufsize:2048:true\n"),
        ("%%>setlocal:bufsize:99999", "%%<setlocal:bufsize:65536:true\n"),
        ("%%>setlocal:maxqueue:5", "%%<setlocal:maxqueue:5:true\n"),
        ("%%>setlocal:restart", "%%<setlocal:restart:true:true\n"),
        ("%%>setlocal:restart:false", "%%<setlocal:restart:false:true\n"),
        ("%%>setlocal:timebomb:yes", "%%<setlocal:timebomb:true:true\n"),
        ("%%>setlocal:loaded.regfile", "%%<setlocal:loaded.regfile:true:true\n"),
        ("%%>setlocal:loaded.regfile:x", "%%<setlocal:loaded.regfile:true:false\n"),
        ("%%>setlocal:id:x", "%%<setlocal:id::false\n"),
        ("%%>setlocal:trackparam:x", "%%<setlocal:trackparam:x:true\n"),
        ("%%>output:hello", ""),
        ("%%>debug:5:hello", ""),
        ("%%<message:nobody:true:", ""),
        ("%%>connect:global", "Error in: %%>connect:global\n"),
        ("print", "Error in: print\n"),
        ("Error in: print", ""),
        ("%%>message:1:0:a::b=%}", "Error in: %%>message:1:0:a::b=%}\n"),
        ("", ""),
        ("%%>quit", "%%<quit\n"),
    ] {
        module.take(line.as_bytes());
        assert_eq!(said(&module), answer, "{line}");
    }
    assert_eq!(module.ends().as_deref(), Some("it has quit"));
    assert!(!module.restarts());
}

#[test]
fn a_socket_has_to_say_what_it_is() {
    for (line, ends) in [
        ("%%>connect:global", false),
        ("%%>connect:channel:x:y", true),
        ("%%>install:1:a", true),
        ("hello", true),
    ] {
        let module = module_with(|beginning| beginning.has_to_connect = true);
        module.take(line.as_bytes());
        assert_eq!((module.ends().is_some(), &*said(&module)), (ends, ""), "{line}");
    }
}

/// Runs what `asks` does with a module, on a clock that leaps.
fn run<T>(asks: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(asks)
}

fn question() -> Message {
    let mut message = Message::new(MessageName::UserAuth);
    message.set("username", "100");
    message.set("gone", "x");
    message
}

/// Asks, and has `answer` make the line of the answer from the question's id.
fn ask(module: &Rc<Module>, message: &mut Message, answer: fn(&str) -> String) -> Handling {
    run(async {
        let (handling, ()) = futures_util::future::join(module.ask(message), async {
            let line = said(module);
            let id = line.split(':').nth(1).unwrap().to_owned();
            for line in answer(&id).lines() {
                module.take(line.as_bytes());
            }
        })
        .await;
        handling
    })
}

#[test]
fn an_answer_changes_what_it_names() {
    let (module, mut message) = (module(), question());
    let handling = ask(&module, &mut message, |id| {
        format!("%%<message:{id}:true::secret:expires=60:gone:osip_X=a%Jb:osip_Y=c\n")
    });
    assert_eq!(handling, Handling::Handled);
    assert_eq!(message.retval, "secret");
    let params: Vec<_> = message.params().collect();
    assert_eq!(params, [("username", "100"), ("expires", "60"), ("osip_Y", "c")]);

    let mut message = question();
    let handling = ask(&module, &mut message, |id| {
        format!("%%<message:x:true::wrong\n%%<message:{id}:false:\n%%<message:{id}:true::late")
    });
    assert_eq!((handling, message), (Handling::Passed, question()));
    assert!(module.state.borrow().pending.is_empty());
}

fn failure(handling: Handling) -> String {
    let Handling::Failed(Failure { reason, is_outage: true }) = handling else { panic!() };
    reason
}

#[test]
fn who_does_not_answer_fails_and_is_ended_if_so_set() {
    let module = module_with(|beginning| {
        beginning.settings.timeout = Duration::from_millis(5);
        beginning.settings.maxqueue = 1;
    });
    let mut message = question();
    let reason = failure(run(module.ask(&mut message)));
    assert_eq!((&*reason, module.ends()), ("script test: it does not answer", None));
    module.take(b"%%>setlocal:timebomb:true");
    run(module.ask(&mut message));
    assert!(module.ends().is_some());
    assert_eq!(failure(run(module.ask(&mut message))), "script test: it has ended");
}

#[test]
fn no_more_wait_than_may() {
    let module = module_with(|beginning| beginning.settings.maxqueue = 1);
    let (mut one, mut two) = (question(), question());
    let (first, second) = run(async {
        let both = futures_util::future::join(module.ask(&mut one), async {
            let second = module.ask(&mut two).await;
            module.gone();
            second
        });
        both.await
    });
    assert_eq!(failure(first), "script test: it has ended");
    assert_eq!(failure(second), "script test: as many messages wait for it as may");
}

#[test]
fn it_is_not_shown_its_own() {
    let module = module();
    module.take(b"%%>watch:user.auth");
    said(&module);
    let mut message = question();
    message.sender = Some(7);
    assert_eq!(run(module.ask(&mut message)), Handling::Passed);
    module.see(&message, true);
    assert_eq!(said(&module), "");
    module.take(b"%%>setlocal:selfwatch:true");
    said(&module);
    module.see(&message, true);
    assert_eq!(said(&module), "%%<message::true:user.auth::username=100:gone=x\n");
}

#[test]
fn messages_of_its_own_are_bounded() {
    let module = module();
    for _ in 0..MAX_SENT {
        assert!(module.take(b"%%>message:1:0:a::b=c").is_some());
    }
    assert_eq!(said(&module), "");
    assert_eq!(module.take(b"%%>message:1:0:a::b=c"), None);
    assert_eq!(said(&module), "%%<message:1:false:a::b=c\n");
}

#[test]
fn who_babbles_is_not_listened_to() {
    let module = module();
    for _ in 0..=MISTAKES {
        module.take(b"babble");
    }
    assert!(!module.may_read());
}

#[test]
fn who_talks_without_end_is_held_up_unless_it_answers() {
    for line in ["%%>output:hello", "%%>message:1:0:x:", "%%>setlocal:timeout:"] {
        let module = module();
        let lines = (0..10_000).take_while(|_| {
            module.take(line.as_bytes());
            module.may_read()
        });
        assert!((999..2000).contains(&lines.count()), "{line}");
    }
    let module = module();
    for _ in 0..5000 {
        let handling = ask(&module, &mut question(), |id| {
            format!("%%>output:asked\n%%<message:{id}:true::secret\n%%<message:{id}:true::twice")
        });
        assert_eq!(handling, Handling::Handled);
        assert!(module.may_read());
    }
}

#[test]
fn an_answer_is_heard_whatever_waits_to_be_taken() {
    let module = module_with(|beginning| beginning.settings.timeout = Duration::from_secs(60));
    let mut message = question();
    message.set("long", "x".repeat(8000));
    let fill = || {
        let state = module.state.borrow();
        (state.out.len(), state.questions.has_room())
    };
    run(async {
        let mut waiting = Vec::new();
        // It takes nothing until no question has room.
        while fill().1 {
            let (module, mut message) = (Rc::clone(&module), message.clone());
            let mut asked = Box::pin(async move { module.ask(&mut message).await });
            assert!(futures_util::poll!(&mut asked).is_pending());
            waiting.push(asked);
        }
        let refused = failure(module.ask(&mut message).await);
        assert_eq!(refused, "script test: it does not read");
        assert!(module.may_read() && fill().0 < MAX_WATCHED);
        // When those are given up, nothing is left of them but what was on its way.
        drop(waiting);
        assert!(fill().1);
        let on_its_way = said(&module).lines().count();
        assert!((1..10).contains(&on_its_way), "{on_its_way}");
        assert_eq!(said(&module), "");
    });
}

#[test]
fn answers_that_were_owed_cost_nothing_however_late() {
    let module = module_with(|beginning| beginning.settings.maxqueue = 0);
    let mut ids = Vec::new();
    for _ in 0..4000 {
        run(async {
            let mut message = question();
            let asked = std::pin::pin!(module.ask(&mut message));
            assert!(futures_util::poll!(asked).is_pending());
        });
        ids.push(said(&module).split(':').nth(1).unwrap().to_owned());
        module.take(format!("%%<message:{}:true::late", ids.last().unwrap()).as_bytes());
        assert!(module.may_read());
    }
    // A second time they do.
    for id in ids {
        module.take(format!("%%<message:{id}:true::twice").as_bytes());
    }
    assert!(!module.may_read());
}

#[test]
fn a_question_longer_than_a_line_may_be_fails_by_itself() {
    let module = module();
    let mut message = question();
    message.set("device", "x".repeat(LONGEST_LINE));
    let reason = "script test: the question is longer than 64 KiB".to_owned();
    let failed = Handling::Failed(Failure { reason, is_outage: false });
    assert_eq!(run(module.ask(&mut message)), failed);
    module.take(b"%%>watch:");
    said(&module);
    module.see(&message, true);
    assert_eq!((said(&module), module.ends()), (String::new(), None));
}

#[test]
fn who_takes_nothing_or_never_says_what_it_is_is_ended() {
    let mut now = Instant::now();
    let silent = module_with(|beginning| beginning.has_to_connect = true);
    silent.check(now);
    assert_eq!(silent.ends(), None);
    silent.check(now + CONNECTS + Duration::from_secs(1));
    assert_eq!(silent.ends().as_deref(), Some("it has not said %%>connect in 10s"));

    let module = module();
    for _ in 0..4 {
        module.take(b"%%>setlocal:timeout:");
        module.check(now);
        now += STUCK / 2;
        module.check(now);
        // Whatever it takes, it takes something.
        let taken: Result<(), ()> = module.write_out(|_| Ok(1));
        taken.unwrap();
        assert_eq!(module.ends(), None);
    }
    module.check(now);
    module.check(now + STUCK);
    let ends = module.ends();
    assert_eq!(ends.as_deref(), Some("it has taken nothing of what it was told for 60s"));
}
