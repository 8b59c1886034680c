//! How text gets to the runner: log lines, reports and panic messages, one frame each, on the UART.
//!
//! Log lines are built in a buffer on the stack, so logging never allocates; a longer line is cut.

use super::{pcpu, uart};
use crate::wire::Channel;
use core::fmt::{self, Write};

/// The longest line of a log or a report, in bytes.
const LINE_SIZE: usize = 512;

/// Sends one frame of raw bytes, at most [`crate::wire::MAX_PAYLOAD`].
pub fn send(channel: Channel, payload: &[u8]) {
    uart::send_frame(channel, payload);
}

/// Sends one report record, for example `report(format_args!("exit {status}"))`.
pub fn report(record: fmt::Arguments<'_>) {
    send_line(Channel::Report, record);
}

/// Sends one line to whoever gives commands, cut at the length of a log line; it does not allocate.
pub fn control(text: fmt::Arguments<'_>) {
    send_line(Channel::Control, text);
}

fn send_line(channel: Channel, text: fmt::Arguments<'_>) {
    let mut line = Line::new();
    // A line that does not fit is cut; that is all that can go wrong.
    let _ = line.write_fmt(text);
    uart::send_frame(channel, line.as_bytes());
}

/// Text of bounded length.
pub(super) struct Line {
    bytes: [u8; LINE_SIZE],
    length: usize,
}

impl Line {
    pub(super) const fn new() -> Self {
        Self {
            bytes: [0; LINE_SIZE],
            length: 0,
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    pub(super) fn clear(&mut self) {
        self.length = 0;
    }
}

impl Write for Line {
    /// Takes what fits, in whole characters.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = LINE_SIZE - self.length;
        let taken = text.floor_char_boundary(room);
        self.bytes[self.length..self.length + taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.length += taken;
        if taken == text.len() {
            Ok(())
        } else {
            Err(fmt::Error)
        }
    }
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let (level, text) = (record.level(), record.args());
            send_line(
                Channel::Log,
                format_args!("{level:5} pcpu{} {text}", pcpu::this_pcpu()),
            );
        }
    }

    fn flush(&self) {}
}

/// Makes `log` write to the log channel, at level Info. Called once.
pub(super) fn initialize() {
    log::set_logger(&Logger).expect("nobody else has set a logger this early");
    log::set_max_level(log::LevelFilter::Info);
}
