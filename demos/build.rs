//! Gives each image its linker script. The host's binaries need nothing.

use std::{env, path::Path};

/// Guests are linked at the address where their RAM starts; the hypervisor where QEMU loads it.
const IMAGES: &[(&str, &str)] = &[
    ("hypervisor", "../platform/link.ld"),
    ("test-hypervisor", "../platform/link.ld"),
    ("bench-hypervisor", "../platform/link.ld"),
    ("stress-guest", "guests.ld"),
    ("bench-guest", "guests.ld"),
    ("test-guest", "guests.ld"),
    ("rogue-guest", "guests.ld"),
    ("example-guest", "guests.ld"),
    ("example-device", "../platform/link.ld"),
    ("example-policy", "../platform/link.ld"),
    ("example-loop", "../platform/link.ld"),
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let package = env::var("CARGO_MANIFEST_DIR").expect("cargo sets the package's directory");
    for (image, script) in IMAGES {
        let script = Path::new(&package).join(script);
        println!("cargo::rerun-if-changed={}", script.display());
        println!("cargo::rustc-link-arg-bin={image}=-T{}", script.display());
    }
}
