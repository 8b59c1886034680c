//! How a load or store that the syndrome does not describe (ISV=0) is done for the guest: as one MMIO access after the other.
//!
//! Pure: the engine brings the instruction, dispatches each [`Next::Element`], and tells what was read.
//!
//! ```text
//! Access::new -> next -> Element -> dispatch -> answered -> next -> ... -> Done -> finish: registers, base register
//!                  '---> Nowhere: an external abort, and no register has changed
//! ```
//! What was done stays done: an element that must wait keeps its place here, and those before it are not repeated.

use crate::action::{Action, GuestFault};
use crate::decode::{complete_read, swap_bytes};
use crate::exit::{Abort, Direction, MmioAccess};
use crate::frame::TrapFrame;
use crate::instruction::{self, Bank, Base, Extension, Index, LoadStore, Offset};
use crate::syndrome as esr_field;

/// What a guest's registers hold 16 bytes of at most, in pieces of this size: the widest that a device sees.
const WIDEST: u8 = 8;
/// Two registers of 16 bytes.
const MOST_ELEMENTS: usize = 4;
/// No register that an element could name: its value goes elsewhere.
const NO_REGISTER: u8 = 31;
/// Bits 55:0 of an address: above there may be a tag. [DDI0487: Address tagging]
const UNTAGGED: u64 = u64::MAX >> 8;
/// The part of an address that is the same all over a page of 4 KiB.
const PAGE: u64 = UNTAGGED & !0xfff;

/// What becomes of a data abort that no handler has answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// The guest gets an external abort.
    Abort,
    /// The instruction is done: nothing that a device holds is in a cache.
    Finish,
    /// The instruction says what to do.
    Decode,
}

/// Judges an abort by its syndrome.
///
/// Cache maintenance by address has nothing to do for a device; DC ZVA does not count as such, and writes.
/// [DDI0487: ISS encoding for an exception from a Data Abort, CM]
pub(crate) fn judge(abort: &Abort, is_aarch32: bool) -> Verdict {
    let has_place = abort.address.is_some() && abort.virtual_address.is_some();
    if abort.is_table_walk || !has_place {
        Verdict::Abort
    } else if esr_field::IS_CACHE_MAINTENANCE.is_set(abort.esr) {
        Verdict::Finish
    } else if is_aarch32 {
        Verdict::Abort
    } else {
        Verdict::Decode
    }
}

/// A load or store that is being done, perhaps in part.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Access {
    load_store: LoadStore,
    /// The virtual address of the first byte.
    start: u64,
    /// What the base register becomes.
    write_back: Option<u64>,
    /// Data is big-endian.
    is_big_endian: bool,
    /// The abort that told of it: the guest gets it when the access cannot be done.
    abort: Abort,
    /// How many elements were done.
    done: u8,
    /// What they read.
    values: [u64; MOST_ELEMENTS],
    /// What happens to the vCPU once all are done.
    afterwards: Action,
}

/// What is next for an [`Access`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Next {
    /// This access of a device.
    Element(MmioAccess),
    /// Everything was accessed: finish it.
    Done,
    /// The next element has no address that one access could have.
    Nowhere,
}

/// What follows from the answer to an element of an [`Access`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Then {
    /// It is done: go on with the next one.
    GoOn,
    /// It is to be asked for again, and those before it are not: keep the access, and let the vCPU wait as this says.
    Keep(Action),
    /// The guest gets an external abort.
    Abort,
    /// This is the answer to the instruction.
    Answer(Action),
}

impl Access {
    /// The access that the guest's instruction `word` makes, which met with `abort`; `None` if it is none that can be done, and
    /// the abort stands. `stack_pointer` is the one that the guest uses.
    ///
    /// Exclusives and atomics are among those that cannot: a device is memory that does not support them, where an external
    /// abort is one of the answers. [DDI0487: Atomicity in the Arm architecture; Load-Exclusive and Store-Exclusive]
    pub(crate) fn new(
        word: u32,
        frame: &TrapFrame,
        stack_pointer: u64,
        is_big_endian: bool,
        abort: &Abort,
    ) -> Option<Self> {
        let load_store = instruction::decode(word)?;
        let addressing = load_store.addressing;
        let base = match addressing.base {
            Base::ProgramCounter => frame.elr,
            Base::Register(31) => stack_pointer,
            Base::Register(register) => frame.gpr(register),
        };
        let moved = base.wrapping_add(offset(addressing.offset, frame));
        let (start, write_back) = match addressing.index {
            Index::Offset => (moved, None),
            Index::Before => (moved, Some(moved)),
            Index::After => (base, Some(moved)),
        };
        let access = Self {
            load_store,
            start,
            write_back,
            is_big_endian,
            abort: *abort,
            done: 0,
            values: [0; MOST_ELEMENTS],
            afterwards: Action::Finish,
        };
        access.matches_abort().then_some(access)
    }

    /// The instruction can have caused the abort. Another CPU may have changed it since.
    fn matches_abort(&self) -> bool {
        let bytes = u64::from(self.load_store.bytes) * u64::from(self.load_store.count);
        let is_store = esr_field::IS_WRITE.is_set(self.abort.esr);
        // A tag may be missing in one of them. [DDI0487: FAR_EL2]
        let far = self.abort.virtual_address.unwrap_or(0);
        let distance = far.wrapping_sub(self.start) & UNTAGGED;
        is_store == self.load_store.is_store && distance < bytes
    }

    /// The abort that the guest gets if the access cannot be done.
    pub(crate) fn abort(&self) -> &Abort {
        &self.abort
    }

    /// What happens to the vCPU once all is done.
    pub(crate) fn afterwards(&self) -> Action {
        self.afterwards
    }

    /// It writes to memory.
    pub(crate) fn is_store(&self) -> bool {
        self.load_store.is_store
    }

    /// Vector registers move.
    pub(crate) fn uses_vectors(&self) -> bool {
        self.load_store.bank == Bank::Vector
    }

    /// How wide each element is, in bytes, and how many of them make up a register.
    fn shape(&self) -> (u8, u8) {
        let width = self.load_store.bytes.min(WIDEST);
        (width, self.load_store.bytes / width)
    }

    /// The register of element `index`, and which 64 bits of it, from the low end.
    fn place(&self, index: u8) -> (u8, usize) {
        let (_, per_register) = self.shape();
        let part = index % per_register;
        let half = if self.is_big_endian {
            per_register - 1 - part
        } else {
            part
        };
        let register = self.load_store.registers[usize::from(index / per_register) & 1];
        (register, usize::from(half) & 1)
    }

    /// What to access next. `vectors` are v0 to v31; `translate` gives the intermediate physical address of a virtual one.
    pub(crate) fn next(
        &self,
        frame: &TrapFrame,
        vectors: &[[u64; 2]; 32],
        translate: impl Fn(u64) -> Option<u64>,
    ) -> Next {
        let (width, per_register) = self.shape();
        if self.done >= self.load_store.count * per_register {
            return Next::Done;
        }
        let address = self
            .start
            .wrapping_add(u64::from(self.done) * u64::from(width));
        let last = address.wrapping_add(u64::from(width) - 1);
        if address & PAGE != last & PAGE {
            return Next::Nowhere;
        }
        let far = self.abort.virtual_address.unwrap_or(0);
        let known = self.abort.address.filter(|_| address & PAGE == far & PAGE);
        let intermediate = known
            .map(|known| known & !0xfff | address & 0xfff)
            .or_else(|| translate(address));
        let Some(intermediate) = intermediate else {
            return Next::Nowhere;
        };
        let (register, half) = self.place(self.done);
        let direction = if self.load_store.is_store {
            let value = match self.load_store.bank {
                Bank::General { .. } => frame.gpr(register),
                Bank::Vector => vectors[usize::from(register) & 31][half],
            };
            Direction::Write(if self.is_big_endian {
                swap_bytes(value, width)
            } else {
                value & u64::MAX >> (64 - 8 * u32::from(width))
            })
        } else {
            Direction::Read
        };
        let (rt, sign_extend, is_64bit) = match self.load_store.bank {
            Bank::General {
                sign_extend,
                is_64bit,
            } => (register, sign_extend, is_64bit),
            Bank::Vector => (NO_REGISTER, false, true),
        };
        Next::Element(MmioAccess {
            address: intermediate,
            width,
            direction,
            rt,
            sign_extend,
            is_64bit,
        })
    }

    /// The element that [`Access::next`] gave was answered with `action`.
    pub(crate) fn answered(&mut self, action: Action) -> Then {
        let has_begun = self.done != 0;
        match action {
            Action::Finish => self.complete(0),
            Action::FinishRead(value) => self.complete(value),
            Action::Wait | Action::Yield(_) | Action::PowerOff => {
                self.complete(0);
                if weight(action) > weight(self.afterwards) {
                    self.afterwards = action;
                }
            }
            Action::Retry | Action::WaitAndRetry | Action::Suspend if has_begun => {
                return Then::Keep(action);
            }
            Action::Fault(GuestFault::ExternalAbort) | Action::Decline => return Then::Abort,
            // Nothing was done yet, so the instruction runs again as a whole; or nothing of it is left to do.
            Action::Retry
            | Action::WaitAndRetry
            | Action::Suspend
            | Action::Fault(_)
            | Action::Stop
            | Action::Restart(_) => return Then::Answer(action),
        }
        Then::GoOn
    }

    /// The next element was done, and read `value`.
    fn complete(&mut self, value: u64) {
        if let Some(place) = self.values.get_mut(usize::from(self.done)) {
            *place = value;
            self.done += 1;
        }
    }

    /// Puts what was read into the registers, and moves the base register; `Some` is what the stack pointer becomes.
    pub(crate) fn finish(
        &self,
        frame: &mut TrapFrame,
        vectors: &mut [[u64; 2]; 32],
    ) -> Option<u64> {
        let (width, _) = self.shape();
        if !self.load_store.is_store && self.uses_vectors() {
            // What a load does not fill of a vector register becomes zero.
            for register in &self.load_store.registers[..usize::from(self.load_store.count) & 3] {
                vectors[usize::from(*register) & 31] = [0; 2];
            }
        }
        let values = self.values.iter().take(usize::from(self.done));
        for (index, &value) in (0..).zip(values).filter(|_| !self.load_store.is_store) {
            let value = if self.is_big_endian {
                swap_bytes(value, width)
            } else {
                value
            };
            let (register, half) = self.place(index);
            match self.load_store.bank {
                Bank::General {
                    sign_extend,
                    is_64bit,
                } => {
                    let access = MmioAccess {
                        address: 0,
                        width,
                        direction: Direction::Read,
                        rt: register,
                        sign_extend,
                        is_64bit,
                    };
                    complete_read(frame, &access, value);
                }
                Bank::Vector => {
                    vectors[usize::from(register) & 31][half] =
                        value & u64::MAX >> (64 - 8 * u32::from(width));
                }
            }
        }
        let write_back = self.write_back?;
        match self.load_store.addressing.base {
            Base::Register(31) => Some(write_back),
            Base::Register(register) => {
                frame.set_gpr(register, write_back);
                None
            }
            Base::ProgramCounter => None,
        }
    }
}

/// Of what two elements say about the vCPU, the one that keeps it longer comes to pass.
fn weight(afterwards: Action) -> u8 {
    match afterwards {
        Action::PowerOff => 3,
        Action::Wait => 2,
        Action::Yield(_) => 1,
        _ => 0,
    }
}

/// What is added to the base, in bytes.
fn offset(offset: Offset, frame: &TrapFrame) -> u64 {
    match offset {
        Offset::Immediate(bytes) => bytes as u64,
        Offset::Register {
            register,
            extension,
            shift,
        } => {
            let value = frame.gpr(register);
            let extended = match extension {
                Extension::UnsignedWord => value & u64::from(u32::MAX),
                Extension::SignedWord => i64::from(value as i32) as u64,
                Extension::Whole => value,
            };
            extended << shift
        }
    }
}

#[cfg(test)]
mod tests;
