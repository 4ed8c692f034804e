//! What a program writes: read to its end whatever it is, and kept or logged as far as that is
//! useful.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tracing::info;

/// How much of a line is read. An answer with the longest ids and a long message is far shorter.
const MAX_LINE_BYTES: usize = 16 * 1024;

/// How much is shown of a line, or of the last ones.
const MAX_SHOWN_BYTES: usize = 1024;

/// How many of its last lines explain why a program failed.
const LAST_LINES: usize = 5;

/// How many lines of a program are logged in a second.
const LINES_PER_SECOND: u32 = 10;

/// Reads `source` to its end.
pub(super) async fn discard(mut source: impl AsyncRead + Unpin) {
    let mut buffer = [0; 8192];
    while matches!(source.read(&mut buffer).await, Ok(1..)) {}
}

/// What a program wrote, as one line of limited length that commands no terminal.
pub(super) fn shown(bytes: &[u8]) -> String {
    let is_cut = bytes.len() > MAX_SHOWN_BYTES;
    let bytes = &bytes[..bytes.len().min(MAX_SHOWN_BYTES)];
    let text = String::from_utf8_lossy(bytes);
    let plain = |c: char| match c {
        '\n' | '\t' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    let mut text: String = text.trim_end().chars().map(plain).collect();
    if is_cut {
        text.push('…');
    }
    text
}

/// The last part of what a program writes to standard error.
#[derive(Debug, Default)]
pub(super) struct Tail(VecDeque<u8>);

impl Tail {
    /// Reads `source` to its end, and keeps the last part.
    pub(super) async fn collect(&mut self, mut source: impl AsyncRead + Unpin) {
        let mut buffer = [0; 8192];
        while let Ok(length @ 1..) = source.read(&mut buffer).await {
            self.push(&buffer[..length]);
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(MAX_SHOWN_BYTES)..];
        let over = (self.0.len() + bytes.len()).saturating_sub(MAX_SHOWN_BYTES);
        self.0.drain(..over);
        self.0.extend(bytes);
    }

    /// The last lines, one behind the other, after a colon; nothing if there are none.
    pub(super) fn explanation(&self) -> String {
        let bytes: Vec<u8> = self.0.iter().copied().collect();
        let lines = bytes.split(|byte| *byte == b'\n').map(shown);
        let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
        let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
        match last {
            [] => String::new(),
            last => format!(": {}", last.join(" | ")),
        }
    }
}

/// Lines of limited length.
#[derive(Debug)]
pub(super) struct Lines<R> {
    source: BufReader<R>,
    line: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(source: R) -> Self {
        Self {
            source: BufReader::new(source),
            line: Vec::new(),
        }
    }

    /// The next line without its newline, or as much of it as is read of a long one. None at the end.
    pub(super) async fn next(&mut self) -> Option<&[u8]> {
        self.line.clear();
        let mut limited = (&mut self.source).take(MAX_LINE_BYTES as u64);
        match limited.read_until(b'\n', &mut self.line).await {
            Ok(1..) => {}
            _ => return None,
        }
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
        } else if self.line.len() == MAX_LINE_BYTES {
            let _ = self.skip_line().await;
        }
        Some(&self.line)
    }

    async fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let buffer = self.source.fill_buf().await?;
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let (is_over, length) = match end {
                Some(at) => (true, at + 1),
                None => (buffer.is_empty(), buffer.len()),
            };
            self.source.consume(length);
            if is_over {
                return Ok(());
            }
        }
    }
}

/// Logs what a program says, a few lines in a second.
#[derive(Debug)]
pub(super) struct Scribe {
    program: String,
    pid: u32,
    second: Instant,
    logged: u32,
    left_out: u64,
}

impl Scribe {
    pub(super) fn new(program: String, pid: u32) -> Self {
        Self {
            program,
            pid,
            second: Instant::now(),
            logged: 0,
            left_out: 0,
        }
    }

    /// Logs `line`, of which `about` says what it is, unless there were too many.
    pub(super) fn note(&mut self, about: &str, line: &[u8]) {
        if self.second.elapsed() >= Duration::from_secs(1) {
            self.report_left_out();
            (self.second, self.logged) = (Instant::now(), 0);
        }
        if self.logged == LINES_PER_SECOND {
            self.left_out += 1;
            return;
        }
        self.logged += 1;
        let (program, pid, line) = (&self.program, self.pid, shown(line));
        info!(program, pid, line, "{about}");
    }

    fn report_left_out(&mut self) {
        let lines = std::mem::take(&mut self.left_out);
        if lines > 0 {
            let (program, pid) = (&self.program, self.pid);
            info!(program, pid, lines, "the program wrote more than is logged");
        }
    }
}

impl Drop for Scribe {
    fn drop(&mut self) {
        self.report_left_out();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines_of(text: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = Lines::new(text);
        let mut read = Vec::new();
        while let Some(line) = lines.next().await {
            read.push(line.to_vec());
        }
        read
    }

    #[tokio::test]
    async fn a_line_of_any_length_is_one_line() {
        for length in [
            MAX_LINE_BYTES - 1,
            MAX_LINE_BYTES,
            MAX_LINE_BYTES + 1,
            1 << 20,
        ] {
            let long = vec![b'x'; length];
            let text = [b"first\n", long.as_slice(), b"\n\nlast"].concat();
            let read = lines_of(&text).await;
            let kept = &long[..length.min(MAX_LINE_BYTES)];
            assert_eq!(read, [b"first".as_slice(), kept, b"", b"last"], "{length}");
        }
    }

    #[test]
    fn the_last_lines_explain() {
        let mut tail = Tail::default();
        assert_eq!(tail.explanation(), "");
        for n in 0..2000 {
            tail.push(format!("line {n}\r\n").as_bytes());
        }
        let expected = ": line 1995 | line 1996 | line 1997 | line 1998 | line 1999";
        assert_eq!(tail.explanation(), expected);
        tail.push(&[b'y'; 1 << 20]);
        tail.push(b"\x1b[2J\xff\n\n");
        let explanation = tail.explanation();
        assert!(
            explanation.ends_with("yy\u{fffd}[2J\u{fffd}"),
            "{explanation}"
        );
        assert!(explanation.len() <= MAX_SHOWN_BYTES + 10, "{explanation}");
    }
}
