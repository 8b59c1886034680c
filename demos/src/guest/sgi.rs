//! How software-generated interrupts name their targets by affinity. [IHI0069: ICC_SGI1R_EL1]

/// The affinity fields of an MPIDR_EL1: Aff3 in bits 39:32, Aff2, Aff1 and Aff0 below.
pub const AFFINITY: u64 = 0xff_00ff_ffff;

/// The ICC_SGI1R_EL1 value that sends SGI `intid` (0 to 15) to the one CPU with this affinity.
///
/// The target list has 16 bits, so Aff0 is split into the range selector and a bit.
pub const fn to_one(intid: u32, mpidr: u64) -> u64 {
    let (aff0, aff1) = (mpidr & 0xff, mpidr >> 8 & 0xff);
    let (aff2, aff3) = (mpidr >> 16 & 0xff, mpidr >> 32 & 0xff);
    aff3 << 48
        | (aff0 >> 4) << 44
        | aff2 << 32
        | (intid as u64 & 15) << 24
        | aff1 << 16
        | 1 << (aff0 & 15)
}

/// The ICC_SGI1R_EL1 value that sends SGI `intid` (0 to 15) to all CPUs but the sender.
pub const fn to_all_others(intid: u32) -> u64 {
    1 << 40 | (intid as u64 & 15) << 24
}

#[cfg(test)]
mod tests {
    use super::{to_all_others, to_one};

    #[test]
    fn each_affinity_level_has_its_field() {
        assert_eq!(to_one(5, 0x8000_0003), 5 << 24 | 1 << 3);
        assert_eq!(to_one(15, 0x8000_0102), 15 << 24 | 1 << 16 | 1 << 2);
        assert_eq!(
            to_one(0, 0x04_0003_0211),
            4 << 48 | 1 << 44 | 3 << 32 | 2 << 16 | 1 << 1
        );
    }

    #[test]
    fn all_others_need_no_affinity() {
        assert_eq!(to_all_others(7), 1 << 40 | 7 << 24);
    }
}
