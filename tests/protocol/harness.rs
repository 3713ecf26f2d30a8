//! The harness itself: it must fail where a script is wrong, and say where.

use crate::{run, script::Script};

/// What playing all dialogues of a script comes to: the first failure.
fn outcome(text: &str) -> Result<(), String> {
    let script = Script::parse(text).map_err(|f| f.to_string())?;
    for dialogue in &script.dialogues {
        run::play(&script, dialogue).map_err(|f| f.to_string())?;
    }
    Ok(())
}

/// A script that passes; the tests below break it.
const GOOD: &str = "\
CONFIG registrar expires_min=60
DIALOGUE good
REGISTER alice contact=<sip:alice@192.0.2.1>;q=0.5 expires=60
EXPECT 200 OK
  Contact: <sip:alice@192.0.2.1>;q=0.5;expires=60
  Date: ${date}
  -Min-Expires
  @to 192.0.2.1:5060
  @size <= 1.2x
REPEAT
EXPECT same
BINDINGS alice
  sip:alice@192.0.2.1 expires=60 q=0.5
COUNTER register added 1
TIME 60s
BINDINGS alice none
";

#[test]
fn a_right_script_passes() {
    assert_eq!(outcome(GOOD), Ok(()));
}

#[test]
fn each_single_mistake_fails_at_its_line() {
    for (from, to, failure) in [
        ("EXPECT 200 OK", "EXPECT 400", "4: expected SIP/2.0 400 *"),
        ("EXPECT 200 OK", "EXPECT 200 Fine", "4: expected SIP/2.0 200 Fine"),
        ("EXPECT 200 OK", "EXPECT 20", "4: 20 is no status code"),
        ("expires=60\n  Date", "expires=61\n  Date", "4: expected these Contact, in order"),
        ("  Date", "  Contact: *\n  Date", "4: expected these Contact, in order"),
        ("-Min-Expires", "-Date", "4: expected no Date"),
        ("-Min-Expires", "Min-Expires: *", "4: expected these Min-Expires"),
        ("-Min-Expires", "nonsense", "4: nonsense is no `Name: pattern`"),
        ("@to 192.0.2.1:5060", "@to 192.0.2.1:5061", "4: expected it to go to 192.0.2.1:5061"),
        ("<= 1.2x", "<= 0.5x", "4: expected at most 0.5 times"),
        ("EXPECT same", "EXPECT silence ack", "11: expected silence: ack"),
        ("REPEAT", "REGISTER alice", "11: expected the same as before"),
        ("q=0.5\nCOUNTER", "q=0.6\nCOUNTER", "12: expected these bindings of alice@example.com"),
        ("q=0.5\nCOUNTER", "q=0.5\n  sip:b\nCOUNTER", "12: expected these bindings"),
        ("q=0.5\nCOUNTER", "colour=red\nCOUNTER", "12: a binding has no colour"),
        ("added 1", "added 2", "14: expected register added to be 2, it is 1"),
        ("register added", "register lost", "14: there is no register lost"),
        ("TIME 60s", "TIME 59s", "16: expected these bindings"),
        ("TIME 60s", "TIME 60", "15: 60 is no time"),
        ("TIME 60s", "TMIE 60s", "15: unknown directive TMIE 60s"),
        ("${date}", "${dat}", "4: unknown macro dat"),
        ("REPEAT\nEXPECT same", "REPEAT", "10: nobody looks at the answer"),
        ("REPEAT\nEXPECT same", "REPEAT\nREPEAT\nEXPECT same", "10: nobody looks at the answer"),
        ("expires=60\nEXPECT", "expiry=60\nEXPECT", "3: expiry is no option of REGISTER"),
        ("expires_min", "expires_mini", "3: "),
        ("DIALOGUE good\n", "", "2: before the first DIALOGUE"),
        ("DIALOGUE good", "DIALOGUE Good", "2: a name is made of"),
        ("REPEAT", "CONFIG registrar expires_min=1\nREPEAT", "10: settings stand at the start"),
    ] {
        assert_eq!(GOOD.matches(from).count(), 1, "{from:?}");
        let failed = outcome(&GOOD.replace(from, to)).expect_err(to);
        assert!(failed.starts_with(failure), "{from:?} -> {to:?}: {failed}");
    }
}

#[test]
fn a_failure_shows_the_whole_answer() {
    let failed = outcome(&GOOD.replace("200 OK", "404")).unwrap_err();
    for part in ["got, to 192.0.2.1:5060:", "SIP/2.0 200 OK", "Contact: <sip:alice@192.0.2.1>"] {
        assert!(failed.contains(part), "{failed}");
    }
}

#[test]
fn a_script_that_shows_nothing_is_an_error() {
    for (text, failure) in [
        ("", "1: there is no DIALOGUE"),
        ("DIALOGUE empty\n", "1: dialogue empty has no EXPECT"),
        ("DIALOGUE a\nTIME 1s\n", "2: dialogue a has no EXPECT"),
        ("DIALOGUE a\nEXPECT 200\n", "2: nothing was sent"),
        ("DIALOGUE a\nREPEAT => 200\n", "2: there is nothing to repeat"),
        ("DIALOGUE a\nREGISTER alice => 200\nDIALOGUE a\n", "3: there are two dialogues a"),
        ("DIALOGUE a\nAUTH alice secret => 200\n", "2: AUTH follows"),
        ("DIALOGUE a\nREGISTER alice => 200\nAUTH alice secret => 200\n", "3: there was no 401"),
        ("DIALOGUE a\nSEND\n| \nEXPECT 200\n", "4: there was silence: not_sip"),
        ("DIALOGUE a\nSEND => silence ack\n", "2: there was silence: keepalive"),
    ] {
        let failed = outcome(text).expect_err(text);
        assert!(failed.starts_with(failure), "{text:?}: {failed}");
    }
}

#[test]
fn patterns() {
    use crate::expect::matches;
    for (pattern, text, fits) in [
        ("a*c", "abc", true),
        ("a*c", "ac", true),
        ("a*c", "acd", false),
        ("*", "", true),
        ("a\\*", "a*", true),
        ("a\\*", "ab", false),
        ("", "a", false),
    ] {
        assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
    }
}

#[test]
fn dialogues_do_not_see_each_other() {
    let text = "DIALOGUE a\nREGISTER alice contact=sip:a@192.0.2.1 => 200\n\
                DIALOGUE b\nREGISTER alice\nEXPECT 200\n  -Contact\n";
    assert_eq!(outcome(text), Ok(()));
}
