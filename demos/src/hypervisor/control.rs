//! What the user asks of a guest while it runs: one line of text each, answered by lines of the log.
//!
//! ```text
//!  start NAME | stop NAME | reset NAME | pause NAME | resume NAME | button NAME | list
//! ```

use trapline_handlers::Request;
use trapline_platform::relax::Lock;

use super::{Machine, life::Slot};

/// The longest command.
const LONGEST: usize = 256;

/// The command whose bytes are coming in.
struct Command {
    bytes: [u8; LONGEST],
    /// How many have come, more than there is room for included.
    length: usize,
}

static COMMAND: Lock<Command> = Lock::new(Command {
    bytes: [0; LONGEST],
    length: 0,
});

/// Takes the next byte of a command, and obeys it if it is the last one.
pub(super) fn take(machine: &Machine, byte: u8, is_last: bool) {
    let mut command = COMMAND.lock();
    let length = command.length;
    if let Some(place) = command.bytes.get_mut(length) {
        *place = byte;
    }
    command.length += 1;
    if is_last {
        let length = core::mem::take(&mut command.length);
        match command.bytes.get(..length).map(str::from_utf8) {
            Some(Ok(text)) => machine.command(text),
            Some(Err(_)) | None => log::warn!("control: a command that is too long, or no text"),
        }
    }
}

impl Machine {
    /// Does what the command in `text` says; the log has the answer. On any pCPU and in any context.
    pub fn command(&self, text: &str) {
        let mut words = text.split_ascii_whitespace();
        let (verb, name, rest) = (words.next(), words.next(), words.next());
        match (verb.map(|verb| (verb, Request::by_name(verb))), name, rest) {
            (Some(("list", _)), None, None) => self.list(),
            (Some((_, Some(request))), Some(name), None) => {
                if let Some(slot) = self.named(name) {
                    let _ = self.request(slot.index, request);
                }
            }
            (Some(("button", _)), Some(name), None) => {
                if let Some(slot) = self.named(name)
                    && !self.press_power_key(slot.index)
                {
                    log::info!("guest {name}: no button: it is off");
                }
            }
            _ => log::warn!(
                "control: no command: {text:?}; there are start, stop, reset, pause, resume, button with a guest's name, and list"
            ),
        }
    }

    fn named(&self, name: &str) -> Option<&Slot> {
        let slot = self.slots.iter().find(|slot| slot.config.name == name);
        if slot.is_none() {
            log::warn!("control: there is no guest {name}");
        }
        slot
    }

    fn list(&self) {
        for slot in &self.slots {
            log::info!("guest {} {}: {}", slot.index, slot.config.name, slot.word());
        }
    }
}
