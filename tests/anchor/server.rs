//! The other side of `SocketAnchor`: a server as FORMAT.md describes it, in a few lines, and one that
//! misbehaves on command.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use vram_residency::audit::{Checkpoint, SocketAnchor, VerifierKey};

/// How many checkpoints a page has here: few, so that there are many.
const PAGE: usize = 3;

/// What the server does with a question.
#[derive(Clone, Debug)]
pub enum Manner {
    Honest,
    /// As servers did before there were lists: one checkpoint an origin, and to any other question
    /// this, or the end of the connection.
    Old(Option<&'static str>),
    /// Answers this to a question for a list.
    Lists(String),
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
    /// The lines, by origin and size: nothing is ever taken out of it.
    kept: Arc<Mutex<HashMap<String, BTreeMap<u64, String>>>>,
    keys: Arc<Mutex<Vec<VerifierKey>>>,
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
            keys: Arc::default(),
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
        self.all(origin).pop()
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
                Manner::Old(answer) if line.starts_with(['c', 'o']) => match answer {
                    Some(answer) => answer.into(),
                    None => return None,
                },
                Manner::Lists(answer) if line.starts_with(['c', 'o']) => answer.into_bytes(),
                Manner::Lists(_) | Manner::Old(_) => self.answer(&line).into_bytes(),
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
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["newest", origin] => match kept.get(origin).and_then(|kept| kept.last_key_value()) {
                Some((_, line)) => line.clone(),
                None => "none\n".into(),
            },
            ["checkpoints", origin, from] => {
                let from: u64 = from.parse().unwrap();
                let all = kept
                    .get(origin)
                    .into_iter()
                    .flat_map(|kept| kept.range(from..));
                let page = all.take(PAGE).map(|(_, line)| checkpoint(line).to_string());
                json!({"checkpoints": page.collect::<Vec<_>>()}).to_string() + "\n"
            }
            ["origins", worker] => {
                let prefix = format!("vram-residency/{worker}/");
                let origins = kept.keys().filter(|origin| origin.starts_with(&prefix));
                json!({"origins": origins.collect::<Vec<_>>()}).to_string() + "\n"
            }
            _ if line.starts_with('{') => {
                let given = checkpoint(line);
                let (origin, size) = (given.origin(), given.size());
                if !self.has_signed(&given) {
                    return "no key that is known here has signed it\n".into();
                }
                let kept = kept.entry(origin.to_owned()).or_default();
                match kept.last_key_value() {
                    Some((newest, _)) if *newest > size => {
                        return "no a larger one is kept\n".into();
                    }
                    Some((newest, line))
                        if *newest == size && checkpoint(line).root() != given.root() =>
                    {
                        return "no another root of this size is kept\n".into();
                    }
                    _ => {}
                }
                kept.entry(size).or_insert(line.into());
                format!("ok {size}\n")
            }
            _ => "no such question\n".into(),
        }
    }

    /// A server is given the verifier keys of the workers whose checkpoints it keeps. This one is given
    /// a public key, and takes any origin under it.
    fn has_signed(&self, given: &Checkpoint) -> bool {
        let keys = self.keys.lock().unwrap();
        keys.is_empty() || keys.iter().any(|key| given.is_signed_by(key))
    }

    /// From now on, what none of these keys has signed is refused.
    pub fn trust(&self, key: &VerifierKey) {
        self.keys.lock().unwrap().push(key.clone());
    }

    /// All that is kept of an origin.
    pub fn all(&self, origin: &str) -> Vec<Checkpoint> {
        let kept = self.kept.lock().unwrap();
        let all = kept.get(origin).into_iter().flat_map(BTreeMap::values);
        all.map(|line| checkpoint(line)).collect()
    }
}

fn checkpoint(line: &str) -> Checkpoint {
    let value: Value = serde_json::from_str(line).unwrap();
    value["checkpoint"].as_str().unwrap().parse().unwrap()
}
