//! Events as JSON lines, in a file or on an output of the process.

use std::cell::RefCell;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use anyhow::Context as _;

use super::{Down, Plugin};
use crate::durability::Durability;
use crate::event::Deliver;
use crate::file_id::FileId;

/// A plugin that appends each event to a log: one JSON object per line, in the wire form.
///
/// An event is acknowledged once its line is as durable as the plugin [is told to be](Self::durable):
/// it then survives the process, or a loss of power too. A file is opened at
/// the first delivery, made if it is missing (readable and writable by its owner only; its
/// directory is not made), and opened anew when it was renamed or removed in between. An
/// unfinished last line, which a crash or a full disk leaves behind, is closed before anything is
/// appended. Every failure to open or to write is [`Down`].
#[derive(Debug)]
pub struct LogPlugin {
    target: Target,
    durability: Durability,
    /// None before the first delivery and after a failure.
    output: RefCell<Option<Output>>,
}

impl LogPlugin {
    /// Appends to the file at `path`.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::new(Target::File(path.into()))
    }

    /// Writes to the standard output of the process.
    pub fn stdout() -> Self {
        Self::new(Target::Stdout)
    }

    /// Writes to the standard error of the process, where its own log lines may stand between.
    pub fn stderr() -> Self {
        Self::new(Target::Stderr)
    }

    fn new(target: Target) -> Self {
        Self {
            target,
            durability: Durability::Process,
            output: RefCell::default(),
        }
    }

    /// Acknowledges events only once they survive this; [`Durability::Process`] unless set. A target
    /// that can't be synced, such as a pipe, is left at that.
    #[must_use]
    pub fn durable(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    fn append(&self, delivery: &Deliver) -> anyhow::Result<()> {
        let lines = Lines::of(delivery)?;
        anyhow::ensure!(
            !delivery.deadline.is_over(),
            "the time of the delivery was over before anything was written"
        );
        let mut slot = self.output.borrow_mut();
        let mut output = match slot.take() {
            Some(output) if output.is_current(&self.target) => output,
            _ => Output::open(&self.target).context("can't be opened")?,
        };

        let (written, result) = output.write(&lines.text);
        if self.durability == Durability::Power && written > 0 {
            // Nobody knows what of it is on the disk: nothing is acknowledged, and the file opened anew.
            output.sync().context("can't be synced")?;
        }
        if result.is_err() {
            // What is out is out: without this, an output that takes less than a batch at a time
            // would get the same first lines for ever.
            let complete = lines.ends.iter().take_while(|end| **end <= written);
            for (index, _) in complete.enumerate() {
                delivery.acks.acknowledge(index);
            }
        }
        if result.is_ok() || !matches!(self.target, Target::File(_)) {
            *slot = Some(output);
        }
        result.context("can't be written to")
    }
}

impl Plugin for LogPlugin {
    async fn deliver(&self, delivery: &Deliver) -> anyhow::Result<()> {
        self.append(delivery)
            .map_err(|error| Down::new(error.context(self.target.to_string())).into())
    }
}

#[derive(Debug)]
enum Target {
    File(PathBuf),
    Stdout,
    Stderr,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "log file `{}`", path.display()),
            Self::Stdout => f.write_str("standard output"),
            Self::Stderr => f.write_str("standard error"),
        }
    }
}

/// The lines of one delivery, to be written at once.
struct Lines {
    text: Vec<u8>,
    /// Where in the text each event's line ends.
    ends: Vec<usize>,
}

impl Lines {
    fn of(delivery: &Deliver) -> serde_json::Result<Self> {
        let mut lines = Self {
            text: Vec::new(),
            ends: Vec::with_capacity(delivery.events.len()),
        };
        for event in delivery.wire() {
            serde_json::to_writer(&mut lines.text, &event)?;
            lines.text.push(b'\n');
            lines.ends.push(lines.text.len());
        }
        Ok(lines)
    }
}

#[derive(Debug)]
struct Output {
    /// Unbuffered, so that what counts as written has left the process.
    file: File,
    /// None for outputs of the process, which can't be opened anew.
    id: Option<FileId>,
    /// Whether the last line lacks its newline.
    torn: bool,
}

impl Output {
    fn open(target: &Target) -> io::Result<Self> {
        let inherited = |fd: BorrowedFd<'_>| {
            Ok(Self {
                file: fd.try_clone_to_owned()?.into(),
                id: None,
                torn: false,
            })
        };
        let path = match target {
            Target::File(path) => path,
            Target::Stdout => return inherited(io::stdout().as_fd()),
            Target::Stderr => return inherited(io::stderr().as_fd()),
        };
        // Read access is for the look at the last byte.
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)?;
        let metadata = file.metadata()?;
        let mut last = [b'\n'];
        if metadata.is_file() && metadata.len() > 0 {
            file.read_exact_at(&mut last, metadata.len() - 1)?;
        }
        Ok(Self {
            file,
            id: Some(FileId::of(&metadata)),
            torn: last != [b'\n'],
        })
    }

    fn is_current(&self, target: &Target) -> bool {
        match (target, self.id) {
            (Target::File(path), Some(id)) => id.is_at(path),
            _ => true,
        }
    }

    /// Has what was written survive a loss of power, where the target is a file.
    fn sync(&self) -> io::Result<()> {
        match self.file.sync_data() {
            // Pipes and terminals.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            result => result,
        }
    }

    /// Writes `text`, which ends with a newline, after closing a torn line. Returns how much of
    /// it was written, which is less than all only with an error.
    fn write(&mut self, text: &[u8]) -> (usize, io::Result<()>) {
        if self.torn {
            if let Err(error) = self.file.write_all(b"\n") {
                return (0, Err(error));
            }
            self.torn = false;
        }
        let mut written = 0;
        while written < text.len() {
            match self.file.write(&text[written..]) {
                Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
                Ok(more) => {
                    written += more;
                    self.torn = text[written - 1] != b'\n';
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read as _;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixStream;
    use std::path::Path;
    use std::time::Duration;

    use serde_json::Value;

    use super::*;
    use crate::event::{Deadline, Event, Verdict};
    use crate::plugin::sample;
    use crate::session::{Metadata, NewSession, SessionId};

    fn delivery(events: Vec<Event>) -> Deliver {
        Deliver::new(events, Deadline::after(Duration::from_secs(5)))
    }

    fn starts(count: usize) -> Vec<Event> {
        (0..count)
            .map(|n| sample::start(&format!("sess-{n}")))
            .collect()
    }

    fn assert_down(result: anyhow::Result<()>) -> String {
        let error = result.expect_err("the delivery succeeded");
        assert!(error.is::<Down>(), "not down: {error:#}");
        format!("{error:#}")
    }

    fn lines(path: &Path) -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.ends_with('\n'), "unfinished: {text:?}");
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// A log on a socket that takes some kilobytes and then would block, and its reading end.
    fn log_to_socket() -> (LogPlugin, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let log = LogPlugin::stdout();
        *log.output.borrow_mut() = Some(Output {
            file: File::from(OwnedFd::from(ours)),
            id: None,
            torn: false,
        });
        (log, theirs)
    }

    #[tokio::test]
    async fn each_event_is_one_line_in_the_wire_form() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let log = LogPlugin::file(&path);
        assert!(!path.exists(), "opened before the first delivery");

        let mut new = NewSession::new(SessionId::new("sess-\"A\"").unwrap());
        new.metadata = Metadata::from_iter([("note", "two\nlines".into())]);
        let start = sample::start_of(new);
        let end = sample::end_of(&start);
        let first = delivery(vec![start, end]);
        log.deliver(&first).await.unwrap();
        let second = delivery(starts(1)).with_attempt(3);
        log.deliver(&second).await.unwrap();

        let expected: Vec<_> = first.wire().chain(second.wire()).collect();
        let lines = lines(&path);
        assert_eq!((lines.len(), expected.len()), (3, 3));
        for (line, event) in lines.into_iter().zip(expected) {
            let mut event = serde_json::to_value(event).unwrap();
            // Shrinks by the moment.
            event["remaining_ms"] = line["remaining_ms"].clone();
            assert!(line["remaining_ms"].as_u64().unwrap() > 0);
            assert_eq!(line, event);
        }
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "others may read it: {mode:o}");
    }

    #[tokio::test]
    async fn a_renamed_or_removed_file_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let log = LogPlugin::file(&path);
        log.deliver(&delivery(starts(1))).await.unwrap();

        let rotated = dir.path().join("audit.1");
        fs::rename(&path, &rotated).unwrap();
        log.deliver(&delivery(starts(2))).await.unwrap();
        assert_eq!((lines(&rotated).len(), lines(&path).len()), (1, 2));

        fs::remove_file(&path).unwrap();
        log.deliver(&delivery(starts(3))).await.unwrap();
        assert_eq!(lines(&path).len(), 3);

        // A file that somebody put in its place is appended to.
        fs::rename(&rotated, &path).unwrap();
        log.deliver(&delivery(starts(1))).await.unwrap();
        assert_eq!(lines(&path).len(), 2);
    }

    #[tokio::test]
    async fn an_unfinished_last_line_is_closed_at_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        fs::write(&path, "{}\n{\"torn").unwrap();
        let log = LogPlugin::file(&path);
        log.deliver(&delivery(starts(1))).await.unwrap();

        let text = fs::read_to_string(&path).unwrap();
        let rest = text.strip_prefix("{}\n{\"torn\n").expect(&text);
        assert!(rest.starts_with('{') && rest.ends_with("}\n"), "{rest}");
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_opened_is_named_and_opened_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing/audit.jsonl");
        let log = LogPlugin::file(&path);
        let problem = assert_down(log.deliver(&delivery(starts(1))).await);
        assert!(problem.contains("missing/audit.jsonl"), "{problem}");
        assert!(problem.contains("No such file"), "{problem}");

        fs::create_dir(path.parent().unwrap()).unwrap();
        log.deliver(&delivery(starts(1))).await.unwrap();
        assert_eq!(lines(&path).len(), 1);
    }

    #[tokio::test]
    async fn a_full_disk_is_down() {
        let log = LogPlugin::file("/dev/full");
        let delivery = delivery(starts(1));
        let problem = assert_down(log.deliver(&delivery).await);
        assert!(problem.contains("can't be written to"), "{problem}");
        assert!(delivery.acks.close().is_empty());
    }

    #[tokio::test]
    async fn after_a_short_write_complete_lines_are_acknowledged_and_the_torn_one_is_closed() {
        let (log, mut reader) = log_to_socket();
        let long = delivery(starts(4000));
        assert_down(log.deliver(&long).await);
        let acknowledged = long
            .acks
            .close()
            .iter()
            .filter(|verdict| **verdict == Verdict::Acknowledged)
            .count();
        assert!((1..4000).contains(&acknowledged), "{acknowledged}");

        let mut text = vec![0; 8 << 20];
        let length = reader.read(&mut text).unwrap();
        let mut text = text[..length].to_vec();
        reader.set_nonblocking(true).unwrap();
        let _ = reader.read_to_end(&mut text);
        let complete = text.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(complete, acknowledged);
        assert_ne!(text.last(), Some(&b'\n'), "the last line was not torn");

        log.deliver(&delivery(starts(1))).await.unwrap();
        let mut text = Vec::new();
        let _ = reader.read_to_end(&mut text);
        assert_eq!(text.first(), Some(&b'\n'));
        let line: Value = serde_json::from_slice(&text[1..]).unwrap();
        assert_eq!(line["session"]["id"], "sess-0");
    }

    #[tokio::test]
    async fn nobody_reading_is_down() {
        let (log, reader) = log_to_socket();
        drop(reader);
        let problem = assert_down(log.deliver(&delivery(starts(1))).await);
        assert!(problem.contains("standard output"), "{problem}");
    }

    #[tokio::test]
    async fn a_delivery_that_is_over_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let late = delivery(starts(1));
        late.deadline.cancel();
        assert_down(LogPlugin::file(&path).deliver(&late).await);
        assert!(!path.exists());
    }
}
