//! What the runner tells the hypervisor: how many CPUs, which policy, which guests and where their images lie.
//!
//! The runner encodes a [`BootConfig`] into a blob that QEMU puts into RAM, and says where it is in the bootargs of the
//! host's device tree: `trapline.config=0xADDRESS,0xLENGTH`. The addresses of the guest's machine are constants here,
//! because the runner describes them in the guest's device tree and the hypervisor emulates them.

mod check;
mod scheduling;

use alloc::{string::String, vec::Vec};

pub use check::{Machine, PAGE, whole_pages};
pub use scheduling::{
    CAP, EntitlementConfig, HALT_POLL_US, PolicyConfig, PoolPlan, RESERVATION_US, SLICE_US,
    WindowConfig,
};
use serde::{Deserialize, Serialize};

/// The bootargs key that says where the encoded [`BootConfig`] lies.
pub const BOOTARGS_KEY: &str = "trapline.config";

/// The first bytes of an encoded [`BootConfig`]; the last one is its version.
const MAGIC: [u8; 8] = *b"TRAPCFG\x08";

/// The most guests of one run.
pub const MAX_GUESTS: usize = 32;
/// The most vCPUs that one guest has.
pub const MAX_VCPUS: usize = 64;
/// The most vCPUs of all guests together.
pub const MAX_VCPUS_IN_ALL: usize = 512;
/// The most physical CPUs of the machine.
pub const MAX_PCPUS: usize = 64;

/// Which interrupt controller the machine has, and each of its guests. The hypervisor finds it in the host's device tree.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum GicVersion {
    /// GICv2: CPU interfaces in memory.
    V2,
    /// GICv3: redistributors and an ITS.
    #[default]
    V3,
}

impl GicVersion {
    /// The version that the user calls `number`.
    pub const fn from_number(number: i64) -> Option<Self> {
        match number {
            2 => Some(Self::V2),
            3 => Some(Self::V3),
            _ => None,
        }
    }

    /// What the user calls it.
    pub const fn number(self) -> u32 {
        match self {
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }

    /// How many CPUs it serves at most, physical or virtual.
    pub const fn most_cpus(self) -> usize {
        match self {
            Self::V2 => 8,
            Self::V3 => MAX_VCPUS,
        }
    }
}

/// The guest's machine: QEMU's `virt`, as far as Trapline emulates it. Addresses are intermediate physical ones.
pub mod guest_machine {
    use core::ops::Range;

    /// The distributor of the interrupt controller.
    pub const GICD: Range<u64> = 0x0800_0000..0x0801_0000;
    /// The CPU interface, if the interrupt controller is a GICv2: the first page is the hardware's.
    pub const GICC: Range<u64> = 0x0801_0000..0x0802_0000;
    /// The interrupt translation service.
    pub const GITS: Range<u64> = 0x0808_0000..0x080a_0000;
    /// The first redistributor; there is one for each vCPU.
    pub const GICR_BASE: u64 = 0x080a_0000;
    /// The size of one redistributor.
    pub const GICR_STRIDE: u64 = 0x2_0000;
    /// The PL011.
    pub const UART: Range<u64> = 0x0900_0000..0x0900_1000;
    /// The PL011's interrupt, as an INTID (it is SPI 1).
    pub const UART_INTID: u32 = 33;
    /// The flash that firmware starts in.
    pub const FIRMWARE: Range<u64> = 0..0x0400_0000;
    /// The flash that firmware keeps its variables in.
    pub const VARIABLES: Range<u64> = 0x0400_0000..0x0800_0000;
    /// The PL031.
    pub const CLOCK: Range<u64> = 0x0901_0000..0x0901_1000;
    /// The PL031's interrupt (SPI 2).
    pub const CLOCK_INTID: u32 = 34;
    /// The PL061.
    pub const PINS: Range<u64> = 0x0903_0000..0x0903_1000;
    /// The PL061's interrupt (SPI 7).
    pub const PINS_INTID: u32 = 39;
    /// The pin of the PL061 at which the power key is; the pin is high while the key is down.
    pub const POWER_KEY_PIN: u8 = 3;
    /// The virtio transports: pages of [`VIRTIO_IN_PAGE`], of which each belongs to one guest.
    pub const VIRTIO: Range<u64> = 0x0a00_0000..0x0a00_4000;
    /// The size of one transport's registers.
    pub const VIRTIO_STRIDE: u64 = 0x200;
    /// How many transports are in one page.
    pub const VIRTIO_IN_PAGE: u8 = 8;
    /// The first transport's interrupt (SPI 16); each has the next one. They are edge-triggered.
    pub const VIRTIO_FIRST_INTID: u32 = 48;
    /// Where the guest reads what was stolen from its vCPUs.
    pub const STOLEN_TIME_BASE: u64 = 0x090a_0000;
    /// Where the guest reads which of its vCPUs run.
    pub const VCPU_STATES_BASE: u64 = 0x090b_0000;
    /// Where RAM starts, as a rule: see [`super::GuestConfig::ram_base`].
    pub const RAM_BASE: u64 = 0x4000_0000;
    /// Where a flat binary is loaded, relative to the start of RAM.
    pub const FLAT_OFFSET: u64 = 0x8_0000;

    /// The affinity value of vCPU `index`: 16 in each cluster, as GICv3's SGIs address them. [IHI0069: ICC_SGI1R_EL1]
    pub const fn mpidr_affinity(index: usize) -> u64 {
        ((index as u64 / 16) << 8) | (index as u64 % 16)
    }
}

/// One run of the hypervisor.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct BootConfig {
    /// 1 to [`MAX_PCPUS`].
    pub pcpu_count: u16,
    /// The pools, at least one: each pCPU is in one of them.
    pub pools: Vec<PoolPlan>,
    /// The time of day when the run began, in seconds since 1970.
    pub boot_time: u64,
    /// 1 to [`MAX_GUESTS`], with at most [`MAX_VCPUS_IN_ALL`] vCPUs. A guest's index here is its number on the wire.
    pub guests: Vec<GuestConfig>,
}

/// One guest.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct GuestConfig {
    /// The guest's name in logs and reports: not empty, without white space, unlike the other guests'.
    pub name: String,
    /// 1 to [`MAX_VCPUS`].
    pub vcpu_count: u16,
    /// Its pool, by its place among [`BootConfig::pools`].
    pub pool: u16,
    /// For each vCPU the pCPUs it may run on, bit n for pCPU n.
    pub affinity: Vec<u64>,
    /// The pCPUs that all its vCPUs run on rather than elsewhere, bit n for pCPU n; none: no preference.
    pub soft_affinity: u64,
    /// What each of its vCPUs shall get.
    pub entitlement: EntitlementConfig,
    /// The guest starts with the machine; otherwise it is off until it is told to start.
    pub starts: bool,
    /// What the guest's random numbers come from: nobody can guess it, except where runs shall be equal.
    pub random_seed: [u8; 32],
    /// What SYSTEM_RESET does.
    pub on_reset: OnReset,
    /// The physical memory behind the guest's RAM. It is 1 GiB aligned, and nothing else lies in it.
    pub ram: Region,
    /// Where the guest sees its RAM: at [`guest_machine::RAM_BASE`], or where it is.
    pub ram_base: u64,
    /// What to copy into the guest's RAM before its first instruction.
    pub images: Vec<StagedImage>,
    /// What the guest reads and executes but cannot write, where it lies: whole pages, outside the guest's RAM.
    pub roms: Vec<StagedImage>,
    /// The devices of the machine that the guest drives itself, instead of emulated ones: each at most once, and no other guest's. One
    /// that reaches memory does so by [`ram_base`](Self::ram_base), so that must be where the RAM is.
    pub devices: Vec<PassedDevice>,
    /// Where the first vCPU starts, as an intermediate physical address.
    pub entry: u64,
    /// Where the device tree is: the first vCPU's x0.
    pub device_tree: u64,
}

/// A device of the machine that a guest may drive itself. It is where the guest's emulated one would be, and has the same interrupt.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum PassedDevice {
    /// The PL031: [`guest_machine::CLOCK`].
    Clock,
    /// The PL061: [`guest_machine::PINS`].
    Pins,
    /// The virtio transport with this number: one of [`guest_machine::VIRTIO`], with whatever device QEMU has behind it.
    Virtio(u8),
}

impl PassedDevice {
    /// Those that the machine has one of, instead of which others have an emulated one.
    pub const SINGLE: [Self; 2] = [Self::Clock, Self::Pins];

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clock => "pl031",
            Self::Pins => "gpio",
            Self::Virtio(_) => "virtio transport",
        }
    }

    /// It reads and writes memory, wherever its driver says.
    pub const fn reaches_memory(self) -> bool {
        matches!(self, Self::Virtio(_))
    }

    /// It cannot belong to one guest and `other` to another.
    pub const fn is_bound_to(self, other: Self) -> bool {
        match (self, other) {
            (Self::Clock, Self::Clock) | (Self::Pins, Self::Pins) => true,
            (Self::Virtio(one), Self::Virtio(other)) => {
                one / guest_machine::VIRTIO_IN_PAGE == other / guest_machine::VIRTIO_IN_PAGE
            }
            _ => false,
        }
    }
}

/// What becomes of a guest that asks for a reset. [DEN0022: SYSTEM_RESET]
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum OnReset {
    /// It ends, as if it had powered off.
    End,
    /// It starts again: new vCPUs, clean RAM, images loaded anew.
    Restart,
}

/// A range of physical memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Region {
    /// The first byte's physical address.
    pub address: u64,
    /// How many bytes.
    pub length: u64,
}

/// An image that QEMU put into RAM, for the hypervisor to copy into the guest's RAM or to map.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct StagedImage {
    /// Where the image is, outside every guest's RAM.
    pub source: Region,
    /// Where it goes, as an intermediate physical address.
    pub destination: u64,
}

/// Why a blob is not a [`BootConfig`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ConfigError {
    /// It does not start with the magic number, or another version of the runner wrote it.
    Magic,
    /// It is cut off or damaged.
    Malformed,
}

impl BootConfig {
    /// The blob for [`BootConfig::decode`].
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, MAGIC.to_vec()).expect("a vector takes any value")
    }

    /// Reads what [`BootConfig::encode`] wrote.
    ///
    /// # Errors
    /// The blob is something else, or damaged.
    pub fn decode(blob: &[u8]) -> Result<Self, ConfigError> {
        let body = blob.strip_prefix(&MAGIC).ok_or(ConfigError::Magic)?;
        postcard::from_bytes(body).map_err(|_| ConfigError::Malformed)
    }
}

/// Where the encoded configuration is, from the bootargs of the host's device tree. The hypervisor calls it once, on the
/// boot pCPU.
pub fn locate(bootargs: &str) -> Option<Region> {
    let value = bootargs
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix(BOOTARGS_KEY)?.strip_prefix('='))?;
    let (address, length) = value.split_once(',')?;
    let hexadecimal = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    Some(Region {
        address: hexadecimal(address)?,
        length: hexadecimal(length)?,
    })
}

/// The bootargs that [`locate`] reads.
pub fn bootargs(blob: Region) -> String {
    alloc::format!("{BOOTARGS_KEY}={:#x},{:#x}", blob.address, blob.length)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One guest of two vCPUs on a machine of four.
    pub(crate) fn example() -> BootConfig {
        BootConfig {
            pcpu_count: 4,
            pools: alloc::vec![PoolPlan {
                name: "rest".into(),
                pcpus: 0b1111,
                policy: PolicyConfig {
                    windows: alloc::vec![WindowConfig {
                        pcpus: 0b11,
                        guest: Some(0),
                        us: 3_000,
                    }],
                    ..PolicyConfig::new("round-robin", 5_000)
                },
            }],
            boot_time: 1_800_000_000,
            guests: alloc::vec![GuestConfig {
                name: "linux".into(),
                vcpu_count: 2,
                pool: 0,
                affinity: alloc::vec![0b1111, 0b0001],
                soft_affinity: 0b0001,
                entitlement: EntitlementConfig {
                    cap: Some(250),
                    reservation_us: Some((2000, 10_000)),
                    halt_poll_us: Some(50),
                    ..EntitlementConfig::default()
                },
                starts: true,
                random_seed: core::array::from_fn(|index| index as u8),
                on_reset: OnReset::End,
                ram: Region {
                    address: 0x8000_0000,
                    length: 0x2000_0000,
                },
                ram_base: guest_machine::RAM_BASE,
                images: alloc::vec![StagedImage {
                    source: Region {
                        address: 0x4820_0000,
                        length: 12,
                    },
                    destination: guest_machine::RAM_BASE,
                }],
                roms: alloc::vec![],
                devices: alloc::vec![PassedDevice::Pins],
                entry: guest_machine::RAM_BASE,
                device_tree: 0x4800_0000,
            }],
        }
    }

    #[test]
    fn what_the_runner_writes_the_hypervisor_reads() {
        assert_eq!(BootConfig::decode(&example().encode()), Ok(example()));
    }

    #[test]
    fn a_damaged_blob_is_refused() {
        let blob = example().encode();
        assert_eq!(
            BootConfig::decode(&blob[..blob.len() - 1]),
            Err(ConfigError::Malformed)
        );
        assert_eq!(BootConfig::decode(&blob[1..]), Err(ConfigError::Magic));
        assert_eq!(BootConfig::decode(&[]), Err(ConfigError::Magic));
    }

    #[test]
    fn bootargs_say_where_the_blob_is() {
        let blob = Region {
            address: 0x4800_0000,
            length: 0x12f,
        };
        assert_eq!(
            locate(&alloc::format!("quiet {} x=y", bootargs(blob))),
            Some(blob)
        );
        assert_eq!(locate("trapline.config=12,0x3"), None);
        assert_eq!(locate("trapline.config"), None);
        assert_eq!(locate(""), None);
    }

    #[test]
    fn sixteen_vcpus_share_an_affinity_cluster() {
        assert_eq!(guest_machine::mpidr_affinity(15), 0x00f);
        assert_eq!(guest_machine::mpidr_affinity(16), 0x100);
        assert_eq!(guest_machine::mpidr_affinity(63), 0x30f);
    }
}
