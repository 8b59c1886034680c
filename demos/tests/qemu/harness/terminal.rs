//! A terminal that a user could sit at.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::PathBuf,
    process::Stdio,
    thread::{self, JoinHandle},
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{OptionalActions, tcgetattr, tcsetattr},
};

/// A pseudo-terminal, and a thread that copies what appears on it to a file.
pub struct Terminal {
    ours: File,
    theirs: Option<File>,
    copier: Option<JoinHandle<()>>,
}

impl Terminal {
    pub fn new(mut copy: File) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&ours).expect("ours");
        unlockpt(&ours).expect("ours");
        let name = ptsname(&ours, Vec::new()).expect("it has a name");
        let path = PathBuf::from(name.to_string_lossy().into_owned());
        let mut options = OpenOptions::new();
        let theirs = options
            .read(true)
            .write(true)
            .open(path)
            .expect("it is there");
        // Newlines come as they are written, as on the files of other runs.
        let mut settings = tcgetattr(&theirs).expect("a terminal");
        settings.make_raw();
        tcsetattr(&theirs, OptionalActions::Now, &settings).expect("a terminal");
        let ours = File::from(ours);
        let mut screen = ours.try_clone().expect("a descriptor");
        let copier = thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The last end that closes makes an error, not an end of file.
            while let Ok(count) = screen.read(&mut bytes) {
                copy.write_all(&bytes[..count]).expect("room for a file");
            }
        });
        Self {
            ours,
            theirs: Some(theirs),
            copier: Some(copier),
        }
    }

    /// The end that a program gets.
    pub fn end(&self) -> Stdio {
        let theirs = self.theirs.as_ref().expect("open until the value goes");
        theirs.try_clone().expect("a descriptor").into()
    }

    /// Where the user types.
    pub fn keyboard(&self) -> impl Write + use<> {
        self.ours.try_clone().expect("a descriptor")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.theirs.take());
        if let Some(copier) = self.copier.take() {
            copier.join().expect("it only copies");
        }
    }
}
