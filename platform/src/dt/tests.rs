//! Trees that are `virt`'s but for one thing.

use super::*;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};

fn text(value: &str) -> Vec<u8> {
    let mut bytes = value.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

fn cells(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_be_bytes())
        .collect()
}

fn set(node: &mut DeviceTreeNode, name: &str, value: Vec<u8>) {
    let _ = node.remove_property(name);
    node.add_property(DeviceTreeProperty::new(name, value).unwrap());
}

fn node(name: &str, properties: &[(&str, Vec<u8>)]) -> DeviceTreeNode {
    let mut node = DeviceTreeNode::new(name).unwrap();
    for (name, value) in properties {
        set(&mut node, name, value.clone());
    }
    node
}

/// What `virt` says of `count` CPUs, as far as this file asks.
fn virt(count: u32) -> DeviceTree {
    let mut tree = DeviceTree::new();
    set(&mut tree.root, "#address-cells", cells(&[2]));
    set(&mut tree.root, "#size-cells", cells(&[2]));
    let one_cell = [
        ("#address-cells", cells(&[1])),
        ("#size-cells", cells(&[0])),
    ];
    let mut cpus = node("cpus", &one_cell);
    for cpu in 0..count {
        let properties = [("device_type", text("cpu")), ("reg", cells(&[cpu]))];
        cpus.add_child(node(&format!("cpu@{cpu:x}"), &properties));
    }
    let timer = [1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4];
    let gic = [0, 0x0800_0000, 0, 0x1_0000, 0, 0x080a_0000, 0, 0xf6_0000];
    let nodes = [
        node(
            "psci",
            &[
                ("compatible", text("arm,psci-1.0")),
                ("method", text("smc")),
            ],
        ),
        node(
            "memory@40000000",
            &[
                ("device_type", text("memory")),
                ("reg", cells(&[0, 0x4000_0000, 0, 0x2000_0000])),
            ],
        ),
        node(
            "timer",
            &[
                ("compatible", text("arm,armv8-timer")),
                ("interrupts", cells(&timer)),
            ],
        ),
        node(
            "intc@8000000",
            &[("compatible", text("arm,gic-v3")), ("reg", cells(&gic))],
        ),
        node(
            "pl011@9000000",
            &[
                (
                    "compatible",
                    [text("arm,pl011"), text("arm,primecell")].concat(),
                ),
                ("reg", cells(&[0, 0x0900_0000, 0, 0x1000])),
                ("interrupts", cells(&[0, 1, 4])),
            ],
        ),
        node(
            "chosen",
            &[
                ("stdout-path", text("/pl011@9000000")),
                ("bootargs", text("trapline.config=0x50000000,0x1000")),
            ],
        ),
        cpus,
    ];
    for node in nodes {
        tree.root.add_child(node);
    }
    tree
}

/// What `virt` would be if `change` were made to the node at `path`.
fn changed(path: &str, change: impl FnOnce(&mut DeviceTreeNode)) -> Result<(), Unsupported> {
    let mut tree = virt(2);
    change(tree.find_node_mut(path).unwrap());
    Machine::parse(&tree.to_dtb()).map(|_| ())
}

#[test]
fn virt_is_supported() {
    let blob = virt(4).to_dtb();
    let machine = Machine::parse(&blob).unwrap();
    assert_eq!(machine.memory, 0x4000_0000..0x6000_0000);
    assert_eq!(machine.mpidrs(), [0, 1, 2, 3]);
    let Gic::V3(gic) = machine.gic else {
        panic!("a GICv3")
    };
    assert_eq!(gic.distributor, 0x0800_0000..0x0801_0000);
    let [redistributors] = gic.redistributors() else {
        panic!("one range of redistributors")
    };
    assert_eq!(*redistributors, 0x080a_0000..0x0900_0000);
    assert_eq!(machine.uart, 0x0900_0000..0x0900_1000);
    assert_eq!(machine.uart_intid, 33);
    assert_eq!(machine.bootargs, "trapline.config=0x50000000,0x1000");
}

#[test]
fn redistributors_may_lie_in_several_regions() {
    let gic_of = |regions: u32, frames: &[u32]| {
        let mut tree = virt(2);
        let gic = tree.find_node_mut("/intc@8000000").unwrap();
        let reg = [&[0, 0x0800_0000, 0, 0x1_0000][..], frames].concat();
        set(gic, "reg", cells(&reg));
        set(gic, "#redistributor-regions", cells(&[regions]));
        let blob = tree.to_dtb();
        Machine::parse(&blob).map(|machine| match machine.gic {
            Gic::V3(gic) => gic.redistributors().to_vec(),
            Gic::V2(_) => panic!("a GICv3"),
        })
    };
    let frames = [0, 0x080a_0000, 0, 0xf6_0000, 0x40, 0, 0, 0x400_0000];
    let (first, second) = (0x080a_0000..0x0900_0000, 0x40_0000_0000..0x40_0400_0000);
    assert_eq!(gic_of(1, &frames), Ok(vec![first.clone()]));
    assert_eq!(gic_of(2, &frames), Ok(vec![first, second]));
    let missing = Unsupported::Missing("GIC redistributors");
    assert_eq!(gic_of(3, &frames), Err(missing));
    assert_eq!(gic_of(0, &frames), Err(missing));
    assert_eq!(gic_of(5, &frames), Err(Unsupported::TooManyRegions));
    assert_eq!(gic_of(u32::MAX, &frames), Err(Unsupported::TooManyRegions));
}

#[test]
fn one_to_sixty_four_pcpus_are_supported() {
    for (count, expected) in [
        (1, Ok(1)),
        (17, Ok(17)),
        (64, Ok(64)),
        (65, Err(Unsupported::TooManyPcpus)),
    ] {
        let blob = virt(count).to_dtb();
        assert_eq!(Machine::parse(&blob).map(|m| m.mpidrs().len()), expected);
    }
    assert_eq!(
        Machine::parse(&virt(0).to_dtb()).unwrap_err(),
        Unsupported::Missing("cpus")
    );
}

#[test]
fn firmware_that_is_not_called_by_smc_is_refused() {
    let result = changed("/psci", |psci| set(psci, "method", text("hvc")));
    assert_eq!(result, Err(Unsupported::PsciNotBySmc));
}

#[test]
fn memory_in_two_ranges_is_refused() {
    let two = [0, 0x4000_0000, 0, 0x1000, 0, 0x8000_0000, 0, 0x1000];
    let result = changed("/memory@40000000", |memory| set(memory, "reg", cells(&two)));
    assert_eq!(result, Err(Unsupported::SeveralMemories));
}

#[test]
fn empty_or_wrapping_regions_are_refused() {
    for reg in [[0, 0, 0, 0], [u32::MAX, u32::MAX, 1, 0]] {
        let result = changed("/memory@40000000", |memory| set(memory, "reg", cells(&reg)));
        assert_eq!(result, Err(Unsupported::Missing("memory")));
    }
}

/// A tree with a GICv2 of which so many parts are named.
fn virt_with_v2(pcpus: u32, parts: usize) -> DeviceTree {
    let mut tree = virt(pcpus);
    let gic = tree.find_node_mut("/intc@8000000").unwrap();
    set(gic, "compatible", text("arm,cortex-a15-gic"));
    let starts = [0x0800_0000, 0x0801_0000, 0x0803_0000, 0x0804_0000];
    let reg: Vec<u32> = starts[..parts]
        .iter()
        .flat_map(|start| [0, *start, 0, 0x1_0000])
        .collect();
    set(gic, "reg", cells(&reg));
    tree
}

#[test]
fn a_gicv2_has_four_parts() {
    let blob = virt_with_v2(4, 4).to_dtb();
    let machine = Machine::parse(&blob).unwrap();
    let Gic::V2(gic) = &machine.gic else {
        panic!("a GICv2")
    };
    assert_eq!(gic.virtual_interface, 0x0804_0000..0x0805_0000);
    let starts: Vec<u64> = machine.gic.regions().map(|region| region.start).collect();
    assert_eq!(starts, [0x0800_0000, 0x0801_0000, 0x0803_0000]);
    for (parts, what) in [
        (0, "GIC distributor"),
        (1, "GIC CPU interface"),
        (2, "GIC virtual interface control"),
        (3, "GIC virtual CPU interface"),
    ] {
        let blob = virt_with_v2(4, parts).to_dtb();
        assert_eq!(Machine::parse(&blob), Err(Unsupported::Missing(what)));
    }
}

#[test]
fn a_gicv2_serves_eight_pcpus() {
    let parse = |pcpus| {
        let blob = virt_with_v2(pcpus, 4).to_dtb();
        Machine::parse(&blob).map(|machine| machine.mpidrs().len())
    };
    assert_eq!(parse(8), Ok(8));
    assert_eq!(parse(9), Err(Unsupported::TooManyPcpusForGicV2));
}

#[test]
fn other_interrupt_controllers_are_refused() {
    let result = changed("/intc@8000000", |gic| {
        set(gic, "compatible", text("arm,cortex-a9-gic"));
    });
    assert_eq!(result, Err(Unsupported::Missing("GICv2 or GICv3")));
}

#[test]
fn timer_interrupts_elsewhere_are_refused() {
    let result = changed("/timer", |timer| {
        set(timer, "interrupts", cells(&[1, 13, 4]))
    });
    assert_eq!(result, Err(Unsupported::TimerInterrupt));
}

#[test]
fn the_outside_channel_is_the_uart_that_stdout_names() {
    let result = changed("/chosen", |chosen| {
        set(chosen, "stdout-path", text("/none"))
    });
    assert_eq!(result, Err(Unsupported::Missing("PL011")));
    let options = changed("/chosen", |chosen| {
        set(chosen, "stdout-path", text("/pl011@9000000:115200"));
    });
    assert_eq!(options, Ok(()));
}

#[test]
fn no_command_line_is_an_empty_one() {
    let mut tree = virt(1);
    let chosen = tree.find_node_mut("/chosen").unwrap();
    let _ = chosen.remove_property("bootargs");
    assert_eq!(Machine::parse(&tree.to_dtb()).unwrap().bootargs, "");
}

#[test]
fn rubbish_is_malformed() {
    let mut blob = virt(1).to_dtb();
    blob[0] = 0;
    assert_eq!(Machine::parse(&blob), Err(Unsupported::Malformed));
    assert_eq!(Machine::parse(&[]), Err(Unsupported::Malformed));
}

#[test]
fn a_cut_tree_is_refused_and_never_panics() {
    let blob = virt(1).to_dtb();
    for length in 0..blob.len() {
        assert!(Machine::parse(&blob[..length]).is_err());
    }
}
