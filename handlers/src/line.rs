//! How a device reaches an interrupt controller without knowing it.

/// A level-sensitive interrupt line with one device at its end. Any pCPU may call it, at any time.
pub trait Line: Send + Sync {
    /// The device wants to be served (`true`), or not any more.
    fn set_level(&self, is_high: bool);
}

impl Line for crate::vgic::InterruptLine {
    fn set_level(&self, is_high: bool) {
        Self::set_level(self, is_high);
    }
}

/// Drives `line` to `change`, the level that its device has just decided, if it has changed. `decided` reads what was decided
/// last, under the device's lock, which is free while the line is driven.
pub(crate) fn drive(line: &dyn Line, change: Option<bool>, decided: impl Fn() -> bool) {
    let Some(mut level) = change else {
        return;
    };
    loop {
        line.set_level(level);
        // Meanwhile another pCPU may have decided otherwise and driven the line before this one did: whoever drives it
        // last must drive it right.
        let last = decided();
        if last == level {
            break;
        }
        level = last;
    }
}
