//! What a guest may read and not write.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use trapline_demos::guest::exceptions::{Frame, Kind};

use crate::support::{check, on_exception};

const DATA_ABORT: u64 = 0x25;

static ABORTS: AtomicU64 = AtomicU64::new(0);

/// `write` goes to `what`, and aborts.
pub fn expect_read_only(what: &str, write: impl FnOnce()) {
    let before = ABORTS.load(SeqCst);
    on_exception(count_abort);
    write();
    check!(
        ABORTS.load(SeqCst) == before + 1,
        "the {what} can be written"
    );
}

fn count_abort(kind: Kind, frame: &mut Frame) {
    check!(
        kind == Kind::Synchronous && frame.class() == DATA_ABORT,
        "{kind:?} exception, esr {:#x} at {:#x}",
        frame.esr,
        frame.elr
    );
    ABORTS.fetch_add(1, SeqCst);
    frame.skip();
}
