//! The device tree of the guest's machine: what QEMU's `virt` would say, as far as Trapline emulates it.

use std::ops::Range;

use dtoolkit::{
    error::FdtParseError,
    fdt::Fdt,
    model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty},
};
use vm_fdt::{Error, FdtWriter, FdtWriterNode};

use crate::config::{GicVersion, Region, guest_machine as machine};

const INTERRUPT_CONTROLLER: u32 = 1;
const CLOCK: u32 = 2;
const PINS: u32 = 3;
/// What the interrupt controllers are compatible with.
pub(super) const GIC_V2: &str = "arm,cortex-a15-gic";
pub(super) const GIC_V3: &str = "arm,gic-v3";
const SPI: u32 = 0;
const PPI: u32 = 1;
const EDGE_RISING: u32 = 1;
const LEVEL_HIGH: u32 = 4;
/// Of a pin in `gpios`.
const ACTIVE_HIGH: u32 = 0;
/// Linux's number of the power key.
const KEY_POWER: u32 = 116;
/// PPIs of the secure physical, physical, virtual and hypervisor timer, less the 16 SGIs. [BSA: PPI assignments]
const TIMER_PPIS: [u32; 4] = [13, 14, 11, 10];

/// What differs from guest to guest.
#[derive(Clone, Debug)]
pub struct Guest<'a> {
    /// The version of its interrupt controller.
    pub gic: GicVersion,
    /// 1 to [`crate::config::MAX_VCPUS`].
    pub vcpu_count: usize,
    /// Where its RAM is.
    pub ram: Range<u64>,
    /// The kernel's command line.
    pub bootargs: &'a str,
    /// Where the initial ramdisk is.
    pub initrd: Option<Region>,
    /// The virtio transports that have a device for it, by their numbers.
    pub transports: &'a [u8],
    /// Random bytes for the kernel to start from.
    pub seed: [u8; 40],
}

/// The flattened device tree of `guest`.
///
/// # Errors
/// The command line has a zero byte in it.
pub fn build(guest: &Guest<'_>) -> Result<Vec<u8>, Error> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_string("model", "trapline,virt")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", INTERRUPT_CONTROLLER)?;
    chosen(&mut fdt, guest)?;
    let memory = fdt.begin_node(&format!("memory@{:x}", guest.ram.start))?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &[guest.ram.start, guest.ram.end - guest.ram.start])?;
    fdt.end_node(memory)?;
    cpus(&mut fdt, guest.vcpu_count)?;
    match guest.gic {
        GicVersion::V2 => gic_v2(&mut fdt)?,
        GicVersion::V3 => gic_v3(&mut fdt, guest.vcpu_count)?,
    }
    timer(&mut fdt, guest)?;
    uart(&mut fdt)?;
    clock(&mut fdt)?;
    power_key(&mut fdt)?;
    for &number in guest.transports {
        transport(&mut fdt, number)?;
    }
    fdt.end_node(root)?;
    fdt.finish()
}

/// The user's `tree`, which was checked, completed as QEMU does: command line, initial ramdisk and random bytes go to /chosen.
/// A command line in it stays unless there is another. [QEMU: hw/arm/boot.c, arm_load_dtb]
///
/// # Errors
/// It is no device tree.
pub fn complete(tree: &[u8], guest: &Guest<'_>) -> Result<Vec<u8>, FdtParseError> {
    let mut tree = DeviceTree::from_fdt(&Fdt::new(tree)?);
    if tree.root.child_mut("chosen").is_none() {
        tree.root.add_child(DeviceTreeNode::new_unchecked("chosen"));
    }
    let chosen = tree.root.child_mut("chosen").expect("it was added");
    let mut set = |name: &str, value: Vec<u8>| {
        chosen.remove_property(name);
        chosen.add_property(DeviceTreeProperty::new_unchecked(name, value));
    };
    if !guest.bootargs.is_empty() {
        set("bootargs", [guest.bootargs.as_bytes(), b"\0"].concat());
    }
    let (address_seed, random_seed) = guest.seed.split_at(8);
    set("kaslr-seed", address_seed.to_vec());
    set("rng-seed", random_seed.to_vec());
    for name in ["linux,initrd-start", "linux,initrd-end"] {
        chosen.remove_property(name);
    }
    if let Some(initrd) = guest.initrd {
        let ends = [initrd.address, initrd.address + initrd.length];
        for (name, address) in ["linux,initrd-start", "linux,initrd-end"]
            .into_iter()
            .zip(ends)
        {
            let property = DeviceTreeProperty::new_unchecked(name, address.to_be_bytes().to_vec());
            chosen.add_property(property);
        }
    }
    Ok(tree.to_dtb())
}

fn chosen(fdt: &mut FdtWriter, guest: &Guest<'_>) -> Result<(), Error> {
    let chosen = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", guest.bootargs)?;
    fdt.property_string("stdout-path", &format!("/pl011@{:x}", machine::UART.start))?;
    let (address_seed, random_seed) = guest.seed.split_at(8);
    fdt.property("kaslr-seed", address_seed)?;
    fdt.property("rng-seed", random_seed)?;
    if let Some(initrd) = guest.initrd {
        fdt.property_u64("linux,initrd-start", initrd.address)?;
        fdt.property_u64("linux,initrd-end", initrd.address + initrd.length)?;
    }
    fdt.end_node(chosen)
}

fn cpus(fdt: &mut FdtWriter, count: usize) -> Result<(), Error> {
    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    for index in 0..count {
        let affinity = machine::mpidr_affinity(index) as u32;
        let cpu = fdt.begin_node(&format!("cpu@{affinity:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        fdt.property_u32("reg", affinity)?;
        fdt.property_string("enable-method", "psci")?;
        fdt.end_node(cpu)?;
    }
    fdt.end_node(cpus)?;
    let psci = fdt.begin_node("psci")?;
    let versions = ["arm,psci-1.0", "arm,psci-0.2"].map(str::to_owned);
    fdt.property_string_list("compatible", versions.to_vec())?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(psci)
}

/// The beginning of the interrupt controller's node: its distributor is followed by `others`, a start and a size.
fn interrupt_controller(
    fdt: &mut FdtWriter,
    compatible: &str,
    others: [u64; 2],
) -> Result<FdtWriterNode, Error> {
    let gicd = machine::GICD;
    let node = fdt.begin_node(&format!("intc@{:x}", gicd.start))?;
    fdt.property_string("compatible", compatible)?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    let [start, size] = others;
    fdt.property_array_u64("reg", &[gicd.start, gicd.end - gicd.start, start, size])?;
    fdt.property_phandle(INTERRUPT_CONTROLLER)?;
    Ok(node)
}

fn gic_v2(fdt: &mut FdtWriter) -> Result<(), Error> {
    let gicc = machine::GICC;
    let others = [gicc.start, gicc.end - gicc.start];
    let node = interrupt_controller(fdt, GIC_V2, others)?;
    fdt.end_node(node)
}

fn gic_v3(fdt: &mut FdtWriter, cpu_count: usize) -> Result<(), Error> {
    let redistributors = machine::GICR_STRIDE * cpu_count as u64;
    let node = interrupt_controller(fdt, GIC_V3, [machine::GICR_BASE, redistributors])?;
    fdt.property_u32("#redistributor-regions", 1)?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_null("ranges")?;
    let gits = machine::GITS;
    let its = fdt.begin_node(&format!("its@{:x}", gits.start))?;
    fdt.property_string("compatible", "arm,gic-v3-its")?;
    fdt.property_null("msi-controller")?;
    fdt.property_u32("#msi-cells", 1)?;
    fdt.property_array_u64("reg", &[gits.start, gits.end - gits.start])?;
    fdt.end_node(its)?;
    fdt.end_node(node)
}

fn timer(fdt: &mut FdtWriter, guest: &Guest<'_>) -> Result<(), Error> {
    let node = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    // With GICv2 a private interrupt says whose it is. [Linux bindings: arm,gic, PPI interrupt cpu mask]
    let cpus = match guest.gic {
        GicVersion::V2 => (1 << guest.vcpu_count) - 1,
        GicVersion::V3 => 0,
    };
    let interrupts = TIMER_PPIS.map(|ppi| [PPI, ppi, LEVEL_HIGH | cpus << 8]);
    fdt.property_array_u32("interrupts", interrupts.as_flattened())?;
    fdt.property_null("always-on")?;
    fdt.end_node(node)
}

fn uart(fdt: &mut FdtWriter) -> Result<(), Error> {
    let clock = fdt.begin_node("apb-pclk")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", 24_000_000)?;
    fdt.property_string("clock-output-names", "clk24mhz")?;
    fdt.property_phandle(CLOCK)?;
    fdt.end_node(clock)?;
    let node = primecell(fdt, "pl011", &machine::UART, machine::UART_INTID)?;
    fdt.property_array_u32("clocks", &[CLOCK, CLOCK])?;
    fdt.property_string_list(
        "clock-names",
        ["uartclk", "apb_pclk"].map(str::to_owned).to_vec(),
    )?;
    fdt.end_node(node)
}

fn clock(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = primecell(fdt, "pl031", &machine::CLOCK, machine::CLOCK_INTID)?;
    fdt.property_u32("clocks", CLOCK)?;
    fdt.property_string("clock-names", "apb_pclk")?;
    fdt.end_node(node)
}

/// A PL061 with a key at one of its pins.
fn power_key(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = primecell(fdt, "pl061", &machine::PINS, machine::PINS_INTID)?;
    fdt.property_u32("clocks", CLOCK)?;
    fdt.property_string("clock-names", "apb_pclk")?;
    fdt.property_null("gpio-controller")?;
    fdt.property_u32("#gpio-cells", 2)?;
    fdt.property_phandle(PINS)?;
    fdt.end_node(node)?;
    let keys = fdt.begin_node("gpio-keys")?;
    fdt.property_string("compatible", "gpio-keys")?;
    let key = fdt.begin_node("poweroff")?;
    fdt.property_string("label", "GPIO Key Poweroff")?;
    fdt.property_u32("linux,code", KEY_POWER)?;
    let pin = u32::from(machine::POWER_KEY_PIN);
    fdt.property_array_u32("gpios", &[PINS, pin, ACTIVE_HIGH])?;
    fdt.end_node(key)?;
    fdt.end_node(keys)
}

/// A virtio transport of the machine's own.
fn transport(fdt: &mut FdtWriter, number: u8) -> Result<(), Error> {
    let registers = machine::VIRTIO.start + u64::from(number) * machine::VIRTIO_STRIDE;
    let intid = machine::VIRTIO_FIRST_INTID + u32::from(number);
    let node = fdt.begin_node(&format!("virtio_mmio@{registers:x}"))?;
    fdt.property_string("compatible", "virtio,mmio")?;
    fdt.property_array_u64("reg", &[registers, machine::VIRTIO_STRIDE])?;
    fdt.property_array_u32("interrupts", &[SPI, intid - 32, EDGE_RISING])?;
    fdt.property_null("dma-coherent")?;
    fdt.end_node(node)
}

/// The beginning of the node of an Arm PrimeCell peripheral.
fn primecell(
    fdt: &mut FdtWriter,
    name: &str,
    registers: &Range<u64>,
    intid: u32,
) -> Result<FdtWriterNode, Error> {
    let node = fdt.begin_node(&format!("{name}@{:x}", registers.start))?;
    let compatible = [format!("arm,{name}"), "arm,primecell".to_owned()];
    fdt.property_string_list("compatible", compatible.to_vec())?;
    fdt.property_array_u64("reg", &[registers.start, registers.end - registers.start])?;
    fdt.property_array_u32("interrupts", &[SPI, intid - 32, LEVEL_HIGH])?;
    Ok(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(vcpu_count: usize) -> Vec<u8> {
        example_with(GicVersion::V3, vcpu_count)
    }

    fn example_with(gic: GicVersion, vcpu_count: usize) -> Vec<u8> {
        build(&Guest {
            gic,
            vcpu_count,
            ram: 0x4000_0000..0x6000_0000,
            bootargs: "console=ttyAMA0",
            initrd: Some(Region {
                address: 0x4800_0000,
                length: 0x1234,
            }),
            transports: &[9],
            seed: [7; 40],
        })
        .expect("a well-formed tree")
    }

    #[test]
    fn a_reader_finds_the_machine() {
        let blob = example(20);
        let tree = fdt::Fdt::new(&blob).expect("a well-formed tree");
        assert_eq!(tree.cpus().count(), 20);
        assert_eq!(tree.cpus().last().map(|cpu| cpu.ids().first()), Some(0x103));
        assert_eq!(tree.chosen().bootargs(), Some("console=ttyAMA0"));
        let region = tree.memory().regions().next().expect("RAM");
        assert_eq!(
            (region.starting_address as u64, region.size),
            (0x4000_0000, Some(512 << 20))
        );
        let uart = tree.chosen().stdout().expect("a console");
        assert_eq!(
            uart.compatible().map(|names| names.first()),
            Some("arm,pl011")
        );
        let intc = tree
            .find_compatible(&["arm,gic-v3"])
            .expect("an interrupt controller");
        let sizes: Vec<_> = intc
            .reg()
            .expect("registers")
            .map(|region| region.size)
            .collect();
        assert_eq!(sizes, [Some(0x1_0000), Some(20 * 0x2_0000)]);
        let its = tree.find_compatible(&["arm,gic-v3-its"]);
        let address = its.and_then(|its| Some(its.reg()?.next()?.starting_address as usize));
        assert_eq!(address, Some(0x808_0000));
        for (name, address) in [("arm,pl031", 0x901_0000), ("arm,pl061", 0x903_0000)] {
            let device = tree.find_compatible(&[name]).expect(name);
            let region = device.reg().and_then(|mut regions| regions.next());
            assert_eq!(
                region.map(|region| region.starting_address as u64),
                Some(address)
            );
        }
        let property = |path, name| {
            let cells = tree.find_node(path)?.property(name)?.value.chunks(4);
            let cells: Vec<u32> = cells
                .filter_map(|cell| Some(u32::from_be_bytes(cell.try_into().ok()?)))
                .collect();
            Some(cells)
        };
        let pins = property("/pl061@9030000", "phandle").expect("a phandle");
        assert_eq!(
            property("/pl061@9030000", "interrupts"),
            Some(vec![0, 7, 4])
        );
        assert_eq!(
            property("/virtio_mmio@a001200", "interrupts"),
            Some(vec![0, 25, 1])
        );
        assert_eq!(
            property("/virtio_mmio@a001200", "reg"),
            Some(vec![0, 0xa00_1200, 0, 0x200])
        );
        assert_eq!(
            property("/pl031@9010000", "interrupts"),
            Some(vec![0, 2, 4])
        );
        assert_eq!(
            property("/gpio-keys/poweroff", "gpios"),
            Some(vec![pins[0], 3, 0])
        );
        assert_eq!(
            property("/gpio-keys/poweroff", "linux,code"),
            Some(vec![116])
        );
    }

    #[test]
    fn a_gicv2_has_a_cpu_interface_and_no_its() {
        let blob = example_with(GicVersion::V2, 3);
        let tree = fdt::Fdt::new(&blob).expect("a well-formed tree");
        let node = tree.find_compatible(&["arm,cortex-a15-gic"]);
        let node = node.expect("an interrupt controller");
        let regions: Vec<_> = node
            .reg()
            .expect("registers")
            .map(|region| (region.starting_address as u64, region.size))
            .collect();
        let size = Some(0x1_0000);
        assert_eq!(regions, [(0x0800_0000, size), (0x0801_0000, size)]);
        for absent in ["arm,gic-v3", "arm,gic-v3-its"] {
            assert!(tree.find_compatible(&[absent]).is_none());
        }
        let timer = tree.find_node("/timer").expect("a timer");
        let interrupts = timer.property("interrupts").expect("interrupts").value;
        assert_eq!(interrupts[8..12], [0, 0, 0b111, 4]);
    }

    #[test]
    fn a_tree_of_the_users_is_completed() {
        let own = example(2);
        let mut guest = Guest {
            gic: GicVersion::V3,
            vcpu_count: 2,
            ram: 0x4000_0000..0x6000_0000,
            bootargs: "quiet",
            initrd: None,
            transports: &[],
            seed: [9; 40],
        };
        let completed = complete(&own, &guest).expect("a well-formed tree");
        let tree = fdt::Fdt::new(&completed).expect("a well-formed tree");
        assert_eq!(tree.chosen().bootargs(), Some("quiet"));
        let chosen = tree.find_node("/chosen").expect("it has one");
        assert!(chosen.property("linux,initrd-start").is_none());
        let seed = chosen.property("kaslr-seed").map(|seed| seed.value);
        assert_eq!(seed, Some(&[9; 8][..]));
        assert_eq!(tree.cpus().count(), 2);
        guest.bootargs = "";
        guest.initrd = Some(Region {
            address: 0x4900_0000,
            length: 16,
        });
        let completed = complete(&own, &guest).expect("a well-formed tree");
        let tree = fdt::Fdt::new(&completed).expect("a well-formed tree");
        assert_eq!(tree.chosen().bootargs(), Some("console=ttyAMA0"));
        let end = tree
            .find_node("/chosen")
            .and_then(|chosen| chosen.property("linux,initrd-end"));
        assert_eq!(end.and_then(|end| end.as_usize()), Some(0x4900_0010));
        assert!(complete(&own[..60], &guest).is_err());
    }

    #[test]
    fn a_zero_byte_in_the_command_line_is_refused() {
        let guest = Guest {
            gic: GicVersion::V3,
            vcpu_count: 1,
            ram: 0x4000_0000..0x4010_0000,
            bootargs: "a\0b",
            initrd: None,
            transports: &[],
            seed: [0; 40],
        };
        assert!(build(&guest).is_err());
    }
}
