"""What calls must be able to do: for each case what the caller does, and what the phones do."""

from typing import NamedTuple

from scenario import SDP, Script

# Milliseconds that a call lasts, and that a phone rings.
TALK, RING = 400, 200
# Seconds until the proxy gives a phone up that only rings, where a case waits for that.
RING_TIMEOUT = 2
# Percentage of messages that get lost, where a case is about that.
LOSS = 10
# Milliseconds of silence in which a message has been sent again twice (T1, and 2 T1 more).
LATE = 1_800
# Milliseconds in which a message that gets lost now and then has arrived.
LONG = 12_000


class Phone(NamedTuple):
    """A phone of the callee's: what it does, the q of its Contact, and whether anybody is there."""

    script: Script
    q: str = ""
    vanished: bool = False
    # Whether it gets the call at all.
    called: bool = True
    # Whose phone it is, if not everybody's.
    users: tuple = ()
    # It is a server of another domain, which registers nowhere.
    foreign: bool = False
    # The Path that it registers with.
    path: str = ""


class Case(NamedTuple):
    """Calls of one kind."""

    name: str
    caller: Script
    phones: list
    # Whether there is a call for a while, which the proxy has to count.
    counted: bool = True
    # Seconds that it takes at most.
    seconds: int = 30
    # It spends its time waiting.
    idle: bool = False
    # Keys of `[calls]`.
    settings: dict = {}
    # Who calls and whom, if not the usual: fields of SIPp's injection file.
    users: list | None = None
    calls: int | None = None
    # A relay beside the caller sends each of its datagrams three times.
    thrice: bool = False
    # Messages that come to a script again: its name, the message, and how often for each call at
    # least; 0 means never.
    repeats: tuple = ()
    # How many calls reach a phone, if not all of them.
    reached: int | None = None
    # The proxy ends, and starts anew, when all calls are going on.
    restart: bool = False
    # Settings that only Bindery has.
    ours: bool = False
    # Further numbers of users.
    alternatives: dict = {}
    # The call comes in by another listener than it goes out.
    elsewhere: bool = False
    # Lines of dnsmasq's configuration; `{0}` is the port of the first phone.
    zone: tuple = ()
    # Somebody who calls at the same time, and whom.
    beside: Script | None = None
    beside_users: tuple = ()
    # Seconds until nothing is left of it; a case that takes longer than others only runs by name.
    quiet: int = 60
    # How its calls must have ended: the result in the metrics, and the reason in their records.
    ends: tuple = ()


def caller(name):
    return Script(f"caller-{name}")


def phone(name):
    return Script(f"phone-{name}")


def connected(script, *, ring=True, match=(), within=10_000):
    """The caller's part of a call from the INVITE to the ACK; `match`: what the 200 must have."""
    script.challenged()
    if ring:
        script.receive(180, within=within)
    script.receive(200, routes=True, match=match)
    script.within("ACK", 2)


def picked_up(script, *, ring=True):
    """The callee's part of it."""
    script.invited()
    if ring:
        script.answer(180, "Ringing", tag=True)
        script.pause(RING)
    script.answer(200, "OK", body=SDP, retrans=True, tag=True)
    acknowledged(script)


def acknowledged(script, **options):
    """The ACK of the INVITE. That may come again, where it was long without an answer: SIPp only
    knows it by itself until it has sent two messages after it."""
    script.receive("INVITE", optional=True)
    script.receive("ACK", **options)


def hangs_up(script, cseq=3):
    script.within("BYE", cseq)
    script.receive(200)


def is_hung_up(script):
    # Of a 200 that came twice there are two.
    script.receive("ACK", optional=True)
    script.receive("BYE")
    script.answer(200, "OK")
    # A caller may not have got that.
    script.linger(1000)


def refused(name, *codes):
    """A caller who gets one of these answers."""
    script = caller(name)
    script.challenged()
    script.receive(180, optional=True)
    one_of(script, *codes)
    script.refused_ack(2)
    return script


def one_of(script, *codes):
    """Any of these final responses."""
    for code in codes[1:]:
        script.receive(code, optional=True, then="refused")
    script.receive(codes[0], within=45_000)
    if len(codes) > 1:
        script.label("refused")


def ringing_only(name):
    """A phone that rings until somebody says that it need not (§9.2)."""
    script = phone(name)
    script.invited()
    script.answer(180, "Ringing", tag=True)
    script.receive("CANCEL", within=60_000)
    script.answer(200, "OK", tag=True)
    script.answer_invite(487, "Request Terminated", retrans=True)
    script.receive("CANCEL", optional=True)
    acknowledged(script)
    return script


def not_called():
    """A phone that is there, and that nobody may reach."""
    script = phone("not-called")
    script.receive("INVITE")
    script.answer(486, "Busy Here", tag=True)
    return script


def answered():
    one, other = caller("answered"), phone("answered")
    connected(one)
    one.pause(TALK)
    hangs_up(one)
    picked_up(other)
    is_hung_up(other)
    return Case("answered", one, [Phone(other)])


def callee_hangs_up():
    one, other = caller("callee-hangs-up"), phone("callee-hangs-up")
    connected(one)
    one.receive("BYE")
    one.answer(200, "OK")
    one.linger(1000)
    picked_up(other)
    other.pause(TALK)
    other.call_back("BYE", 1)
    other.receive(200)
    return Case("callee-hangs-up", one, [Phone(other)])


def busy():
    other = phone("busy")
    other.invited()
    other.answer(486, "Busy Here", tag=True, retrans=True)
    other.receive("ACK")
    return Case("busy", refused("busy", 486), [Phone(other)], counted=False)


def no_answer():
    return Case("no-answer", refused("no-answer", 408, 480), [Phone(ringing_only("no-answer"))],
                settings={"ring_timeout": RING_TIMEOUT})


def cancelled():
    one = caller("cancelled")
    one.challenged()
    one.receive(180)
    one.pause(RING)
    one.cancel(2)
    one.receive(200)
    one.receive(487)
    one.refused_ack(2)
    return Case("cancelled", one, [Phone(ringing_only("cancelled"))])


def forked():
    one, other = caller("forked"), phone("forked-picks-up")
    one.challenged()
    one.receive(180)
    # Those of the other two phones.
    one.receive(180, optional=True)
    one.receive(180, optional=True)
    one.receive(200, routes=True)
    one.within("ACK", 2)
    one.pause(TALK)
    hangs_up(one)
    other.invited()
    other.answer(180, "Ringing", tag=True)
    other.pause(2 * RING)
    other.answer(200, "OK", body=SDP, retrans=True, tag=True)
    acknowledged(other)
    is_hung_up(other)
    losers = [Phone(ringing_only(f"forked-loses-{number}")) for number in (1, 2)]
    return Case("forked", one, [losers[0], Phone(other), losers[1]])


def forked_all_refuse():
    """Of several refusals the best comes (§16.7 step 6): a 6xx before all others."""
    phones = []
    for wait, code, reason in ((50, 486, "Busy Here"), (400, 603, "Decline"), (100, 503, "Down")):
        other = phone(f"refuses-{code}")
        other.invited()
        other.pause(wait)
        other.answer(code, reason, retrans=True, tag=True)
        acknowledged(other)
        phones.append(Phone(other))
    return Case("forked-all-refuse", refused("forked-all-refuse", 603), phones, counted=False)


def serial():
    """The phone with the greater q first; only when it is busy, the other."""
    one, first, second = caller("serial"), phone("serial-first"), phone("serial-second")
    connected(one)
    one.pause(TALK)
    hangs_up(one)
    first.invited()
    first.answer(180, "Ringing", tag=True)
    # A proxy that calls both at once has the second answer meanwhile.
    first.pause(600)
    first.answer(486, "Busy Here", retrans=True, tag=True)
    acknowledged(first)
    picked_up(second, ring=False)
    is_hung_up(second)
    return Case("serial", one, [Phone(second, "0.5"), Phone(first, "1.0")])


def vanished():
    """Nobody is at the address that is still registered."""
    return Case("vanished", refused("vanished", 408, 480), [Phone(not_called(), vanished=True)],
                counted=False, seconds=60, idle=True)


def offline():
    return Case("offline", refused("offline", 480), [], counted=False)


def unknown():
    return Case("unknown", refused("unknown", 404), [], counted=False,
                users=[("u00001", "[authentication username=u00001 password=p00001]", "nobody")])


def wrong_password():
    one = caller("wrong-password")
    one.challenged(once=True)
    one_of(one, 407, 403)
    one.refused_ack(2)
    return Case("wrong-password", one, [Phone(not_called(), called=False)], counted=False,
                users=[("u00001", "[authentication username=u00001 password=wrong]", "u00041")],
                calls=10)


def spoofed():
    """Nobody calls in the name of another of our users."""
    one = caller("spoofed")
    one.challenged(sender="u00002")
    one.receive(403)
    one.refused_ack(2, sender="u00002")
    return Case("spoofed", one, [Phone(not_called(), called=False)], counted=False,
                users=[("u00001", "[authentication username=u00001 password=p00001]", "u00041")],
                calls=10)


def no_relay():
    """Nobody is called who is not ours, not by one of our users either."""
    one = caller("no-relay")
    one.challenged(uri="sip:somebody@elsewhere.example")
    one_of(one, 403, 404)
    one.refused_ack(2, uri="sip:somebody@elsewhere.example")
    return Case("no-relay", one, [], counted=False, calls=10)


def foreign():
    """Who is not one of ours does not call us, unless a setting says so."""
    one = caller("foreign")
    one.ask("INVITE", 1, body=SDP)
    one.receive(100, optional=True)
    one.receive(403)
    one.refused_ack(1)
    return Case("foreign", of_elsewhere(one), [Phone(not_called(), called=False)], counted=False,
                calls=10)


def of_elsewhere(script):
    """The same caller with an address of another domain."""
    script.steps = [step.replace("From: <sip:[field0]@[domain]>",
                                 "From: <sip:[field0]@elsewhere.example>")
                    for step in script.steps]
    return script


def trusted():
    """From a network that is trusted, nobody has to prove who he is."""
    one, other = caller("trusted"), phone("trusted")
    one.ask("INVITE", 1, body=SDP)
    one.receive(100, optional=True)
    one.receive(180)
    one.receive(200, routes=True)
    one.within("ACK", 1)
    one.pause(TALK)
    hangs_up(one, 2)
    picked_up(other)
    is_hung_up(other)
    return Case("trusted", of_elsewhere(one), [Phone(other)], settings={"trusted": "127.0.0.0/8"},
                ours=True)


def too_many():
    """A user who has as many calls as he may gets 486 for another one."""
    one, other = caller("too-many"), phone("too-many")
    one.challenged()
    one.receive(486, optional=True, then="refused")
    one.receive(180)
    one.receive(200, routes=True)
    one.within("ACK", 2)
    one.pause(5 * 1000)
    one.within("BYE", 3)
    one.receive(200, then="done")
    one.label("refused")
    one.refused_ack(2)
    one.label("done")
    picked_up(other)
    is_hung_up(other)
    same = [("u00001", "[authentication username=u00001 password=p00001]", f"u{number:05}")
            for number in range(41, 51)]
    return Case("too-many", one, [Phone(other)], settings={"max_calls": 2}, users=same, calls=8,
                reached=2, ours=True)


def redirected():
    """As a redirect server it tells where the phones are (§8.3)."""
    one = caller("redirected")
    one.challenged()
    one.receive(302, match=(("Contact", r"sip:u000[0-9]+@127.0.0.1:[0-9]+"),))
    one.refused_ack(2)
    return Case("redirected", one, [Phone(not_called(), called=False)], counted=False,
                settings={"mode": "redirect"}, ours=True)


def restarted():
    """Calls outlive the proxy: what comes within them finds its way through the next one."""
    one, other = caller("restarted"), phone("restarted")
    connected(one)
    one.pause(8_000)
    hangs_up(one)
    picked_up(other)
    other.receive("BYE", within=30_000)
    other.answer(200, "OK")
    other.linger(1000)
    return Case("restarted", one, [Phone(other)], restart=True, idle=True)


def alternative():
    """A number that two users have: both ring, and one picks up."""
    one, other, loser = caller("alternative"), phone("alternative"), ringing_only("alternative-2")
    one.challenged()
    one.receive(180)
    one.receive(180, optional=True)
    one.receive(200, routes=True)
    one.within("ACK", 2)
    one.pause(TALK)
    hangs_up(one)
    other.invited()
    other.answer(180, "Ringing", tag=True)
    other.pause(2 * RING)
    other.answer(200, "OK", body=SDP, retrans=True, tag=True)
    acknowledged(other)
    is_hung_up(other)
    users = [(f"u{number:05}", f"[authentication username=u{number:05} password=p{number:05}]",
              "900") for number in range(1, 41)]
    return Case("alternative", one, [Phone(other, users=(41,)), Phone(loser, users=(42,))],
                users=users, alternatives={41: "900,901", 42: "900"}, ours=True)


def between_listeners():
    """In by one address, out by another: each side is told of the one that it can reach, by two
    values of Record-Route (RFC 5658 §3.2) or by one that is changed in the response."""
    one, other = caller("between-listeners"), phone("between-listeners")
    connected(one, match=(("Record-Route", r"sip:127\.0\.0\.2:"),))
    one.pause(RING)
    one.within("INFO", 3, body="Signal=5")
    one.receive(200)
    is_hung_up(one)
    picked_up(other)
    other.receive("ACK", optional=True)
    other.receive("INFO")
    other.answer(200, "OK")
    other.pause(RING)
    other.call_back("BYE", 1)
    other.receive(200)
    return Case("between-listeners", one, [Phone(other)], elsewhere=True)


def dead():
    """Neither side is heard of any more: the call counts as ended after `dead_call`."""
    one, other = caller("dead-call"), phone("dead-call")
    connected(one)
    one.pause(1000)
    picked_up(other)
    return Case("dead-call", one, [Phone(other)], settings={"dead_call": 60}, idle=True, quiet=130,
                ours=True)


def probed():
    """Neither side says anything for a while: both are asked, answer, and the call goes on."""
    one, other = caller("probed"), phone("probed")
    connected(one)
    for _ in range(2):
        one.receive("OPTIONS")
        one.answer(200, "OK")
    one.pause(RING)
    hangs_up(one)
    picked_up(other)
    other.receive("OPTIONS")
    # Not all phones know it, or like its number.
    other.answer(500, "Server Internal Error")
    other.receive("OPTIONS")
    other.answer(405, "Method Not Allowed")
    is_hung_up(other)
    return Case("probed", one, [Phone(other)], settings={"probe": 2}, ours=True,
                ends=("completed", ""))


def gone():
    """A phone says that it has no such call: it is over, though nobody hangs up."""
    one, other = caller("gone"), phone("gone")
    connected(one)
    one.receive("UPDATE")
    one.answer(200, "OK")
    picked_up(other)
    other.receive("UPDATE", match=(("Contact", r"sip:u000[0-9]+@127.0.0.1:[0-9]+"),))
    other.answer(481, "Call/Transaction Does Not Exist")
    return Case("gone", one, [Phone(other)], settings={"probe": 1, "probe_by": "UPDATE"}, ours=True,
                ends=("vanished", "vanished"))


def vanished_within():
    """A phone vanishes during a call, and its BYE never comes: a probe finds that out."""
    one, other = caller("vanished-within"), phone("vanished-within")
    connected(one)
    one.receive("OPTIONS")
    one.answer(200, "OK")
    picked_up(other)
    return Case("vanished-within", one, [Phone(other)], settings={"probe": 1}, idle=True, ours=True,
                ends=("vanished", "vanished"))


def invited_again():
    """Each side changes the session within the call."""
    one, other = caller("re-invite"), phone("re-invite")
    connected(one)
    one.pause(RING)
    one.within("INVITE", 3, body=SDP)
    one.receive(100, optional=True)
    one.receive(200)
    one.within("ACK", 3)
    one.receive("INVITE")
    one.answer(200, "OK", body=SDP, retrans=True)
    one.receive("ACK")
    one.pause(RING)
    hangs_up(one, 4)
    picked_up(other)
    other.receive("INVITE")
    other.answer(200, "OK", body=SDP, retrans=True)
    other.receive("ACK")
    other.pause(RING)
    other.call_back("INVITE", 1, body=SDP)
    other.receive(100, optional=True)
    other.receive(200)
    other.call_back("ACK", 1)
    is_hung_up(other)
    return Case("re-invite", one, [Phone(other)])


def within_the_dialog():
    """What goes through within a dialog, the early one included."""
    one, other = caller("in-dialog"), phone("in-dialog")
    one.challenged("INVITE", "Supported: 100rel")
    one.receive(180, routes=True)
    one.within("PRACK", 3, "RAck: 1 2 INVITE")
    one.receive(200)
    one.receive(200, routes=True)
    one.within("ACK", 2)
    for cseq, method in enumerate(("INFO", "UPDATE", "MESSAGE"), 4):
        body = {"INFO": "Signal=5", "UPDATE": SDP, "MESSAGE": "hello"}[method]
        one.within(method, cseq, body=body)
        one.receive(200)
    one.within("REFER", 7, "Refer-To: <sip:third@[domain]>")
    one.receive(202)
    one.receive("NOTIFY")
    one.answer(200, "OK")
    one.receive("OPTIONS")
    one.answer(200, "OK")
    hangs_up(one, 8)
    other.invited()
    other.answer(180, "Ringing", "Require: 100rel", "RSeq: 1", tag=True, retrans=True)
    other.receive("PRACK")
    other.answer(200, "OK")
    other.pause(RING)
    other.answer_invite(200, "OK", body=SDP, retrans=True)
    acknowledged(other)
    for method in ("INFO", "UPDATE", "MESSAGE"):
        other.receive(method)
        other.answer(200, "OK", body=SDP if method == "UPDATE" else "")
    other.receive("REFER")
    other.answer(202, "Accepted")
    other.call_back("NOTIFY", 1, "Event: refer", "Subscription-State: terminated;reason=noresource")
    other.receive(200)
    other.call_back("OPTIONS", 2)
    other.receive(200)
    is_hung_up(other)
    return Case("in-dialog", one, [Phone(other)])


def passed(method, *lines, body=""):
    """A request that is no INVITE, and opens no call."""
    name = method.lower()
    one, other = caller(name), phone(name)
    one.challenged(method, *lines, body=body)
    one.receive(200)
    other.receive(method)
    other.answer(200, "OK", tag=True)
    other.linger(500)
    return Case(name, one, [Phone(other)], counted=False)


def subscribed():
    """A subscription is a dialog too: its NOTIFY comes back through us (RFC 6665)."""
    one, other = caller("subscribe"), phone("subscribe")
    event = "Event: dialog"
    one.challenged("SUBSCRIBE", event, "Expires: 60", body="")
    one.receive(200)
    one.receive("NOTIFY")
    one.answer(200, "OK")
    other.receive("SUBSCRIBE", routes=True, keep=("From", "To"))
    other.answer(200, "OK", event, "Expires: 60", tag=True)
    other.call_back("NOTIFY", 1, event, "Subscription-State: terminated;reason=timeout")
    other.receive(200)
    return Case("subscribe", one, [Phone(other)], counted=False)


def ack_late():
    """The ACK seems lost: the phone sends the 200 again, and each one comes through (§16.7)."""
    one, other = caller("ack-late"), phone("ack-late")
    one.challenged()
    one.receive(180)
    one.receive(200, routes=True)
    one.pause(LATE)
    one.within("ACK", 2)
    one.pause(TALK)
    hangs_up(one)
    picked_up(other)
    is_hung_up(other)
    return Case("ack-late", one, [Phone(other)], repeats=((one.name, "200", 2),))


def bye_late():
    """The phone answers late: the proxy sends the BYE again by itself (§17.1.2.2)."""
    one, other = caller("bye-late"), phone("bye-late")
    connected(one)
    one.pause(TALK)
    hangs_up(one)
    picked_up(other)
    other.receive("BYE")
    other.pause(LATE)
    other.answer(200, "OK")
    other.linger(1000)
    return Case("bye-late", one, [Phone(other)], repeats=((other.name, "BYE", 2),))


def lossy():
    """SIPp loses one in ten of what either side sends, at random."""
    one, other = caller("lossy"), phone("lossy")
    one.ask("INVITE", 1, body=SDP, lost=LOSS)
    one.receive(100, optional=True)
    one.receive(407, auth=True)
    one.refused_ack(1)
    one.ask("INVITE", 2, body=SDP, credentials=True, lost=LOSS)
    one.receive(100, optional=True)
    one.receive(180, optional=True)
    one.receive(200, routes=True, within=30_000)
    one.within("ACK", 2, lost=LOSS)
    one.pause(LONG)
    one.within("BYE", 3, lost=LOSS)
    one.receive(200, within=30_000)
    other.invited()
    # SIPp forgets which message it was to answer when it loses the first answer to it.
    other.answer(180, "Ringing", tag=True)
    other.pause(RING)
    other.answer(200, "OK", body=SDP, retrans=True, lost=LOSS, tag=True)
    acknowledged(other, within=30_000)
    other.receive("ACK", optional=True)
    other.receive("BYE", within=60_000)
    other.answer(200, "OK", lost=LOSS)
    other.linger(LONG)
    return Case("lossy", one, [Phone(other)], seconds=60, idle=True)


def repeated():
    """Each message of the caller comes three times, and the phone sees one (§17.2)."""
    one, other = caller("repeated"), phone("repeated")
    connected(one)
    one.pause(TALK)
    hangs_up(one)
    other.invited()
    for code, reason in ((100, "Trying"), (180, "Ringing"), (180, "Ringing")):
        other.answer(code, reason, tag=True)
    other.pause(RING)
    other.answer(200, "OK", body=SDP, retrans=True, tag=True)
    acknowledged(other)
    # The ACK of a 200 belongs to no transaction: each goes through.
    other.pause(100)
    is_hung_up(other)
    return Case("repeated", one, [Phone(other)], thrice=True,
                repeats=((other.name, "INVITE", 0), (other.name, "BYE", 0)))


def path_of_a_stranger():
    """A user may not name other hosts than its own in Path: calls go where it registered from."""
    name = "path-of-a-stranger"
    one, other = caller(name), phone(name)
    connected(one)
    one.pause(TALK)
    hangs_up(one)
    picked_up(other)
    is_hung_up(other)
    # Port 9 is nobody's here: what went there would come to nothing.
    return Case(name, one, [Phone(other, path="<sip:127.0.0.9:9;lr>")], ours=True)


def everything():
    """All cases, the longest first."""
    return [vanished(), lossy(), no_answer(), answered(), callee_hangs_up(), busy(), cancelled(),
            forked(), forked_all_refuse(), serial(), offline(), unknown(), wrong_password(),
            spoofed(), no_relay(), foreign(), trusted(), too_many(), redirected(), restarted(),
            alternative(), between_listeners(), dead(), vanished_within(), gone(), probed(),
            invited_again(), within_the_dialog(),
            ack_late(), bye_late(), repeated(), passed("MESSAGE", body="hello"), passed("OPTIONS"),
            passed("PUBLISH", "Event: presence", "Expires: 60"), subscribed(),
            path_of_a_stranger()]
