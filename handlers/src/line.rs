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
