//! How a device raises an interrupt: it holds the line as an object.

use alloc::sync::Arc;
use core::fmt;

use super::{PRIVATE_COUNT, Vgic, record::Record};
use crate::sync::atomic::Ordering;

/// Why a line is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LineError {
    /// The VM has no shared interrupt with this INTID.
    NoSuchInterrupt(u32),
    /// Another device holds the line.
    Claimed(u32),
}

impl fmt::Display for LineError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchInterrupt(intid) => {
                write!(formatter, "the VM has no shared interrupt {intid}")
            }
            Self::Claimed(intid) => write!(
                formatter,
                "interrupt {intid} already belongs to another device"
            ),
        }
    }
}

/// The input line of one shared interrupt. Its clones are the same line; the last one to go lowers and releases it.
///
/// Any pCPU may use it at any time; nothing in it waits or allocates.
#[derive(Clone)]
pub struct InterruptLine(Arc<Claim>);

struct Claim {
    vgic: Arc<Vgic>,
    intid: u32,
}

impl InterruptLine {
    /// Claims the line of `intid`, which is 32 or more: SPI n is INTID 32 + n.
    pub fn claim(vgic: &Arc<Vgic>, intid: u32) -> Result<Self, LineError> {
        let spi = intid
            .checked_sub(PRIVATE_COUNT)
            .filter(|&spi| (spi as usize) < vgic.shared.len());
        let claims = spi.and_then(|spi| Some((spi, vgic.claims.get(spi as usize / 64)?)));
        let (spi, claims) = claims.ok_or(LineError::NoSuchInterrupt(intid))?;
        let bit = 1 << (spi % 64);
        if claims.fetch_or(bit, Ordering::AcqRel) & bit != 0 {
            return Err(LineError::Claimed(intid));
        }
        Ok(Self(Arc::new(Claim {
            vgic: Arc::clone(vgic),
            intid,
        })))
    }

    /// The interrupt's INTID.
    pub fn intid(&self) -> u32 {
        self.0.intid
    }

    /// Drives the line to `level`. If the guest has configured the interrupt as edge-triggered, a rise is one interrupt.
    pub fn set_level(&self, level: bool) {
        self.0
            .vgic
            .change(None, self.0.intid, |record| record.set_line(level));
    }

    /// Raises the line and lowers it: one interrupt if the guest has configured it as edge-triggered. A level-sensitive one
    /// is gone before it is sampled, as on hardware.
    pub fn pulse(&self) {
        self.0.vgic.change(None, self.0.intid, Record::pulse);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.vgic
            .change(None, self.intid, |record| record.set_line(false));
        let spi = self.intid - PRIVATE_COUNT;
        if let Some(claims) = self.vgic.claims.get(spi as usize / 64) {
            claims.fetch_and(!(1 << (spi % 64)), Ordering::AcqRel);
        }
    }
}
