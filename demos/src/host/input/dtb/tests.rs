//! Trees that tell the truth, and trees that lie.

use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};

use super::*;
use crate::config::guest_machine::RAM_BASE;

const MEMORY: u64 = 512 << 20;

/// A guest with two CPUs.
const GUEST: device_tree::Guest<'static> = device_tree::Guest {
    gic: GicVersion::V3,
    vcpu_count: 2,
    ram: RAM_BASE..RAM_BASE + MEMORY,
    bootargs: "",
    initrd: None,
    transports: &[],
    seed: [0; 40],
};

fn with_vcpus(vcpu_count: usize) -> device_tree::Guest<'static> {
    device_tree::Guest {
        vcpu_count,
        ..GUEST
    }
}

/// The tree that Trapline makes for [`GUEST`].
fn made() -> Vec<u8> {
    device_tree::build(&GUEST).expect("a well-formed tree")
}

/// That tree after a change.
fn changed(change: impl FnOnce(&mut DeviceTreeNode)) -> Vec<u8> {
    let blob = made();
    let mut tree = DeviceTree::from_fdt(&Fdt::new(&blob).expect("a well-formed tree"));
    change(&mut tree.root);
    tree.to_dtb()
}

/// That tree with property `name` of the node at `path` set to `value`.
fn with(path: &[&str], name: &str, value: &[u8]) -> Vec<u8> {
    changed(|root| {
        let mut node = root;
        for part in path {
            node = node.child_mut(part).expect("the tree has it");
        }
        node.remove_property(name);
        node.add_property(DeviceTreeProperty::new_unchecked(name, value.to_vec()));
    })
}

fn cells(values: &[u64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_be_bytes())
        .collect()
}

fn node(name: &str, compatible: &str, reg: &[u64]) -> DeviceTreeNode {
    let mut node = DeviceTreeNode::new_unchecked(name);
    let names = [compatible.as_bytes(), b"\0"].concat();
    node.add_property(DeviceTreeProperty::new_unchecked("compatible", names));
    node.add_property(DeviceTreeProperty::new_unchecked("reg", cells(reg)));
    node
}

#[track_caller]
fn refuse(blob: Vec<u8>, expected: &str) {
    let (what, remedy) = check(blob, &GUEST).expect_err(expected);
    assert!(what.contains(expected), "{what}: {expected}");
    assert!(!remedy.is_empty());
}

#[test]
fn the_truth_is_taken() {
    assert_eq!(check(made(), &GUEST), Ok(made()));
    // More memory than it describes, and a file with something behind the tree.
    let padded = [made(), vec![0; 100]].concat();
    let with_more = device_tree::Guest {
        ram: RAM_BASE..RAM_BASE + 2 * MEMORY,
        ..GUEST
    };
    assert_eq!(check(padded, &with_more), Ok(made()));
    let without = changed(|root| {
        root.remove_child("pl011@9000000");
    });
    assert!(check(without, &GUEST).is_ok());
    let mut absent = node("rng@1000", "arm,rng", &[0x1000, 0x1000]);
    absent.add_property(DeviceTreeProperty::new_unchecked(
        "status",
        b"disabled\0".to_vec(),
    ));
    assert!(check(changed(|root| root.add_child(absent)), &GUEST).is_ok());
}

#[test]
fn what_is_no_tree_is_refused() {
    refuse(vec![], "is none");
    refuse(b"/dts-v1/;".to_vec(), "is none");
    refuse(made()[..200].to_vec(), "is none");
    let mut long = made();
    long[4] = 1;
    refuse(long, "is none");
    let deep = changed(|root| {
        let mut inner = DeviceTreeNode::new_unchecked("a");
        for _ in 0..40 {
            let mut outer = DeviceTreeNode::new_unchecked("a");
            outer.add_child(inner);
            inner = outer;
        }
        root.add_child(inner);
    });
    refuse(deep, "deep");
}

#[test]
fn memory_that_is_not_there_is_refused() {
    let memory = ["memory@40000000"];
    refuse(
        with(&memory, "reg", &cells(&[RAM_BASE, 2 * MEMORY])),
        "memory at 0x40000000",
    );
    refuse(
        with(&memory, "reg", &cells(&[0x8000_0000, 4096])),
        "memory at 0x80000000",
    );
    refuse(with(&memory, "reg", &cells(&[0, 4096])), "memory at 0x0");
    refuse(
        with(&memory, "reg", &cells(&[RAM_BASE, u64::MAX])),
        "memory at",
    );
    refuse(with(&memory, "reg", &[1, 2, 3]), "malformed");
    refuse(with(&memory, "device_type", b"ram\0"), "no memory");
}

#[test]
fn images_lie_in_the_memory_that_is_described() {
    let halves = cells(&[RAM_BASE, 0x1000, RAM_BASE + 0x1000, 0x1000]);
    let blob = with(&["memory@40000000"], "reg", &halves);
    let end = RAM_BASE + 0x2000;
    assert_eq!(are_in_memory(&blob, &[RAM_BASE + 8..end, end..end]), Ok(()));
    let (what, _) =
        are_in_memory(&blob, &[RAM_BASE..end, RAM_BASE..end + 1]).expect_err("too long");
    assert!(what.contains("leaves out"), "{what}");
}

#[test]
fn cpus_that_are_not_there_are_refused() {
    let cpu = ["cpus", "cpu@1"];
    refuse(with(&cpu, "reg", &[0, 0, 0, 2]), "a CPU 0x2");
    refuse(with(&cpu, "reg", &[0, 0, 0, 0]), "a CPU 0x0");
    refuse(
        with(&cpu, "enable-method", b"spin-table\0"),
        "CPU 0x1 by PSCI",
    );
    refuse(
        with(&["cpus", "cpu@0"], "status", b"disabled\0"),
        "no CPU 0",
    );
    let (what, _) = check(made(), &with_vcpus(1)).expect_err("one CPU too many");
    assert!(what.contains("a CPU 0x1"), "{what}");
    refuse(with(&["psci"], "method", b"smc\0"), "another method");
    refuse(
        with(&["psci"], "compatible", b"arm,psci\0"),
        "another version",
    );
    refuse(
        changed(|root| {
            root.remove_child("psci");
        }),
        "no /psci",
    );
}

#[test]
fn devices_that_are_not_there_are_refused() {
    let uart = ["pl011@9000000"];
    refuse(
        with(&uart, "reg", &cells(&[0x0900_1000, 0x1000])),
        "at 0x9001000",
    );
    refuse(
        with(&uart, "reg", &cells(&[0x0900_0000, 0x2000])),
        "size 0x2000",
    );
    refuse(
        with(&uart, "compatible", b"ns16550a\0"),
        "`ns16550a` at 0x9000000",
    );
    let other_line = [[0_u32, 9, 4].map(u32::to_be_bytes).concat()].concat();
    refuse(with(&uart, "interrupts", &other_line), "other interrupts");
    refuse(
        with(&["timer"], "interrupts", &other_line),
        "other interrupts",
    );
    let gic = ["intc@8000000"];
    let elsewhere = cells(&[0x0800_0000, 0x1_0000, 0x0900_0000, 0x4_0000]);
    refuse(with(&gic, "reg", &elsewhere), "registers at 0x9000000");
    let roomy = cells(&[0x0800_0000, 0x1_0000, 0x080a_0000, 0xf6_0000]);
    assert!(check(with(&gic, "reg", &roomy), &GUEST).is_ok());
    let (what, _) = check(made(), &with_vcpus(3)).expect_err("room for two");
    assert!(what.contains("fewer redistributors"), "{what}");
    refuse(with(&gic, "compatible", b"arm,gic-400\0"), "`arm,gic-400`");
    refuse(
        changed(|root| {
            root.remove_child("intc@8000000");
        }),
        "no interrupt controller",
    );
    let disk = node("virtio_mmio@a000000", "virtio,mmio", &[0x0a00_0000, 0x200]);
    refuse(
        changed(|root| root.add_child(disk)),
        "`virtio,mmio` at 0xa000000",
    );
}

#[test]
fn a_bus_hides_nothing() {
    let on_bus = |ranges: &[u64], reg: u64| {
        let uart = node("pl011@0", "arm,pl011", &[reg, 0x1000]);
        changed(|root| {
            let mut bus = DeviceTreeNode::new_unchecked("bus");
            for (name, value) in [
                ("ranges", cells(ranges)),
                ("#address-cells", vec![0, 0, 0, 2]),
                ("#size-cells", vec![0, 0, 0, 2]),
            ] {
                bus.add_property(DeviceTreeProperty::new_unchecked(name, value));
            }
            bus.add_child(uart);
            root.add_child(bus);
        })
    };
    let ranges = [0, 0x0900_0000, 0x1_0000];
    assert!(check(on_bus(&ranges, 0), &GUEST).is_ok());
    assert!(check(on_bus(&[], 0x0900_0000), &GUEST).is_ok());
    refuse(on_bus(&ranges, 0x1000), "at 0x9001000");
    refuse(on_bus(&[], 0), "`arm,pl011` at 0x0");
}

#[test]
fn the_interrupt_controller_is_the_machines() {
    let [v2, v3] = [GicVersion::V2, GicVersion::V3].map(|gic| device_tree::Guest { gic, ..GUEST });
    let tree = |guest| device_tree::build(guest).expect("a well-formed tree");
    assert_eq!(check(tree(&v2), &v2), Ok(tree(&v2)));
    for (described, machine, said) in [
        (&v3, &v2, "a `arm,gic-v3` at 0x8000000"),
        (&v2, &v3, "a `arm,cortex-a15-gic` at 0x8000000"),
    ] {
        let (what, remedy) = check(tree(described), machine).expect_err(said);
        assert!(what.contains(said), "{what}");
        assert!(remedy.contains("the guest's machine has"), "{remedy}");
    }
}
