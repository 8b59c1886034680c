//! The Unix socket on which programs and other terminals give commands: one a line, each answered by lines of which the last one
//! is `ok` or starts with `error: `.

use std::{
    fs::{self, Permissions},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use super::{
    Failure,
    failure::{Result, at},
};
use crate::control::Reply;

/// A line that begins with this is answered by one line of JSON.
const JSON: &str = "json ";
/// The longest line that is read.
const LONGEST_LINE: u64 = 4096;
/// More than this at a time are turned away.
const CLIENTS: usize = 8;

/// The socket, which is there until this goes.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: Bound,
}

/// The path of a socket of ours.
#[derive(Debug)]
struct Bound(PathBuf);

impl Drop for Bound {
    fn drop(&mut self) {
        // Somebody may have removed it already.
        let _ = fs::remove_file(&self.0);
    }
}

/// Answers a command.
pub type Answer = dyn Fn(&str) -> Reply + Send + Sync;

impl ControlSocket {
    /// A new socket at `path`.
    ///
    /// # Errors
    /// Something is there already, or nothing can be.
    pub fn bind(path: &Path) -> Result<Self> {
        match UnixListener::bind(path) {
            Ok(listener) => {
                let bound = Bound(path.to_owned());
                // Whoever may connect can stop guests: the user alone.
                let owner = Permissions::from_mode(0o600);
                fs::set_permissions(path, owner).map_err(at(path.display()))?;
                let path = bound;
                Ok(Self { listener, path })
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let what = format!("{} is there already", path.display());
                let remedy = "if no other run has it, remove it; else choose another path";
                Err(Failure::input(what, "--control", remedy))
            }
            Err(error) => {
                let what = format!("{}: {error}", path.display());
                let remedy = "choose a path of at most 107 bytes where a socket can be made";
                Err(Failure::input(what, "--control", remedy))
            }
        }
    }

    /// Answers clients until the process ends. The socket is there as long as what is returned.
    pub fn serve(self, answer: Arc<Answer>) -> Served {
        let Self { listener, path } = self;
        let places = Arc::new(());
        thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(mut client) = client else { continue };
                if Arc::strong_count(&places) > CLIENTS {
                    // It sees that it was turned away, or has gone.
                    let _ = writeln!(client, "error: {CLIENTS} clients are connected already");
                    continue;
                }
                let (answer, place) = (answer.clone(), places.clone());
                thread::spawn(move || {
                    // A client that goes is no fault.
                    let _ = attend(&client, &*answer);
                    drop(place);
                });
            }
        });
        Served { _path: path }
    }
}

/// A socket that is being served. Clients get no answers any more once it has gone, and no new ones come.
#[derive(Debug)]
pub struct Served {
    _path: Bound,
}

/// Answers each line of `client` until it has no more.
fn attend(client: &UnixStream, answer: &Answer) -> io::Result<()> {
    let mut lines = BufReader::new(client);
    let mut out = client;
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = Read::take(&mut lines, LONGEST_LINE);
        if limited.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') && line.len() as u64 == LONGEST_LINE {
            return writeln!(out, "error: a line is longer than {LONGEST_LINE} bytes");
        }
        let text = match str::from_utf8(&line) {
            Ok(text) => text.trim(),
            Err(_) => {
                writeln!(out, "error: a line that is no text")?;
                continue;
            }
        };
        match text.strip_prefix(JSON) {
            Some(command) => {
                let reply = serde_json::to_string(&answer(command)).map_err(io::Error::from)?;
                writeln!(out, "{reply}")?;
            }
            None if text.is_empty() => {
                writeln!(out, "error: an empty line; `help` lists the commands")?
            }
            None => write!(out, "{}", answer(text))?,
        }
    }
}

/// A client of such a socket.
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// Nobody serves it.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).map_err(|error| {
            let remedy = "give the path that a run got with --control, while it lasts";
            Failure::input(format!("{}: {error}", path.display()), "SOCKET", remedy)
        })?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Gives `command`, which is one line, and shows the answer on `out`, as JSON if `is_json`; true if it was obeyed.
    ///
    /// # Errors
    /// The run has gone, or nobody reads `out`.
    pub fn command(&mut self, command: &str, is_json: bool, mut out: impl Write) -> Result<bool> {
        let is_asked = command.starts_with(JSON);
        let prefix = if is_json && !is_asked { JSON } else { "" };
        let is_json = is_json || is_asked;
        let sent = writeln!(self.stream.get_mut(), "{prefix}{command}");
        sent.map_err(|error| lost(&error))?;
        loop {
            let mut line = String::new();
            let count = self.stream.read_line(&mut line);
            if count.map_err(|error| lost(&error))? == 0 {
                return Err(lost(&io::ErrorKind::UnexpectedEof.into()));
            }
            out.write_all(line.as_bytes()).map_err(at("stdout"))?;
            if is_json {
                let reply = serde_json::from_str::<Reply>(&line);
                return Ok(reply.is_ok_and(|reply| reply.error.is_none()));
            }
            match line.trim_end() {
                "ok" => return Ok(true),
                text if text.starts_with("error: ") => return Ok(false),
                _ => {}
            }
        }
    }
}

fn lost(error: &io::Error) -> Failure {
    Failure::input(error, "the control socket", "see whether the run has ended")
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A socket on which `x` is refused and everything else is done, and what was asked.
    fn served(path: &Path) -> (Served, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let socket = ControlSocket::bind(path).expect("nothing is there");
        let seen = asked.clone();
        let answer = move |command: &str| {
            seen.lock()
                .expect("nobody panicked")
                .push(command.to_owned());
            match command {
                "x" => Reply::refused("there is no x"),
                _ => Reply {
                    lines: vec!["a line".into()],
                    ..Reply::default()
                },
            }
        };
        (socket.serve(Arc::new(answer)), asked)
    }

    fn give(client: &mut Client, command: &str, is_json: bool) -> (bool, String) {
        let mut out = Vec::new();
        let is_done = client
            .command(command, is_json, &mut out)
            .expect("it is served");
        (is_done, String::from_utf8(out).expect("text"))
    }

    #[test]
    fn each_client_gets_its_answers() {
        let scratch = tempfile::tempdir().expect("room for a directory");
        let path = scratch.path().join("control");
        let (served, asked) = served(&path);
        let mut clients = [(); 2].map(|()| Client::connect(&path).expect("it is served"));
        for client in &mut clients {
            assert_eq!(
                give(client, " list  vms ", false),
                (true, "a line\nok\n".into())
            );
            assert_eq!(
                give(client, "x", false),
                (false, "error: there is no x\n".into())
            );
            let json = r#"{"columns":[],"rows":[],"lines":[],"error":"there is no x"}"#;
            assert_eq!(give(client, "x", true), (false, format!("{json}\n")));
            assert!(give(client, "y", true).0);
        }
        let once = ["list  vms", "x", "x", "y"];
        assert_eq!(
            *asked.lock().expect("nobody panicked"),
            [once, once].concat()
        );
        drop(served);
        assert!(!path.exists());
        assert!(Client::connect(&path).is_err());
    }

    #[test]
    fn what_is_there_stays() {
        let scratch = tempfile::tempdir().expect("room for a directory");
        let path = scratch.path().join("file");
        fs::write(&path, "mine").expect("room for a file");
        let refused = ControlSocket::bind(&path)
            .expect_err("it is there")
            .to_string();
        assert!(
            refused.contains("is there already: --control: "),
            "{refused}"
        );
        assert_eq!(fs::read_to_string(&path).ok().as_deref(), Some("mine"));
        let nowhere = scratch.path().join("no/such/directory");
        assert!(ControlSocket::bind(&nowhere).is_err());
    }

    #[test]
    fn odd_lines_are_refused() {
        let scratch = tempfile::tempdir().expect("room for a directory");
        let path = scratch.path().join("control");
        let (_served, asked) = served(&path);
        let raw = |bytes: &[u8]| {
            let mut stream = UnixStream::connect(&path).expect("it is served");
            stream.write_all(bytes).expect("it reads");
            stream.shutdown(std::net::Shutdown::Write).expect("ours");
            let mut said = String::new();
            stream.read_to_string(&mut said).expect("text");
            said
        };
        assert_eq!(raw(b"\xff\n"), "error: a line that is no text\n");
        assert_eq!(
            raw(b"\n"),
            "error: an empty line; `help` lists the commands\n"
        );
        assert_eq!(raw(b"without an end"), "a line\nok\n");
        assert_eq!(
            raw(&[b'x'; 5000]),
            "error: a line is longer than 4096 bytes\n"
        );
        assert_eq!(*asked.lock().expect("nobody panicked"), ["without an end"]);
    }

    #[test]
    fn one_client_too_many_is_turned_away() {
        let scratch = tempfile::tempdir().expect("room for a directory");
        let path = scratch.path().join("control");
        let (_served, _) = served(&path);
        let mut clients = [(); CLIENTS].map(|()| Client::connect(&path).expect("it is served"));
        for client in &mut clients {
            assert!(give(client, "y", false).0);
        }
        let mut extra = UnixStream::connect(&path).expect("it is served");
        let mut said = String::new();
        extra.read_to_string(&mut said).expect("text");
        assert_eq!(said, "error: 8 clients are connected already\n");
        assert!(give(&mut clients[0], "y", false).0, "the others stay");
    }
}
