//! How GICv2 lays out the registers of the virtual CPU interface, against GICv3's layout, which the vGIC works with.
//!
//! The fields are the same, but for their places: a list register has 32 bits, and 5 bits of priority. What GICv3 has at
//! the place of an SGI's source CPU is 0 without a physical interrupt, so that travels there.
//! [IHI0048: GICH register descriptions; IHI0069: ICH registers]
//!
//! ```text
//!   ICH_LR<n>_EL2  63:62 state | 61 HW | 60 group | 55:48 priority | 41:32 physical, or 41 tell, 34:32 source | 31:0 INTID
//!   GICH_LR<n>     29:28 state | 31 HW | 30 group | 27:23 priority | 19:10 physical, or 19 tell, 12:10 source |  9:0 INTID
//! ```

/// GICH_HCR.
pub const CONTROL: u64 = 0x000;
/// GICH_VTR.
pub const TYPE: u64 = 0x004;
/// GICH_VMCR.
pub const MACHINE_CONTROL: u64 = 0x008;
/// GICH_APR.
pub const ACTIVE_PRIORITIES: u64 = 0x0f0;
/// GICH_LR0; the others follow.
pub const LIST_REGISTERS: u64 = 0x100;

/// What ICH_HCR_EL2 and GICH_HCR have in common: the enables of bits 7:0 and EOICount. There is no TDIR.
const COMMON_CONTROL: u64 = 0xf800_00ff;
/// What ICH_VMCR_EL2 and GICH_VMCR have in common, of the priority mask the upper five bits.
const COMMON_MACHINE_CONTROL: u64 = 0xf8fc_021f;

/// A field of the one layout and of the other: its lowest bit in each, and how many bits it has.
type Field = (u32, u32, u32);
const FIELDS: [Field; 6] = [
    (0, 0, 10),
    (32, 10, 10),
    (51, 23, 5),
    (62, 28, 2),
    (60, 30, 1),
    (61, 31, 1),
];

const fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

/// The GICH_LR that does what the ICH_LR_EL2 `value` says.
pub const fn to_list_register(value: u64) -> u32 {
    let (mut result, mut index) = (0, 0);
    while index < FIELDS.len() {
        let (from, to, bits) = FIELDS[index];
        result |= (value >> from & mask(bits)) << to;
        index += 1;
    }
    result as u32
}

/// The ICH_LR_EL2 that says what the GICH_LR `value` does.
pub const fn from_list_register(value: u32) -> u64 {
    let (mut result, mut index) = (0, 0);
    while index < FIELDS.len() {
        let (to, from, bits) = FIELDS[index];
        result |= (value as u64 >> from & mask(bits)) << to;
        index += 1;
    }
    result
}

/// The GICH_HCR that does what of ICH_HCR_EL2 it can.
pub const fn to_control(value: u64) -> u32 {
    (value & COMMON_CONTROL) as u32
}

/// The GICH_VMCR that does what ICH_VMCR_EL2 says.
pub const fn to_machine_control(value: u64) -> u32 {
    (value & COMMON_MACHINE_CONTROL) as u32
}

/// How many list registers GICH_VTR says there are.
pub const fn list_register_count(vtr: u32) -> usize {
    (vtr & 0x3f) as usize + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_a_list_register_comes_back() {
        for bit in 0..u32::BITS {
            let value = 1 << bit;
            let is_reserved = (20..23).contains(&bit);
            let expected = if is_reserved { 0 } else { value };
            assert_eq!(
                to_list_register(from_list_register(value)),
                expected,
                "bit {bit}"
            );
        }
        assert_eq!(from_list_register(u32::MAX).count_ones(), 29);
    }

    #[test]
    fn each_field_is_where_the_manuals_have_it() {
        let (pending, active) = (1 << 62, 1 << 63);
        for (gicv3, gicv2) in [
            (1019, 1019),
            (pending, 1 << 28),
            (active, 1 << 29),
            (1 << 60, 1 << 30),
            // A physical interrupt, and its INTID.
            (1 << 61 | 27 << 32, 1 << 31 | 27 << 10),
            // Tell when it ends.
            (1 << 41, 1 << 19),
            // An SGI from CPU 5.
            (5 << 32 | 3, 5 << 10 | 3),
            (0xa8 << 48, 0xa8 << 20),
        ] {
            assert_eq!(to_list_register(gicv3), gicv2, "{gicv3:#x}");
            assert_eq!(from_list_register(gicv2), gicv3, "{gicv2:#x}");
        }
        // Of a priority only the upper five bits fit.
        assert_eq!(to_list_register(0xff << 48), 0x1f << 23);
    }

    #[test]
    fn controls_have_what_both_versions_have() {
        let (tell_no_pending, trap_deactivate, ends) = (1 << 3, 1 << 14, 31 << 27);
        let control = 1 | tell_no_pending | trap_deactivate | ends;
        assert_eq!(u64::from(to_control(control)), 1 | tell_no_pending | ends);
        // Groups, AckCtl, FIQEn, CBPR, EOIM, both binary points, and a mask of 0xf8.
        let machine_control = 0b11111 | 1 << 9 | 0b11_1111 << 18 | 0xf8 << 24;
        assert_eq!(
            u64::from(to_machine_control(machine_control)),
            machine_control
        );
        assert_eq!(to_machine_control(u64::MAX) as u64, machine_control);
    }

    #[test]
    fn list_registers_are_counted() {
        assert_eq!(list_register_count(0x9000_0003), 4);
        assert_eq!(list_register_count(0x3f), 64);
    }
}
