//! stdin to QEMU.

use std::{
    io::{Read, Write, stdin},
    process::ChildStdin,
    sync::mpsc::Sender,
    thread,
};

use super::Event;
use crate::host::keys::Keys;

/// Sends stdin to `line` until either ends. The thread is left behind when the run is over: a read of a terminal cannot be
/// called off, and the process ends soon after.
pub fn spawn(mut line: ChildStdin, is_terminal: bool, is_framed: bool, events: Sender<Event>) {
    thread::spawn(move || {
        let mut keys = Keys::new(is_terminal, is_framed);
        let mut typed = [0; 4096];
        loop {
            let count = match stdin().read(&mut typed) {
                Ok(0) | Err(_) => break,
                Ok(count) => count,
            };
            let mut bytes = Vec::with_capacity(count);
            let wants_to_leave = keys.translate(&typed[..count], &mut bytes);
            if line.write_all(&bytes).and_then(|()| line.flush()).is_err() {
                break;
            }
            if wants_to_leave {
                // Nobody waits any more if the run is over already.
                let _ = events.send(Event::Left);
                break;
            }
        }
        // QEMU reads an end of file over and over if the pipe closes: it stays open as long as the process lives.
        std::mem::forget(line);
    });
}
