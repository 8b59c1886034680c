//! TLB maintenance of guests' translations. [DDI0487: TLB maintenance instructions]

use core::arch::asm;
use core::ops::Range;

use super::switch::synchronize_context;
use crate::stage2::TlbMaintenance;
use crate::vmid::VmVmid;

/// Drops this pCPU's stage-1 and combined entries of the VMID in VTTBR_EL2.
pub(crate) fn flush_local_guest() {
    // SAFETY: invalidation only costs refills; the VMID in VTTBR_EL2 is that of the vCPU being bound.
    unsafe {
        asm!(
            "dsb nshst",
            "tlbi vmalle1",
            "dsb nsh",
            "isb",
            options(nostack, preserves_flags)
        )
    }
}

/// Drops this pCPU's guest entries of every VMID.
pub(crate) fn flush_local_all_guests() {
    // SAFETY: invalidation only costs refills.
    unsafe {
        asm!(
            "dsb nshst",
            "tlbi alle1",
            "dsb nsh",
            "isb",
            options(nostack, preserves_flags)
        )
    }
}

/// Past this size, dropping all entries of the VM is cheaper than one instruction a page.
const MOST_BY_PAGE: u64 = 2 << 20;
const PAGE: u64 = 1 << 12;
const VMID_SHIFT: u32 = 48;

/// The TLBs of all pCPUs, as the tables of one VM see them.
#[derive(Debug)]
pub struct GuestTlb<'a> {
    /// The VM's VMID. A VM that never had one is in no TLB.
    pub vmid: &'a VmVmid,
}

impl TlbMaintenance for GuestTlb<'_> {
    fn publish(&self) {
        // SAFETY: a barrier.
        unsafe { asm!("dsb ish", options(nostack, preserves_flags)) }
    }

    fn invalidate(&self, range: Range<u64>) {
        self.publish();
        // Read after the tables are published: a VM that gets its VMID later walks the changed ones.
        let Some(vmid) = self.vmid.current() else {
            return;
        };
        // The instructions act on the VMID in VTTBR_EL2, which may be another's; nothing runs at EL1 meanwhile.
        let bound = read_sysreg!("vttbr_el2");
        let base = bound & ((1 << VMID_SHIFT) - 1);
        write_sysreg!("vttbr_el2", base | u64::from(vmid) << VMID_SHIFT);
        synchronize_context();
        if range.end - range.start > MOST_BY_PAGE {
            // SAFETY: invalidation only costs refills.
            unsafe {
                asm!(
                    "tlbi vmalls12e1is",
                    "dsb ish",
                    options(nostack, preserves_flags)
                )
            }
        } else {
            for page in range.step_by(PAGE as usize) {
                // SAFETY: likewise.
                unsafe {
                    asm!("tlbi ipas2e1is, {}", in(reg) page >> 12, options(nostack, preserves_flags))
                }
            }
            // Combined entries know no intermediate address, so all of the VM's go, once stage 2 has none left.
            // SAFETY: likewise.
            unsafe {
                asm!(
                    "dsb ish",
                    "tlbi vmalle1is",
                    "dsb ish",
                    options(nostack, preserves_flags)
                )
            }
        }
        write_sysreg!("vttbr_el2", bound);
        synchronize_context();
    }
}
