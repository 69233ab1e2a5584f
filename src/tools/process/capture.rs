//! What one output of a process prints: kept whole for the caller, and told line by line while it comes.

use std::collections::VecDeque;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::Stream;
use crate::tools::command::Tap;

/// Bytes that are kept of each output of a command. Of more, the end is kept, after a line that says so; a parser
/// stumbles over that line, as it should.
pub const CAPTURE_LIMIT: usize = 32 << 20;

/// Characters of a line that are told while it comes. It is kept whole all the same.
const LINE_LIMIT: usize = 8 << 10;

type OnLine<'a> = &'a (dyn Fn(Stream, &str) + Send + Sync);

/// One output of a process.
pub(super) struct Capture<'a> {
    stream: Stream,
    on_line: Option<OnLine<'a>>,
    /// Takes what comes, in place of everything below.
    tap: Option<&'a Tap>,
    kept: VecDeque<u8>,
    dropped: usize,
    limit: usize,
    /// The line that has no end yet, up to [`LINE_LIMIT`].
    line: Vec<u8>,
    line_is_cut: bool,
}

impl<'a> Capture<'a> {
    /// Of `stream`, told to `on_line` if there is one.
    pub(super) fn new(stream: Stream, on_line: Option<OnLine<'a>>) -> Self {
        Capture {
            stream,
            on_line,
            tap: None,
            kept: VecDeque::new(),
            dropped: 0,
            limit: CAPTURE_LIMIT,
            line: Vec::new(),
            line_is_cut: false,
        }
    }

    /// Hands on what comes instead of keeping it.
    pub(super) fn tapped(mut self, tap: Option<&'a Tap>) -> Self {
        self.tap = tap;
        self
    }

    /// Reads to the end. May be dropped at any point without losing what was read.
    pub(super) async fn read_from(&mut self, mut pipe: pipe::Receiver) {
        let mut buffer = vec![0; 64 << 10];
        // A pipe that breaks has ended: what the process thinks of it, its exit code tells.
        while let Ok(n @ 1..) = pipe.read(&mut buffer).await {
            self.take(&buffer[..n]);
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        if let Some(tap) = self.tap {
            tap(bytes);
            return;
        }
        self.kept.extend(bytes);
        let excess = self.kept.len().saturating_sub(self.limit);
        self.kept.drain(..excess);
        self.dropped += excess;
        if self.on_line.is_none() {
            return;
        }
        let mut parts = bytes.split(|byte| *byte == b'\n');
        if let Some(first) = parts.next() {
            self.extend_line(first);
        }
        for part in parts {
            self.tell();
            self.extend_line(part);
        }
    }

    fn extend_line(&mut self, part: &[u8]) {
        let room = LINE_LIMIT - self.line.len();
        self.line.extend_from_slice(&part[..part.len().min(room)]);
        self.line_is_cut |= part.len() > room;
    }

    fn tell(&mut self) {
        let mut line = readable(&self.line);
        if self.line_is_cut {
            line.push('…');
        }
        if let Some(on_line) = self.on_line {
            on_line(self.stream, &line);
        }
        self.line.clear();
        self.line_is_cut = false;
    }

    /// All of it. A last line without an end is told now.
    pub(super) fn finish(mut self) -> String {
        if !self.line.is_empty() {
            self.tell();
        }
        let (length, dropped) = (self.kept.len(), self.dropped);
        let kept = String::from_utf8_lossy(self.kept.make_contiguous());
        if dropped == 0 {
            kept.into_owned()
        } else {
            format!("[coastal kept the last {length} bytes; {dropped} before them are lost]\n{kept}")
        }
    }
}

/// A line as a person may be shown it: of a progress line that rewrites itself the last state, no escape sequences,
/// no control characters.
fn readable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches('\r');
    let text = text.rsplit('\r').next().unwrap_or(text);
    console::strip_ansi_codes(text).chars().filter(|c| !c.is_control() || *c == '\t').collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Mutex;

    /// What is told and what is kept of output that comes in these pieces.
    fn run(limit: usize, pieces: &[&[u8]]) -> (Vec<String>, String) {
        let told = Mutex::new(Vec::new());
        let on_line = |_: Stream, line: &str| told.lock().unwrap().push(line.to_owned());
        let mut capture = Capture::new(Stream::Stdout, Some(&on_line));
        capture.limit = limit;
        for piece in pieces {
            capture.take(piece);
        }
        let kept = capture.finish();
        (told.into_inner().unwrap(), kept)
    }

    #[test]
    fn lines_are_told_once_each() {
        for (pieces, told) in [
            (&[&b"a\nb\n"[..]][..], &["a", "b"][..]),
            (&[b"a\nb"], &["a", "b"]),
            (&[b"a", b"b\n", b"\n", b"c"], &["ab", "", "c"]),
            (&[b""], &[]),
            (&[b"10%\r20%\r\n"], &["20%"]),
            (&["\u{1b}[32m✓\u{1b}[0m node\u{7}\n".as_bytes()], &["✓ node"]),
            (&[b"caf\xc3", b"\xa9\n"], &["café"]),
            (&[b"\xff\xfe\n"], &["\u{fffd}\u{fffd}"]),
        ] {
            assert_eq!(run(CAPTURE_LIMIT, pieces).0, told, "{pieces:?}");
        }
    }

    #[test]
    fn a_long_line_is_told_cut_and_kept_whole() {
        let long = vec![b'x'; 3 * LINE_LIMIT];
        let (told, kept) = run(CAPTURE_LIMIT, &[&long, b"y\nz\n"]);
        assert_eq!(told.len(), 2);
        assert_eq!(told[0].chars().count(), LINE_LIMIT + 1);
        assert!(told[0].ends_with("x…"));
        assert_eq!(told[1], "z");
        assert_eq!(kept.len(), 3 * LINE_LIMIT + 4);
    }

    #[test]
    fn what_is_tapped_is_handed_on_and_not_kept() {
        let taken = std::sync::Arc::new(Mutex::new(Vec::new()));
        let into = std::sync::Arc::clone(&taken);
        let tap: Tap = std::sync::Arc::new(move |bytes: &[u8]| into.lock().unwrap().extend_from_slice(bytes));
        let mut capture = Capture::new(Stream::Stdout, None).tapped(Some(&tap));
        capture.take(b"ab");
        capture.take(b"c\n");
        assert_eq!(capture.finish(), "");
        assert_eq!(*taken.lock().unwrap(), b"abc\n");
    }

    #[test]
    fn of_too_much_the_end_is_kept_and_that_is_said() {
        let (_, kept) = run(4, &[b"abc", b"defgh"]);
        assert_eq!(kept, "[coastal kept the last 4 bytes; 4 before them are lost]\nefgh");
        let (_, kept) = run(4, &[b"abcd"]);
        assert_eq!(kept, "abcd");
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(text in "[a-zé\n]{0,200}", cuts in prop::collection::vec(0_usize..200, 0..5)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            let (told, kept) = run(CAPTURE_LIMIT, &pieces);
            prop_assert_eq!(&kept, &text);
            prop_assert_eq!(told, text.lines().map(str::to_owned).collect::<Vec<_>>());
        }
    }
}
