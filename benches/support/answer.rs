//! What any answer must be, read by rules of its own and not by the parser under test.

/// A header's name and value.
type Header<'a> = (&'a [u8], &'a [u8]);

/// Asserts that `answer` is a response of a registrar: lines that end in CRLF, no stray CR or LF, a
/// status line, headers, and no body. The result is its status code and its headers.
pub(crate) fn read_answer(answer: &[u8]) -> (u16, Vec<Header<'_>>) {
    let shown = answer.escape_ascii();
    let head = answer.strip_suffix(b"\r\n\r\n").unwrap_or_else(|| panic!("no end: {shown}"));
    let mut lines = Vec::new();
    for line in head.split(|&b| b == b'\n') {
        lines.push(line.strip_suffix(b"\r").unwrap_or(line));
    }
    let ends = head.windows(2).filter(|pair| *pair == b"\r\n").count();
    let bare = head.iter().filter(|b| b"\r\n".contains(b)).count() - 2 * ends;
    assert_eq!(bare, 0, "stray line ends: {shown}");
    assert!(lines.iter().all(|line| !line.is_empty()), "an empty line: {shown}");

    let (start, lines) = lines.split_first().expect("split gives one piece at least");
    let start = start.strip_prefix(b"SIP/2.0 ").unwrap_or_else(|| panic!("no status: {shown}"));
    let (code, phrase) = start.split_at_checked(3).unwrap_or_else(|| panic!("no code: {shown}"));
    let code = std::str::from_utf8(code).ok().and_then(|code| code.parse().ok());
    let code = code.unwrap_or_else(|| panic!("no code: {shown}"));
    assert!((200..700).contains(&code) && phrase.len() > 1 && phrase[0] == b' ', "{shown}");
    let headers: Vec<_> = lines
        .iter()
        .map(|line| {
            let colon = line.windows(2).position(|pair| pair == b": ");
            let (name, value) = line.split_at(colon.unwrap_or_else(|| panic!("no name: {shown}")));
            assert!(name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-'), "{shown}");
            (name, &value[2..])
        })
        .collect();
    let length = headers.iter().find(|(name, _)| *name == b"Content-Length");
    assert_eq!(length.map(|(_, value)| *value), Some(&b"0"[..]), "{shown}");
    (code, headers)
}
