//! The way to the hypervisor: what is typed for each guest, and commands.
//!
//! ```text
//!  stdin, ptys --type_to--> a queue for each guest --window--.
//!                                                            +--> next() --> the writer's thread --> QEMU
//!  keys, sockets --command--> commands, which go first ------'
//! ```
//! The line is one stream, and what the hypervisor has no room for would keep all behind it waiting. So it gets only as much for
//! a guest as it has room for ([`TYPED_ROOM`]), and says when some of that has been taken. Whoever gives a command never waits, nor
//! does whoever reads what QEMU says.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use crate::wire::{Channel, ESCAPE, TYPED_ROOM, frame_header};

/// How much waits here for a guest that does not read.
const QUEUED_BYTES: usize = 64 << 10;
/// The most that goes to one guest before others and commands have their turn.
const PIECE: usize = 1024;

/// What is on its way to QEMU's serial line.
pub struct Line {
    state: Mutex<State>,
    /// There is something to write, or no more.
    more: Condvar,
    /// There is room for what is typed, or never again.
    room: Condvar,
    /// A hypervisor listens there, and takes frames.
    is_framed: bool,
}

struct State {
    commands: VecDeque<Vec<u8>>,
    guests: Vec<Typed>,
    /// Whose console the bytes are that go out.
    selected: usize,
    /// Who had a turn last.
    last: usize,
    /// The hypervisor listens. Before, what comes may be lost.
    listens: bool,
    is_closed: bool,
}

/// What was typed for a guest.
#[derive(Default)]
struct Typed {
    waiting: VecDeque<u8>,
    /// How much has gone out and was not taken yet.
    unread: usize,
}

impl Line {
    /// An empty line to so many guests, of which 0 is selected.
    pub fn new(guests: usize, is_framed: bool) -> Self {
        let state = State {
            commands: VecDeque::new(),
            guests: (0..guests).map(|_| Typed::default()).collect(),
            selected: 0,
            last: 0,
            listens: !is_framed,
            is_closed: false,
        };
        Self {
            state: Mutex::new(state),
            more: Condvar::new(),
            room: Condvar::new(),
            is_framed,
        }
    }

    /// A hypervisor listens there.
    pub const fn is_framed(&self) -> bool {
        self.is_framed
    }

    /// Types `bytes` on the console of `guest`. If it has left too much unread, whoever is patient waits, and who is not types less.
    /// Returns how much was typed.
    ///
    /// # Errors
    /// QEMU has gone.
    pub fn type_to(&self, guest: usize, bytes: &[u8], is_patient: bool) -> io::Result<usize> {
        let mut typed = 0;
        let mut state = self.state();
        loop {
            if state.is_closed {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let Some(console) = state.guests.get_mut(guest) else {
                return Ok(typed);
            };
            let room = QUEUED_BYTES - console.waiting.len();
            let count = room.min(bytes.len() - typed);
            console.waiting.extend(&bytes[typed..typed + count]);
            typed += count;
            self.more.notify_one();
            if typed == bytes.len() || !is_patient {
                return Ok(typed);
            }
            state = self
                .room
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives the hypervisor `command`, of [`crate::control::LONGEST`] bytes at most with `number`, which the answer will have.
    ///
    /// # Errors
    /// QEMU has gone.
    pub fn command(&self, number: u32, command: &str) -> io::Result<()> {
        let text = format!("{number} {command}");
        let length = u16::try_from(text.len()).map_err(io::Error::other)?;
        let mut frame = frame_header(Channel::Control, length).to_vec();
        frame.extend(text.bytes());
        let mut state = self.state();
        if state.is_closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        state.commands.push_back(frame);
        self.more.notify_one();
        Ok(())
    }

    /// The hypervisor listens from now on; false if it did.
    pub fn listen(&self) -> bool {
        let mut state = self.state();
        self.more.notify_one();
        !std::mem::replace(&mut state.listens, true)
    }

    /// The hypervisor has room again for `count` bytes that were typed for `guest`.
    pub fn taken(&self, guest: usize, count: usize) {
        if let Some(typed) = self.state().guests.get_mut(guest) {
            typed.unread = typed.unread.saturating_sub(count);
            self.more.notify_one();
        }
    }

    /// Nothing goes out any more.
    pub fn close(&self) {
        self.state().is_closed = true;
        self.more.notify_all();
        self.room.notify_all();
    }

    /// Waits for what goes out next; `None` when the line is closed.
    fn next(&self) -> Option<Vec<u8>> {
        let mut state = self.state();
        loop {
            if state.is_closed {
                return None;
            }
            if let Some(piece) = state.piece(self.is_framed) {
                self.room.notify_all();
                return Some(piece);
            }
            state = self
                .more
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What goes out next, if there is anything that may.
    fn piece(&mut self, is_framed: bool) -> Option<Vec<u8>> {
        if !self.listens {
            return None;
        }
        if let Some(command) = self.commands.pop_front() {
            return Some(command);
        }
        let count = self.guests.len();
        let mut in_turn = (1..=count).map(|offset| (self.last + offset) % count);
        let guest = in_turn.find(|&guest| self.guests[guest].due(is_framed) > 0)?;
        self.last = guest;
        let typed = &mut self.guests[guest];
        let due = typed.due(is_framed);
        typed.unread += due;
        let bytes = typed.waiting.drain(..due);
        if !is_framed {
            return Some(bytes.collect());
        }
        let mut piece = Vec::with_capacity(due + 4);
        if self.selected != guest {
            self.selected = guest;
            let channel = Channel::Console(u8::try_from(guest).unwrap_or(u8::MAX));
            piece.extend(frame_header(channel, 0));
        }
        for byte in bytes {
            piece.push(byte);
            if byte == ESCAPE {
                piece.push(ESCAPE);
            }
        }
        Some(piece)
    }
}

impl Typed {
    /// How much may go out now. Without a hypervisor nobody says what was taken: QEMU itself keeps what has no room.
    fn due(&self, is_framed: bool) -> usize {
        let room = if is_framed {
            TYPED_ROOM.saturating_sub(self.unread)
        } else {
            PIECE
        };
        self.waiting.len().min(room).min(PIECE)
    }
}

/// Writes what comes over `line` to `pipe`, until it is closed or QEMU has gone. The pipe stays open until then.
pub fn spawn_writer(line: Arc<Line>, mut pipe: impl Write + Send + 'static) -> JoinHandle<()> {
    thread::spawn(move || {
        while let Some(piece) = line.next() {
            if pipe.write_all(&piece).and_then(|()| pipe.flush()).is_err() {
                line.close();
            }
        }
    })
}

#[cfg(test)]
impl Line {
    /// All that may go out now.
    pub fn sent(&self) -> Vec<u8> {
        let mut state = self.state();
        let pieces = std::iter::from_fn(|| state.piece(self.is_framed));
        pieces.flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(is_framed: bool) -> Line {
        let line = Line::new(3, is_framed);
        line.listen();
        line
    }

    /// What goes out after `bytes` were typed for `guest`.
    fn typed(line: &Line, guest: usize, bytes: &[u8]) -> Vec<u8> {
        let count = line.type_to(guest, bytes, true).expect("it is open");
        assert_eq!(count, bytes.len());
        line.sent()
    }

    #[test]
    fn typed_bytes_go_to_the_guest_that_is_selected() {
        let line = line(true);
        let texts = [(0, &b"a"[..]), (2, b"b\0"), (2, b"c"), (0, b"d")];
        let sent = texts.map(|(guest, text)| typed(&line, guest, text));
        assert_eq!(sent.concat(), b"a\0\x42\0\0b\0\0c\0\x40\0\0d");
    }

    #[test]
    fn a_line_without_hypervisor_has_no_frames_and_no_window() {
        let line = line(false);
        assert_eq!(typed(&line, 0, b"\0a"), b"\0a");
        let many = vec![7; 10 * TYPED_ROOM];
        assert_eq!(typed(&line, 0, &many), many);
    }

    #[test]
    fn a_command_is_one_frame_and_waits_for_nothing_typed() {
        let line = line(true);
        line.type_to(0, &[7; 2 * TYPED_ROOM], true)
            .expect("it is open");
        line.command(17, "list").expect("it is open");
        let sent = line.sent();
        assert!(sent.starts_with(b"\0\x05\x07\x0017 list"));
        line.command(18, "list").expect("it is open");
        assert_eq!(
            line.sent(),
            b"\0\x05\x07\x0018 list",
            "although a guest does not read"
        );
    }

    #[test]
    fn a_guest_gets_no_more_than_there_is_room_for() {
        let line = line(true);
        assert_eq!(typed(&line, 0, &[7; 2 * TYPED_ROOM]), [7; TYPED_ROOM]);
        assert_eq!(
            typed(&line, 1, b"a"),
            b"\0\x41\0\0a",
            "the others do not wait for it"
        );
        line.taken(0, 3);
        assert_eq!(line.sent(), b"\0\x40\0\0\x07\x07\x07");
        line.taken(0, usize::MAX);
        assert_eq!(line.sent().len(), TYPED_ROOM - 3);
        line.taken(99, 1);
    }

    #[test]
    fn nothing_goes_out_before_the_hypervisor_listens() {
        let line = Line::new(1, true);
        line.command(1, "list").expect("it is open");
        assert_eq!(typed(&line, 0, b"a"), b"");
        assert!(line.listen());
        assert_eq!(line.sent(), b"\0\x05\x06\x001 lista");
        assert!(!line.listen());
    }

    #[test]
    fn what_finds_no_room_is_typed_later_or_never() {
        let line = line(true);
        let many = vec![7; QUEUED_BYTES + 10];
        assert_eq!(line.type_to(0, &many, false).ok(), Some(QUEUED_BYTES));
        thread::scope(|scope| {
            let typist = scope.spawn(|| line.type_to(0, b"abc", true).ok());
            assert_eq!(line.next().map(|piece| piece.len()), Some(PIECE));
            assert_eq!(typist.join().expect("nobody panicked"), Some(3));
            // Full again, for one who waits until the end.
            line.type_to(0, &many, false).expect("it is open");
            let typist = scope.spawn(|| line.type_to(0, b"abc", true).is_err());
            line.close();
            assert!(typist.join().expect("nobody panicked"));
        });
        assert!(line.next().is_none());
        assert!(line.command(1, "list").is_err());
    }
}
