//! A source port: its socket, the requests that are about to leave it, and who waits there.

use std::io;
use std::net::SocketAddr;

use super::request::{Common, Form, MAX_REQUEST, Template, Values, hexadecimal};
use super::respond::Responses;
use crate::net::{PeerSend, PeerSent, UdpPeer};

/// The first source port that is tried where none is asked for. The same from run to run, so that
/// a phone registers the same Contact again instead of one more; below Linux's ephemeral ports.
const FIRST_PORT: u16 = 26_000;

/// A source port.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) peer: UdpPeer,
    /// Its host and port after an at sign, as they stand in Contacts.
    pub(super) at_host: Vec<u8>,
    /// Phones that wait for an answer.
    pub(super) waiting: u32,
    out: PeerSend,
    responses: Option<Responses>,
    templates: [Option<Template>; 2 * Form::COUNT],
}

impl Line {
    /// Opens a line; `port` 0 takes a free one.
    pub(super) fn open(port: u16, target: SocketAddr, batch: u16) -> io::Result<Self> {
        let peer = UdpPeer::connect(port, target)?;
        let at_host = format!("@{}", peer.local_addr()).into_bytes();
        Ok(Self {
            peer,
            at_host,
            waiting: 0,
            out: PeerSend::new(usize::from(batch), MAX_REQUEST),
            responses: None,
            templates: Default::default(),
        })
    }

    /// Opens `count` lines on ports in a row: those from `port` on, or the first that are free.
    pub(super) fn open_all(
        count: u16,
        port: Option<u16>,
        target: SocketAddr,
        batch: u16,
    ) -> io::Result<Vec<Self>> {
        let mut lines = Vec::with_capacity(usize::from(count));
        let mut next = port.unwrap_or(FIRST_PORT);
        for _ in 0..count {
            let line = loop {
                match Self::open(next, target, batch) {
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse && port.is_none() => {
                        next = next.checked_add(1).ok_or(error)?;
                    }
                    Err(error) => {
                        let said = format!("can't send from port {next}: {error}");
                        return Err(io::Error::new(error.kind(), said));
                    }
                    Ok(line) => break line,
                }
            };
            lines.push(line);
            if next != 0 {
                next = next.saturating_add(1);
            }
        }
        Ok(lines)
    }

    /// Has requests answer challenges from now on.
    pub(super) fn authorize(&mut self, common: &Common) {
        let credentials = common.credentials.as_ref();
        self.responses = credentials.map(|with| Responses::new(with, &common.domain));
        self.templates = Default::default();
    }

    /// Adds a request to the batch; false if it would be longer than [`MAX_REQUEST`].
    ///
    /// Without H(A1) the response is all zeros, which only an echo takes.
    pub(super) fn push(
        &mut self,
        common: &Common,
        form: Form,
        values: &Values<'_>,
        ha1: Option<&[u8]>,
    ) -> bool {
        let local = self.peer.local_addr();
        let template = template(&mut self.templates, common, form, local, values);
        let number = self.out.len();
        let (Some(template), Some(slot)) = (template, self.out.slot()) else { return false };
        let len = template.write(slot, values);
        let authorized = !values.nonce.is_empty();
        if let (Some(responses), Some(ha1), true) = (&mut self.responses, ha1, authorized) {
            let place = (number, template.response_at());
            responses.push(ha1, values.nonce, &hexadecimal(values.nc), place);
        }
        self.out.commit(len);
        true
    }

    /// Writes the request once more that [`Line::push`] added for the same values, without a
    /// response; its length, or `None` if there was none.
    pub(super) fn rewrite(
        &mut self,
        common: &Common,
        form: Form,
        values: &Values<'_>,
        slot: &mut [u8],
    ) -> Option<usize> {
        let local = self.peer.local_addr();
        let template = template(&mut self.templates, common, form, local, values)?;
        Some(template.write(slot, values))
    }

    /// Where the user and the CSeq stand in the branch of every request.
    pub(super) fn branch_at(&self) -> Option<usize> {
        self.templates.iter().flatten().next().map(Template::branch_at)
    }

    /// Whether the batch must be flushed before the next request.
    pub(super) fn is_full(&self) -> bool {
        self.out.is_full()
    }

    /// Sends what waits.
    pub(super) fn flush(&mut self) -> io::Result<PeerSent> {
        if self.out.is_empty() {
            return Ok(PeerSent::default());
        }
        if let Some(responses) = &mut self.responses {
            responses.write(self.out.requests());
        }
        self.out.flush(&self.peer)
    }
}

/// The template for `values`, made anew where the last one was for others.
fn template<'a>(
    templates: &'a mut [Option<Template>; 2 * Form::COUNT],
    common: &Common,
    form: Form,
    local: SocketAddr,
    values: &Values<'_>,
) -> Option<&'a Template> {
    let authorized = !values.nonce.is_empty();
    let template = templates.get_mut(2 * form as usize + usize::from(authorized))?;
    if !template.as_ref().is_some_and(|template| template.fits(values)) {
        *template = Template::new(common, form, local, values);
    }
    template.as_ref()
}
