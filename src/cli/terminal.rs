//! Passwords from the terminal, without an echo, or from a pipe.

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::Context;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// The longest password taken, in octets: longer input is no password but a wrong file.
const MAX_PASSWORD: u64 = 1024;

/// Reads a password: typed twice at a terminal, else the first line of standard input.
///
/// # Errors
/// Standard input ends or fails, or what was typed differs.
pub fn read_password(user: &str) -> anyhow::Result<String> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return read_line(&mut stdin.lock()).context(
            "there is no terminal to type a password at; --random makes one, --password-stdin \
             reads one",
        );
    }
    let once = prompt(&format!("Password of {user}: "))?;
    let again = prompt("Again: ")?;
    anyhow::ensure!(once == again, "the two passwords differ");
    Ok(once)
}

/// Reads one line without its end.
///
/// # Errors
/// The input ends before, or the line is too long or not UTF-8.
pub fn read_line(input: &mut dyn BufRead) -> anyhow::Result<String> {
    let mut line = String::new();
    let read = io::Read::take(input, MAX_PASSWORD).read_line(&mut line)?;
    anyhow::ensure!(read > 0, "no password was given");
    let complete = line.ends_with('\n') || u64::try_from(read)? < MAX_PASSWORD;
    anyhow::ensure!(complete, "a password has at most {} octets", MAX_PASSWORD - 1);
    let line = line.strip_suffix('\n').unwrap_or(&line);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

fn prompt(text: &str) -> anyhow::Result<String> {
    let mut err = io::stderr().lock();
    write!(err, "{text}")?;
    err.flush()?;
    let silence = Silence::begin()?;
    let line = read_line(&mut io::stdin().lock());
    drop(silence);
    // The line end that was typed was not shown.
    writeln!(err)?;
    line
}

/// The terminal shows nothing while this lives.
struct Silence {
    before: Termios,
}

impl Silence {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self { before })
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // A terminal that is gone needs no echo.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_the_password() {
        let read = |text: &[u8]| read_line(&mut &text[..]).map_err(|error| error.to_string());
        assert_eq!(read(b"secret\nmore"), Ok("secret".into()));
        assert_eq!(read(b"secret\r\n"), Ok("secret".into()));
        assert_eq!(read(b" s "), Ok(" s ".into()));
        assert_eq!(read(b"\n"), Ok(String::new()));
        assert_eq!(read(b""), Err("no password was given".into()));
        let long = [b'a'; 2000];
        assert_eq!(read(&long), Err("a password has at most 1023 octets".into()));
    }
}
