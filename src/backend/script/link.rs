//! The octets between us and a module: two pipes, or a socket.

use std::io;

use memchr::memchr2;
use tokio::net::{TcpStream, UnixStream, unix::pipe};

use super::module::{Effect, Module};

/// Octets that are read in one go.
const READ: usize = 64 * 1024;

/// Lines that are taken in one go. After so many, others have their turn.
const TURN: usize = 64;

/// How often a pipe is read whose process has ended: it holds no more, but for what somebody else
/// still writes.
const LAST_READS: usize = 4;

/// Where a module's lines come from, and where ours go.
#[derive(Debug)]
pub(super) enum Link {
    /// Of a process that we have started: its standard output and input.
    Pipes(pipe::Receiver, pipe::Sender),
    /// Of one that has connected.
    Tcp(TcpStream),
    /// The same, on this machine.
    Unix(UnixStream),
}

impl Link {
    async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Pipes(reader, _) => reader.readable().await,
            Self::Tcp(socket) => socket.readable().await,
            Self::Unix(socket) => socket.readable().await,
        }
    }

    fn try_read(&self, space: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Pipes(reader, _) => reader.try_read(space),
            Self::Tcp(socket) => socket.try_read(space),
            Self::Unix(socket) => socket.try_read(space),
        }
    }

    async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Pipes(_, writer) => writer.writable().await,
            Self::Tcp(socket) => socket.writable().await,
            Self::Unix(socket) => socket.writable().await,
        }
    }

    fn try_write(&self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Self::Pipes(_, writer) => writer.try_write(octets),
            Self::Tcp(socket) => socket.try_write(octets),
            Self::Unix(socket) => socket.try_write(octets),
        }
    }
}

/// Carries lines until the module ends or is to end, or `over` is; why. `effect` is told what lines
/// ask for.
pub(super) async fn converse(
    module: &Module,
    link: &Link,
    over: impl Future<Output = Box<str>>,
    mut effect: impl FnMut(Effect),
) -> Box<str> {
    let (mut lines, mut space) = (Lines::default(), vec![0; READ]);
    // What is read, and not taken yet.
    let mut read = 0..0;
    tokio::pin!(over);
    loop {
        if let Some(why) = module.ends() {
            // Its last words have one chance.
            let _ = module.write_out(|out| link.try_write(out));
            return why;
        }
        let may_read = module.may_read();
        tokio::select! {
            why = &mut over => {
                // What it wrote before it ended, however much it has said by then.
                for _ in 0..LAST_READS {
                    while let Some(rest) = space.get(read.clone()).filter(|rest| !rest.is_empty()) {
                        let Ok(taken) = lines.take(rest, usize::MAX, module, &mut effect) else {
                            return why;
                        };
                        read.start += taken;
                    }
                    read = 0..link.try_read(&mut space).unwrap_or_default();
                }
                return why;
            }
            () = std::future::ready(()), if may_read && !read.is_empty() => {}
            readable = link.readable(), if may_read && read.is_empty() => {
                match readable.and_then(|()| link.try_read(&mut space)) {
                    Ok(0) => return "it has closed its end".into(),
                    Ok(octets) => read = 0..octets,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return error.to_string().into(),
                }
            }
            writable = link.writable(), if module.has_out() => {
                match writable.and_then(|()| module.write_out(|out| link.try_write(out))) {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                        return error.to_string().into();
                    }
                    _ => {}
                }
            }
            () = module.stirred() => {}
            () = until(module.held()) => {}
        }
        if !read.is_empty() && module.may_read() {
            let rest = space.get(read.clone()).unwrap_or_default();
            match lines.take(rest, TURN, module, &mut effect) {
                Ok(taken) => read.start += taken,
                Err(why) => module.end(why),
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Waits for a moment; without one, for ever.
async fn until(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// A line that is not complete yet.
#[derive(Debug, Default)]
struct Lines {
    part: Vec<u8>,
    /// It is an answer that is too long: its rest means nothing.
    skips: bool,
}

impl Lines {
    /// Has a module take lines that are complete now, at most so many, and none once it is not
    /// listened to any more. The result is how many octets that were.
    fn take(
        &mut self,
        octets: &[u8],
        most: usize,
        module: &Module,
        effect: &mut impl FnMut(Effect),
    ) -> Result<usize, &'static str> {
        let mut rest = octets;
        for _ in 0..most {
            let Some(end) = memchr2(b'\n', 0, rest) else {
                if self.skips {
                    module.says_unasked();
                } else if self.is_too_long(rest, module)? {
                    self.skips = true;
                } else {
                    self.part.extend_from_slice(rest);
                }
                return Ok(octets.len());
            };
            let (line, after) = rest.split_at(end);
            rest = after.get(1..).unwrap_or_default();
            if std::mem::take(&mut self.skips) || self.is_too_long(line, module)? {
                continue;
            }
            let whole = if self.part.is_empty() {
                line
            } else {
                self.part.extend_from_slice(line);
                &self.part
            };
            let whole = whole.strip_suffix(b"\r").unwrap_or(whole);
            if let Some(asked) = module.take(whole) {
                effect(asked);
            }
            self.part.clear();
            if module.ends().is_some() || module.held().is_some() {
                break;
            }
        }
        Ok(octets.len() - rest.len())
    }

    /// Whether the line is too long with this. If it is an answer, the module is told what of it there
    /// is, and goes on; else it has lost its way, as in Yate.
    fn is_too_long(&mut self, more: &[u8], module: &Module) -> Result<bool, &'static str> {
        // The end counts, as in Yate.
        if self.part.len() + more.len() < module.bufsize() {
            return Ok(false);
        }
        self.part.extend_from_slice(more);
        let is_answer = module.take_too_long(&self.part);
        self.part.clear();
        if is_answer { Ok(true) } else { Err(TOO_LONG) }
    }
}

const TOO_LONG: &str = "a line is longer than bufsize";

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        rc::Rc,
        sync::Arc,
        time::Duration,
    };

    use super::{
        super::module::{Beginning, Tap},
        *,
    };
    use crate::{
        backend::{
            chain::{Failure, Handling},
            message::{Message, MessageName},
        },
        config::extmodule,
        time::SystemClock,
    };

    fn module(tap: Tap) -> Module {
        Module::new(Beginning {
            number: 1,
            name: "script test".into(),
            settings: extmodule::Module::default(),
            restart: None,
            has_to_connect: false,
            status: Arc::default(),
            clock: Arc::new(SystemClock::new()),
            tap: Some(tap),
        })
    }

    /// How many lines are taken of what is written at once, until nothing more is for a while.
    fn taken(written: &str) -> usize {
        const WHILE: Duration = Duration::from_millis(50);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let taken = Rc::new(Cell::new(0));
        let count = Rc::clone(&taken);
        let module = module(Rc::new(move |is_its: bool, _: &[u8]| {
            count.set(count.get() + usize::from(is_its));
        }));
        runtime.block_on(async {
            let (ours, theirs) = UnixStream::pair().unwrap();
            theirs.writable().await.unwrap();
            assert_eq!(theirs.try_write(written.as_bytes()).unwrap(), written.len());
            let quiet = async {
                let mut before = usize::MAX;
                while before != taken.get() {
                    before = taken.get();
                    tokio::time::sleep(WHILE).await;
                }
                before.to_string().into()
            };
            converse(&module, &Link::Unix(ours), quiet, |_| {}).await.parse().unwrap()
        })
    }

    #[test]
    fn a_flood_is_left_where_it_is() {
        // Whoever is not at its end after 50 ms is held up.
        let few = taken(&"%%>output:x\n".repeat(500));
        assert_eq!(few, 500);
        for line in ["%%>output:x\n", "%%>setlocal:timeout:\n", "babble\n"] {
            let many = taken(&line.repeat(5000));
            assert!(many < 2500, "{line}: {many}");
        }
    }

    /// A module of which is seen what it says.
    fn seen() -> (Module, Rc<RefCell<Vec<String>>>) {
        let lines = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&lines);
        let tap = move |is_its: bool, line: &[u8]| {
            if is_its {
                seen.borrow_mut().push(String::from_utf8_lossy(line).into_owned());
            }
        };
        (module(Rc::new(tap)), lines)
    }

    #[test]
    fn last_words_are_heard_however_much_was_said_before() {
        let (module, lines) = seen();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (ours, theirs) = UnixStream::pair().unwrap();
            theirs.writable().await.unwrap();
            let said = "babble\n".repeat(5000) + "%%>output:why";
            assert_eq!(theirs.try_write(said.as_bytes()).unwrap(), said.len());
            // Its process ends while it is not listened to, and its last line comes in two.
            let over = async {
                while module.may_read() {
                    tokio::task::yield_now().await;
                }
                assert_eq!(theirs.try_write(b" I end\n").unwrap(), 7);
                "ended".into()
            };
            converse(&module, &Link::Unix(ours), over, |_| {}).await;
        });
        assert_eq!(lines.borrow().last().unwrap(), "%%>output:why I end");
    }

    #[test]
    fn an_answer_that_is_too_long_is_skipped_and_nothing_else_is() {
        let (module, lines) = seen();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let long = "x".repeat(module.bufsize());
        let mut message = Message::new(MessageName::UserAuth);
        let handling = runtime.block_on(async {
            let asked = module.ask(&mut message);
            let answered = async {
                let text = format!("%%<message:0x0001.1:true::{long}\n%%>output:next\n");
                let mut waiting = Lines::default();
                for part in text.as_bytes().chunks(1000) {
                    assert_eq!(waiting.take(part, 64, &module, &mut |_| {}), Ok(part.len()));
                }
            };
            futures_util::future::join(asked, answered).await.0
        });
        let reason = "script test: its answer is longer than bufsize".to_owned();
        assert_eq!(handling, Handling::Failed(Failure { reason, is_outage: false }));
        assert_eq!(*lines.borrow(), ["%%>output:next"]);
        for line in [format!("%%>output:{long}"), format!("%%<message:0x0001.2:true::{long}")] {
            let taken = Lines::default().take(line.as_bytes(), 64, &module, &mut |_| {});
            assert_eq!(taken, Err(TOO_LONG));
        }
    }

    #[test]
    fn lines_are_whole_however_they_come() {
        let (module, lines) = seen();
        let text = b"%%>output:a\r\n%%>output:b\n\n%%>output:c\0%%>output:d";
        for most in [1, 2, usize::MAX] {
            for split in 0..text.len() {
                lines.borrow_mut().clear();
                let mut waiting = Lines::default();
                for mut part in [&text[..split], &text[split..], b"\n"] {
                    while !part.is_empty() {
                        let taken = waiting.take(part, most, &module, &mut |_| {}).unwrap();
                        part = &part[taken..];
                    }
                }
                let whole = ["%%>output:a", "%%>output:b", "%%>output:c", "%%>output:d"];
                assert_eq!(*lines.borrow(), whole, "{split}");
            }
        }
    }
}
