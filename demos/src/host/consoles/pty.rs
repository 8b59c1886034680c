//! A pseudo-terminal that stands for a guest's console: somebody attaches to it with a terminal program, or nobody does.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{OptionalActions, tcgetattr, tcsetattr},
};

/// Our end of a pseudo-terminal.
#[derive(Debug)]
pub struct Pty {
    ours: File,
    /// As long as the other end is open here, ours neither fails nor hangs up when the user's program leaves.
    _theirs: File,
    /// Where the user attaches.
    pub path: PathBuf,
}

impl Pty {
    /// Opens a new one, which passes each byte as it is: an echo would be typed to the guest.
    ///
    /// # Errors
    /// The system has none left, or does not have them.
    pub fn open() -> io::Result<Self> {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let name = ptsname(&ours, Vec::new())?;
        let path = PathBuf::from(name.to_string_lossy().into_owned());
        let mut options = OpenOptions::new();
        let theirs = options.read(true).write(true);
        let theirs = theirs
            .custom_flags(OFlags::NOCTTY.bits() as i32)
            .open(&path)?;
        let mut settings = tcgetattr(&theirs)?;
        settings.make_raw();
        tcsetattr(&theirs, OptionalActions::Now, &settings)?;
        fcntl_setfl(&ours, fcntl_getfl(&ours)? | OFlags::NONBLOCK)?;
        Ok(Self {
            ours: File::from(ours),
            _theirs: theirs,
            path,
        })
    }

    /// Shows `bytes`. What does not fit because nobody reads is lost: the guests go on.
    pub fn write(&mut self, bytes: &[u8]) {
        let _ = self.ours.write_all(bytes);
    }

    /// What is typed there.
    ///
    /// # Errors
    /// The process has no file descriptor left.
    pub fn keyboard(&self) -> io::Result<Keyboard> {
        Ok(Keyboard(self.ours.try_clone()?))
    }
}

/// What is typed on a pseudo-terminal.
#[derive(Debug)]
pub struct Keyboard(File);

impl Keyboard {
    /// Waits until something is typed.
    ///
    /// # Errors
    /// The pseudo-terminal is gone.
    pub fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(&self.0, PollFlags::IN)], None)?;
                }
                result => return result,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_as_they_are_and_nothing_comes_back() {
        let mut pty = Pty::open().expect("a pseudo-terminal");
        let mut user = OpenOptions::new();
        let mut user = user
            .read(true)
            .write(true)
            .open(&pty.path)
            .expect("it is there");
        pty.write(b"login: \n\x03");
        let mut seen = [0; 64];
        let count = user.read(&mut seen).expect("it was written");
        assert_eq!(&seen[..count], b"login: \n\x03");
        user.write_all(b"root\r").expect("it takes what is typed");
        let mut keyboard = pty.keyboard().expect("a descriptor");
        let count = keyboard.read(&mut seen).expect("it was typed");
        assert_eq!(&seen[..count], b"root\r");
    }

    #[test]
    fn a_guest_goes_on_when_nobody_reads() {
        let mut pty = Pty::open().expect("a pseudo-terminal");
        for _ in 0..1000 {
            pty.write(&[b'x'; 1000]);
        }
    }
}
