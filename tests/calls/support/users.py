"""Who calls and is called: u00001 with the password p00001, and so on."""

from scenario import Script
from sipp import Sipp

# Seconds that a registration may take.
REGISTRATION = 15


def account(number):
    """A user, and SIPp's keyword for the credentials: it fills in no field inside of one."""
    return f"u{number:05}", f"[authentication username=u{number:05} password=p{number:05}]"


def register(folder, proxy, port, numbers, q="", path=""):
    """Registers users at this port, from it, so that it is the address of their flow; `path` is the
    Path they say (RFC 3327)."""
    script = Script("register")
    through = ["Supported: path", f"Path: {path}"] if path else []
    for cseq, more in ((1, ""), (2, "[field1]")):
        script.send("REGISTER sip:[domain] SIP/2.0",
                    "Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch];rport",
                    "Max-Forwards: 70", "From: <sip:[field0]@[domain]>;tag=[pid]r[call_number]",
                    "To: <sip:[field0]@[domain]>", "Call-ID: [call_id]", f"CSeq: {cseq} REGISTER",
                    "Contact: <sip:[field0]@[local_ip]:[local_port]>" + (f";q={q}" if q else ""),
                    "Expires: 600", more, *through, retrans=True)
        if cseq == 1:
            script.receive(401, auth=True)
    script.receive(200)
    users = [account(number) for number in numbers]
    sipp = Sipp(folder, script, port=port, target=proxy.address, users=users, calls=len(users),
                rate=100, domain=proxy.domain)
    try:
        sipp.finish(REGISTRATION)
    finally:
        sipp.stop()
