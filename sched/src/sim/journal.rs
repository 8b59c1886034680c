//! What somebody outside has done last, for whoever wants to know what led to something.

use super::action::Action;
use alloc::{
    collections::VecDeque,
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::cell::{Cell, RefCell};

/// So many are kept.
const KEPT: usize = 12;

/// The last actions.
#[derive(Default)]
pub(super) struct Journal {
    last: RefCell<VecDeque<(u64, String)>>,
    refused: Cell<u64>,
}

impl Journal {
    /// `action` was done at `time`, or refused.
    pub(super) fn note(&self, time: u64, action: &Action, refusal: Option<&String>) {
        let mut last = self.last.borrow_mut();
        if last.len() == KEPT {
            last.pop_front();
        }
        let line = match refusal {
            Some(refusal) => {
                self.refused.set(self.refused.get() + 1);
                format!("{action}: refused, {refusal}")
            }
            None => action.to_string(),
        };
        last.push_back((time, line));
    }

    /// How many were refused.
    pub(super) fn refused(&self) -> u64 {
        self.refused.get()
    }

    /// The last ones, each with its time.
    pub(super) fn lines(&self) -> Vec<(u64, String)> {
        let last = self.last.try_borrow();
        last.map_or_else(|_| Vec::new(), |last| last.iter().cloned().collect())
    }
}
