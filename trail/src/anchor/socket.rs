//! An anchor behind a socket, with a protocol of single lines.
//!
//! The lines are those of [`mod@super::super::format`], so the server can be written in any
//! language within an hour. The server is not trusted. Answers have a limited length and time, and
//! an answer that does not fit its question ends the connection. Nothing secret is sent. An answer
//! counts only if the trail's own key has signed it.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::Deserialize;

use super::super::checkpoint::MAX_CHECKPOINT_LINE_BYTES;
use super::super::segment::parse_checkpoint;
use super::{Anchor, AnchorError, Checkpoint, Listing};
use crate::foreign;

/// The default time limit for one question.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The most bytes of an answer, its newline not counted. A checkpoint line has some hundred bytes,
/// and more with signatures of others.
const MAX_ANSWER: usize = MAX_CHECKPOINT_LINE_BYTES;

/// The most bytes of a list: room for a page of some thousand checkpoints.
const MAX_LIST: usize = 4 << 20;

/// The most characters of an answer that are quoted in an error.
const MAX_TOLD_CHARS: usize = 80;

/// Sends checkpoints to a server through a TCP or Unix socket.
///
/// The connection is made when it is needed, and kept. See [`mod@crate::format`] for the protocol.
/// It is neither encrypted nor authenticated. That does not affect the trail's honesty, since the
/// server's memory counts only if it is signed. Not defended: a machine in the middle can pretend
/// to keep checkpoints. Use TLS or SSH around the connection where that matters.
///
/// ```no_run
/// use vram_trail::SocketAnchor;
/// use vram_trail::{Trail, TrailKey};
///
/// let key = TrailKey::open("/etc/worker/trail-key.pem")?;
/// let trail = Trail::builder("worker-1".parse()?, "/var/lib/worker/trail", key)
///     .anchor(SocketAnchor::tcp("anchors.example:7070"))
///     .open()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SocketAnchor {
    name: String,
    address: Address,
    timeout: Duration,
    connection: Option<Stream>,
    /// The server has answered a request for a list, so it supports lists.
    knows_lists: bool,
}

#[derive(Debug)]
enum Address {
    Tcp(String),
    Unix(PathBuf),
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl SocketAnchor {
    /// Uses a server at `address`, a host name or an IP address with a port:
    /// `anchors.example:7070`.
    pub fn tcp(address: impl Into<String>) -> Self {
        let address = address.into();
        Self::new(format!("tcp:{address}"), Address::Tcp(address))
    }

    /// Uses a server behind a Unix socket.
    pub fn unix(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_path_buf();
        Self::new(format!("unix:{}", path.display()), Address::Unix(path))
    }

    fn new(name: String, address: Address) -> Self {
        Self {
            name,
            address,
            timeout: DEFAULT_TIMEOUT,
            connection: None,
            knows_lists: false,
        }
    }

    /// Sets the time limit for connecting, and for each question with its answer (default 5 s).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends a line and returns the answer, without its newline.
    fn ask(&mut self, line: &str, most: usize) -> Result<Vec<u8>, AnchorError> {
        let deadline = Instant::now().checked_add(self.timeout);
        let left = || match deadline {
            Some(deadline) => deadline.saturating_duration_since(Instant::now()),
            None => self.timeout,
        };
        // The server may have closed a connection that was unused for long.
        if let Some(stream) = &mut self.connection {
            match stream.exchange(line, most, &left) {
                Err(AnchorError::Io { source, .. }) if is_closed(&source) => self.connection = None,
                other => return other.inspect_err(|_| self.connection = None),
            }
        }
        let mut stream = self.address.connect(self.timeout)?;
        let answer = stream.exchange(line, most, &left)?;
        self.connection = Some(stream);
        Ok(answer)
    }

    /// Requests a list. A server from before there were lists answers `no`, ends the connection, or
    /// does not answer. It is treated as such a server if it answers `newest` right after.
    fn list<T>(
        &mut self,
        question: &str,
        newest: &str,
        read: impl FnOnce(&[u8]) -> Option<Vec<T>>,
    ) -> Result<Listing<T>, AnchorError> {
        let error = match self.ask(question, MAX_LIST) {
            Ok(answer) => match (read(&answer), answer.strip_prefix(b"no ")) {
                (Some(list), _) => {
                    self.knows_lists = true;
                    return Ok(Listing::Known(list));
                }
                (None, Some(words)) => AnchorError::Refused { words: told(words) },
                (None, None) => self.nonsense(&answer),
            },
            Err(error) => error,
        };
        if self.knows_lists || self.newest(newest).is_err() {
            return Err(error);
        }
        let anchor = self.name.clone();
        let question = question.split(' ').next().unwrap_or_default().to_owned();
        foreign::log_of_own_anchor(move || {
            tracing::warn!(target: crate::LOG, %anchor, question, %error, "the anchor's server does not know this question");
        });
        Ok(Listing::NotSupported)
    }

    fn nonsense(&mut self, answer: &[u8]) -> AnchorError {
        self.connection = None;
        AnchorError::Answer {
            answer: told(answer),
        }
    }
}

impl Anchor for SocketAnchor {
    fn name(&self) -> &str {
        &self.name
    }

    fn keep(&mut self, checkpoint: &Checkpoint) -> Result<(), AnchorError> {
        let line = checkpoint.to_line().map_err(|error| AnchorError::Io {
            operation: "encode",
            source: error.into(),
        })?;
        let answer = self.ask(&line, MAX_ANSWER)?;
        if answer == format!("ok {}", checkpoint.size()).as_bytes() {
            return Ok(());
        }
        match answer.strip_prefix(b"no ") {
            Some(words) => Err(AnchorError::Refused { words: told(words) }),
            None => Err(self.nonsense(&answer)),
        }
    }

    fn newest(&mut self, origin: &str) -> Result<Option<Checkpoint>, AnchorError> {
        let answer = self.ask(&format!("newest {origin}\n"), MAX_ANSWER)?;
        if answer == b"none" {
            return Ok(None);
        }
        match parse_checkpoint(&answer) {
            Ok(checkpoint) => Ok(Some(checkpoint)),
            Err(_) => Err(self.nonsense(&answer)),
        }
    }

    fn checkpoints(&mut self, origin: &str, from: u64) -> Result<Listing<Checkpoint>, AnchorError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Answer<'a> {
            #[serde(borrow)]
            checkpoints: Vec<std::borrow::Cow<'a, str>>,
        }
        self.list(
            &format!("checkpoints {origin} {from}\n"),
            origin,
            |answer| {
                let answer: Answer<'_> = serde_json::from_slice(answer).ok()?;
                let checkpoints = answer.checkpoints.iter();
                checkpoints.map(|text| text.parse().ok()).collect()
            },
        )
    }

    fn origins(&mut self, worker: &str) -> Result<Listing<String>, AnchorError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Answer {
            origins: Vec<String>,
        }
        // This names no trail of the worker. Whether it is kept does not matter; the test is that
        // the server answers.
        let none = format!("vram-residency/{worker}/-");
        self.list(&format!("origins {worker}\n"), &none, |answer| {
            let answer: Answer = serde_json::from_slice(answer).ok()?;
            Some(answer.origins)
        })
    }
}

impl Address {
    fn connect(&self, timeout: Duration) -> Result<Stream, AnchorError> {
        let stream = match self {
            Self::Tcp(address) => connect_tcp(address, timeout).map(Stream::Tcp),
            Self::Unix(path) => connect_unix(path, timeout).map(Stream::Unix),
        };
        stream.map_err(failed("connect"))
    }
}

/// Connects over TCP. Each address of the name gets its share of the time.
fn connect_tcp(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let addresses: Vec<_> = address.to_socket_addrs()?.collect();
    let share = u32::try_from(addresses.len())
        .ok()
        .and_then(|count| timeout.checked_div(count));
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match TcpStream::connect_timeout(&address, share.unwrap_or(timeout)) {
            Ok(stream) => return stream.set_nodelay(true).map(|()| stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Connects to a Unix socket. A server that accepts nothing blocks the connecting thread; the send
/// timeout limits that, too.
fn connect_unix(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    set_socket_timeout(&socket, Timeout::Send, Some(timeout))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

impl Stream {
    fn exchange(
        &mut self,
        line: &str,
        most: usize,
        left: &impl Fn() -> Duration,
    ) -> Result<Vec<u8>, AnchorError> {
        self.limit(left()).map_err(failed("set the time-outs"))?;
        self.write_all(line.as_bytes()).map_err(failed("send"))?;
        let mut answer = Vec::new();
        let mut piece = [0; 16_384];
        loop {
            // A server that sends single bytes slowly gets no more time than any other.
            self.limit(left()).map_err(failed("receive"))?;
            let count = match self.read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other.map_err(failed("receive"))?,
            };
            if count == 0 {
                return Err(failed("receive")(io::ErrorKind::UnexpectedEof.into()));
            }
            let fresh = piece.get(..count).unwrap_or_default();
            answer.extend_from_slice(fresh);
            match fresh.iter().position(|byte| *byte == b'\n') {
                Some(end) if end.checked_add(1) == Some(count) => {
                    answer.pop();
                    return Ok(answer);
                }
                None if answer.len() <= most => {}
                // The answer has more than one line, or is too long.
                _ => {
                    return Err(AnchorError::Answer {
                        answer: told(&answer),
                    });
                }
            }
        }
    }

    fn limit(&self, left: Duration) -> io::Result<()> {
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match self {
            Self::Tcp(stream) => {
                stream.set_write_timeout(Some(left))?;
                stream.set_read_timeout(Some(left))
            }
            Self::Unix(stream) => {
                stream.set_write_timeout(Some(left))?;
                stream.set_read_timeout(Some(left))
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(out),
            Self::Unix(stream) => stream.read(out),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};

    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    )
}

fn failed(operation: &'static str) -> impl FnOnce(io::Error) -> AnchorError {
    move |source| AnchorError::Io { operation, source }
}

/// Returns the beginning of a server's answer in a form that is safe in a record.
fn told(words: &[u8]) -> String {
    String::from_utf8_lossy(words)
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(MAX_TOLD_CHARS)
        .collect()
}
