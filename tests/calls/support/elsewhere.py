"""Calls to other domains: whose servers dnsmasq knows, and SIPp is."""

from cases import (TALK, Case, Phone, acknowledged, caller, connected, hangs_up, is_hung_up,
                   not_called, phone, picked_up)
from scenario import Script

# Settings of the cases whose names are looked up. All of it is on this machine, where nobody calls
# unless it is allowed.
BY_NAME = {"foreign": "dns", "foreign_deny": "none", "dns_timeout": 8}


def calling_out(name):
    """A caller of whoever the third field names, at whatever domain."""
    return Script(f"caller-{name}", callee="sip:[field2]")


def everybody_to(callee):
    """Each of the callers calls this one."""
    return [(f"u{number:05}", f"[authentication username=u{number:05} password=p{number:05}]",
             callee) for number in range(1, 41)]


def by_srv():
    """A call to another domain: NAPTR, SRV, address (RFC 3263 §4)."""
    one, other = calling_out("by-srv"), phone("by-srv")
    connected(one)
    one.pause(TALK)
    hangs_up(one)
    picked_up(other)
    is_hung_up(other)
    zone = ("naptr-record=by-srv.example,10,10,s,SIP+D2T,,_sip._tcp.by-srv.example",
            "naptr-record=by-srv.example,20,10,s,SIP+D2U,,_elsewhere._udp.by-srv.example",
            "srv-host=_elsewhere._udp.by-srv.example,gw.by-srv.example,{0},10,1",
            "host-record=gw.by-srv.example,127.0.0.1")
    return Case("by-srv", one, [Phone(other, foreign=True)], settings=BY_NAME, zone=zone,
                users=everybody_to("bob@by-srv.example"), ours=True)


# Two servers, the second for when the first is not there.
TWO_SERVERS = ("srv-host=_sip._udp.two.example,gw.two.example,{0},10,1",
               "srv-host=_sip._udp.two.example,gw.two.example,{1},20,1",
               "host-record=gw.two.example,127.0.0.1")


def second_server():
    """Nobody is at the first of two servers: after four seconds the second has the call (§4.3)."""
    one, other = calling_out("second-server"), phone("second-server")
    connected(one, within=10_000)
    one.pause(TALK)
    hangs_up(one)
    picked_up(other)
    is_hung_up(other)
    gone = Phone(not_called(), vanished=True, foreign=True)
    return Case("second-server", one, [gone, Phone(other, foreign=True)], settings=BY_NAME,
                zone=TWO_SERVERS, users=everybody_to("bob@two.example"), seconds=90, idle=True,
                ours=True)


def server_unavailable():
    """The first of two servers says 503: the second has the call at once."""
    one, first, other = (calling_out("unavailable"), phone("unavailable"), phone("available"))
    connected(one, within=3_000)
    one.pause(TALK)
    hangs_up(one)
    first.invited()
    first.answer(503, "Service Unavailable", retrans=True, tag=True)
    acknowledged(first)
    picked_up(other)
    is_hung_up(other)
    return Case("server-unavailable", one,
                [Phone(first, foreign=True), Phone(other, foreign=True)], settings=BY_NAME,
                zone=TWO_SERVERS, users=everybody_to("bob@two.example"), ours=True)


def refused_out(name, code):
    script = calling_out(name)
    script.challenged()
    script.receive(code, within=20_000)
    script.refused_ack(2)
    return script


def no_such_domain():
    return Case("no-such-domain", refused_out("no-such-domain", 404), [], counted=False,
                settings=BY_NAME, zone=("host-record=other.example,127.0.0.1",),
                users=everybody_to("bob@none.example"), ours=True)


def denied():
    """Whatever a name resolves to, nobody has the server send to what is not public."""
    zone = ("srv-host=_sip._udp.inside.example,gw.inside.example,{0},10,1",
            "host-record=gw.inside.example,127.0.0.1")
    return Case("denied", refused_out("denied", 403),
                [Phone(not_called(), called=False, foreign=True)], counted=False,
                settings={"foreign": "dns", "dns_timeout": 8}, zone=zone,
                users=everybody_to("bob@inside.example"), ours=True)


def only_tcp():
    """A domain that says it is there by TCP only is sent nothing by UDP (§4.1)."""
    zone = ("naptr-record=tcp.example,10,10,s,SIP+D2T,,_sip._tcp.tcp.example",
            "srv-host=_sip._udp.tcp.example,gw.tcp.example,{0},10,1",
            "host-record=gw.tcp.example,127.0.0.1")
    return Case("only-tcp", refused_out("only-tcp", 500),
                [Phone(not_called(), called=False, foreign=True)], counted=False,
                settings=BY_NAME, zone=zone, users=everybody_to("bob@tcp.example"), ours=True)


def late_domain():
    """Calls to a domain whose name server says nothing wait, and no others with them."""
    one, other = caller("beside-late"), phone("beside-late")
    connected(one, within=2_000)
    one.pause(TALK)
    hangs_up(one)
    picked_up(other)
    is_hung_up(other)
    return Case("late-domain", one, [Phone(other)], settings=BY_NAME,
                zone=("host-record=other.example,127.0.0.1",), ours=True,
                beside=refused_out("late", 504),
                beside_users=tuple(everybody_to("bob@late.example")))


def everything():
    """All cases, the longest first."""
    return [second_server(), late_domain(), by_srv(), server_unavailable(), no_such_domain(),
            denied(), only_tcp()]
