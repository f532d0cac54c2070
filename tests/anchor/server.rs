//! The other side of `SocketAnchor`: a server as FORMAT.md describes it, in a few lines, and one that
//! misbehaves on command.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use vram_residency::audit::{Checkpoint, SocketAnchor};

/// What the server does with a question.
#[derive(Clone, Debug)]
pub enum Manner {
    Honest,
    /// Sends these bytes instead of the answer.
    Answers(Vec<u8>),
    /// Closes the connection.
    Closes,
    /// Never answers.
    Silent,
    /// Answers byte after byte, for ever.
    Drips,
}

#[derive(Clone)]
pub struct Server {
    kept: Arc<Mutex<HashMap<String, String>>>,
    manner: Arc<Mutex<Manner>>,
    address: Address,
}

#[derive(Clone)]
enum Address {
    Tcp(String),
    Unix(PathBuf),
}

impl Server {
    pub fn tcp() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = Self::new(Address::Tcp(address));
        let this = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                this.start(stream.unwrap());
            }
        });
        server
    }

    pub fn unix(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let server = Self::new(Address::Unix(path.into()));
        let this = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                this.start(stream.unwrap());
            }
        });
        server
    }

    fn new(address: Address) -> Self {
        Self {
            kept: Arc::default(),
            manner: Arc::new(Mutex::new(Manner::Honest)),
            address,
        }
    }

    /// A client of this server that loses patience soon enough for a test.
    pub fn anchor(&self) -> SocketAnchor {
        let anchor = match &self.address {
            Address::Tcp(address) => SocketAnchor::tcp(address),
            Address::Unix(path) => SocketAnchor::unix(path),
        };
        anchor.timeout(Duration::from_millis(300))
    }

    pub fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    pub fn newest(&self, origin: &str) -> Option<Checkpoint> {
        let kept = self.kept.lock().unwrap();
        kept.get(origin).map(|line| checkpoint(line))
    }

    fn start<S: Read + Write + Send + 'static>(&self, stream: S) {
        let this = self.clone();
        std::thread::spawn(move || this.serve(BufReader::new(stream)));
    }

    fn serve<S: Read + Write>(&self, mut stream: BufReader<S>) -> Option<()> {
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let manner = self.manner.lock().unwrap().clone();
            let answer = match manner {
                Manner::Honest => self.answer(&line).into_bytes(),
                Manner::Answers(bytes) => bytes,
                Manner::Closes => return None,
                Manner::Silent => continue,
                Manner::Drips => loop {
                    stream.get_mut().write_all(b"o").ok()?;
                    std::thread::sleep(Duration::from_millis(10));
                },
            };
            stream.get_mut().write_all(&answer).ok()?;
        }
    }

    /// This is all that an honest server does.
    fn answer(&self, line: &str) -> String {
        let mut kept = self.kept.lock().unwrap();
        if let Some(origin) = line.strip_prefix("newest ") {
            let origin = origin.trim_end();
            return kept.get(origin).cloned().unwrap_or("none\n".into());
        }
        let (size, origin) = (
            checkpoint(line).size(),
            checkpoint(line).origin().to_owned(),
        );
        if kept
            .get(&origin)
            .is_some_and(|old| checkpoint(old).size() > size)
        {
            return "no a larger one is kept\n".into();
        }
        kept.insert(origin, line.into());
        format!("ok {size}\n")
    }
}

fn checkpoint(line: &str) -> Checkpoint {
    let value: Value = serde_json::from_str(line).unwrap();
    value["checkpoint"].as_str().unwrap().parse().unwrap()
}
