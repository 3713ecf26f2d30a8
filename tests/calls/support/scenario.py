"""SIPp scenarios, told step by step: what a caller and what a callee sends and waits for.

SIPp's XML repeats each message in full and names a branch by how many steps ago it was made. Here
a message is a line, and `Script.write` makes the XML that `sipp -sf` reads.
"""

from pathlib import Path
from xml.sax.saxutils import quoteattr

SDP = """v=0
o=- 1 1 IN IP4 [local_ip]
s=-
c=IN IP4 [local_ip]
t=0 0
m=audio 9 RTP/AVP 0
"""
VIA = "Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch%s];rport"
CONTACT = "Contact: <sip:%s@[local_ip]:[local_port]>"
# Percentages of what is sent that gets lost on purpose.
NOTHING = 0
# Milliseconds in which anything that isn't waited for on purpose has to come.
PATIENCE = 10_000


class Script:
    """A scenario. Fields of the injection file: the caller, its `[authentication]`, the callee."""

    def __init__(self, name, callee="sip:[field2]@[domain]"):
        self.name, self.callee, self.steps, self.variables = name, callee, [], []
        # The steps at which each transaction of ours began.
        self.begun = {}

    def write(self, folder):
        """Writes NAME.xml, and returns its path."""
        path = Path(folder) / f"{self.name}.xml"
        used = ",".join(sorted(set(self.variables)))
        reference = f'  <Reference variables="{used}" />\n' if used else ""
        path.write_text('<?xml version="1.0" encoding="UTF-8" ?>\n'
                        f'<!DOCTYPE scenario SYSTEM "sipp.dtd">\n<scenario name="{self.name}">\n'
                        f'{"".join(self.steps)}{reference}</scenario>\n')
        return path

    # --- steps of both sides

    def send(self, *lines, body="", retrans=False, lost=NOTHING):
        """Sends a message of these header lines; `retrans`: until it is answered."""
        head = "\n".join(line for line in lines if line)
        # SIPp counts the octets of the body, and wants the blank line where there is none, too.
        kind = "Content-Type: application/sdp\n" if body == SDP else ""
        kind = "Content-Type: text/plain\n" if body and not kind else kind
        attributes = (' retrans="500"' if retrans else "") + (f' lost="{lost}"' if lost else "")
        self.steps.append(f"  <send{attributes}><![CDATA[\n\n{head}\n{kind}"
                          f"Content-Length: [len]\n\n{body}\n]]></send>\n")

    def receive(self, what, *, optional=False, auth=False, routes=False, within=PATIENCE, keep=(),
                match=(), lost=NOTHING, then=""):
        """Waits for a response (a number) or a request (its method).

        `routes`: its Record-Route and Contact are where later requests go. `keep` are headers that
        are wanted later, as `[$name]`. `match`: headers and what must be found in them. `then`: the
        label where it goes on.
        """
        kind = "response" if isinstance(what, int) else "request"
        attributes = f' {kind}="{what}"'
        if optional:
            attributes += ' optional="true"'
        else:
            attributes += f' timeout="{within}"'
        attributes += (' auth="true"' if auth else "") + (' rrs="true"' if routes else "")
        attributes += f' lost="{lost}"' if lost else ""
        attributes += f' next="{then}"' if then else ""
        actions = []
        for header in keep:
            # Of several lines SIPp keeps one. A phone behind one proxy sees two Via.
            for occurrence in (1, 2) if header == "Via" else (1,):
                name = header.lower().replace("-", "_") + ("_2" if occurrence == 2 else "")
                actions.append(self.search(header, ".*", name, False, occurrence))
        for header, wanted in match:
            actions.append(self.search(header, wanted, f"match_{len(self.variables)}", True))
        inner = f"<action>{''.join(actions)}</action>" if actions else ""
        self.steps.append(f"  <recv{attributes}>{inner}</recv>\n")

    def search(self, header, wanted, name, check, occurrence=1):
        self.variables.append(name)
        must = ' check_it="true"' if check else ""
        must += f' occurrence="{occurrence}"' if occurrence > 1 else ""
        return (f'<ereg regexp={quoteattr(wanted)} search_in="hdr" header="{header}:"{must} '
                f'assign_to="{name}" />')

    def label(self, name):
        """A place to go on from; SIPp doesn't count it as a step."""
        self.steps[-1] += f'  <label id="{name}" />\n'

    def pause(self, milliseconds):
        self.steps.append(f'  <pause milliseconds="{milliseconds}" />\n')

    def linger(self, milliseconds):
        """Goes on answering retransmissions, after the call is done."""
        self.steps.append(f'  <timewait milliseconds="{milliseconds}" />\n')

    def branch(self, of):
        """The branch of the transaction `of`, as a step that comes now has to name it."""
        return VIA % f"-{len(self.steps) - self.begun[of]}"

    # --- the caller

    def ask(self, method, cseq, *lines, body="", credentials=False, lost=NOTHING,
            uri=None, sender="[field0]"):
        """A request outside of any dialog."""
        uri = uri or self.callee
        self.begun[method, cseq] = len(self.steps)
        self.send(f"{method} {uri} SIP/2.0", VIA % "", "Max-Forwards: 70",
                  f"From: <sip:{sender}@[domain]>;tag=[pid]a[call_number]", f"To: <{uri}>",
                  "Call-ID: [call_id]", f"CSeq: {cseq} {method}", CONTACT % sender,
                  "[field1]" if credentials else "", *lines, body=body, retrans=True, lost=lost)

    def challenged(self, method="INVITE", *lines, body=SDP, once=False, **options):
        """A request that draws 407, and the same with credentials; `once`: no other 407 comes."""
        self.ask(method, 1, *lines, body=body, **options)
        if method == "INVITE":
            self.receive(100, optional=True)
        self.receive(407, auth=True)
        if method == "INVITE":
            self.refused_ack(1, **{key: options[key] for key in ("uri", "sender")
                                   if key in options})
        self.ask(method, 2, *lines, body=body, credentials=True, **options)
        if method == "INVITE":
            self.receive(100, optional=True)
        if method == "INVITE" and not once:
            # The first INVITE was sent twice, if it was long without an answer; and so was this.
            self.receive(407, optional=True)
            self.receive(100, optional=True)

    def refused_ack(self, cseq, uri=None, sender="[field0]"):
        """The ACK for a final response that is no 2xx: of the same transaction (§17.1.1.3)."""
        uri = uri or self.callee
        self.send(f"ACK {uri} SIP/2.0", self.branch(("INVITE", cseq)),
                  "Max-Forwards: 70", f"From: <sip:{sender}@[domain]>;tag=[pid]a[call_number]",
                  "[last_To:]", "Call-ID: [call_id]", f"CSeq: {cseq} ACK")

    def cancel(self, cseq):
        """The CANCEL of an INVITE (§9.1)."""
        self.send("CANCEL sip:[field2]@[domain] SIP/2.0", self.branch(("INVITE", cseq)),
                  "Max-Forwards: 70", "From: <sip:[field0]@[domain]>;tag=[pid]a[call_number]",
                  "To: <sip:[field2]@[domain]>", "Call-ID: [call_id]", f"CSeq: {cseq} CANCEL",
                  retrans=True)

    def within(self, method, cseq, *lines, body="", lost=NOTHING):
        """The caller's request within the dialog."""
        self.begun[method, cseq] = len(self.steps)
        self.send(f"{method} [next_url] SIP/2.0", VIA % "", "[routes]", "Max-Forwards: 70",
                  "From: <sip:[field0]@[domain]>;tag=[pid]a[call_number]",
                  f"To: <{self.callee}>[peer_tag_param]", "Call-ID: [call_id]",
                  f"CSeq: {cseq} {method}", CONTACT % "[field0]", *lines, body=body,
                  retrans=method != "ACK", lost=lost)

    # --- the callee

    def invited(self, **options):
        """An INVITE that opens a call, of which is kept what later messages need."""
        self.receive("INVITE", routes=True, keep=("Via", "Record-Route", "From", "To", "CSeq"),
                     **options)

    def answer_invite(self, code, reason, *lines, body="", retrans=False, lost=NOTHING):
        """A response to the INVITE that opened the call, when other messages have come since."""
        self.send(f"SIP/2.0 {code} {reason}", "Via: [$via]", "Via: [$via_2]",
                  "Record-Route: [$record_route]",
                  "From: [$from]", "To: [$to];tag=[pid]b[call_number]", "Call-ID: [call_id]",
                  "CSeq: [$cseq]", CONTACT % "phone", *lines, body=body, retrans=retrans,
                  lost=lost)

    def answer(self, code, reason, *lines, body="", tag=False, retrans=False, lost=NOTHING):
        """A response to the request that came last, also after another response to it; `tag`: its
        To has none yet."""
        to = "[last_To:]" + (";tag=[pid]b[call_number]" if tag else "")
        self.send(f"SIP/2.0 {code} {reason}", "[last_Via:]", "[last_Record-Route:]",
                  "[last_From:]", to, "[last_Call-ID:]", "[last_CSeq:]", CONTACT % "phone",
                  *lines, body=body, retrans=retrans, lost=lost)

    def call_back(self, method, cseq, *lines, body="", lost=NOTHING):
        """The callee's request within the dialog."""
        self.begun[method, cseq] = len(self.steps)
        self.send(f"{method} [next_url] SIP/2.0", VIA % "", "[routes]", "Max-Forwards: 70",
                  "From: [$to];tag=[pid]b[call_number]", "To: [$from]", "Call-ID: [call_id]",
                  f"CSeq: {cseq} {method}", CONTACT % "phone", *lines, body=body,
                  retrans=method != "ACK", lost=lost)
