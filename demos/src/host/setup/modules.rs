//! The stock kernel's drivers for virtio devices, which are modules: from its package to a directory, and from there.

use std::{
    fs,
    io::{Read, Result},
    path::{Path, PathBuf},
};

use super::guest::replace;
use crate::host::input::packed::Packing;

/// Where the kernel's package has them, each after those that it needs. Another kernel may have some of them built in.
const MODULES: [&str; 5] = [
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio_mmio.ko",
    "drivers/block/virtio_blk.ko",
    "drivers/char/hw_random/virtio-rng.ko",
];

/// Copies those that the package unpacked at `root` has to `directory`, which is complete when it is there.
pub(super) fn keep(root: &Path, directory: &Path) -> Result<()> {
    let part = directory.with_extension("part");
    fs::create_dir_all(&part)?;
    for place in MODULES {
        if let Some(module) = find(root, place)? {
            replace(&part.join(name_of(place)), &unpacked(&fs::read(module)?)?)?;
        }
    }
    fs::rename(&part, directory)
}

/// The modules in `directory`, in the order in which they are loaded: their names and contents.
pub(super) fn read(directory: &Path) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let names = MODULES.into_iter().map(name_of);
    let present = names.filter(|name| directory.join(name).exists());
    present
        .map(|name| Ok((name, fs::read(directory.join(name))?)))
        .collect()
}

fn name_of(place: &'static str) -> &'static str {
    place.rsplit('/').next().unwrap_or(place)
}

/// The module that the package has at `place`, packed or not.
fn find(root: &Path, place: &str) -> Result<Option<PathBuf>> {
    for directory in ["lib/modules", "usr/lib/modules"] {
        let Ok(versions) = fs::read_dir(root.join(directory)) else {
            continue;
        };
        for version in versions {
            let kernel = version?.path().join("kernel");
            let candidates = ["", ".xz", ".zst"].map(|end| kernel.join(format!("{place}{end}")));
            if let Some(module) = candidates.into_iter().find(|path| path.exists()) {
                return Ok(Some(module));
            }
        }
    }
    Ok(None)
}

fn unpacked(mut bytes: &[u8]) -> Result<Vec<u8>> {
    let mut module = Vec::new();
    match Packing::of(bytes) {
        Some(packing) => packing.reader(&mut bytes)?.read_to_end(&mut module)?,
        None => bytes.read_to_end(&mut module)?,
    };
    Ok(module)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::input::packed::tests::pack;

    #[test]
    fn modules_are_kept_in_the_order_in_which_they_are_loaded() {
        let directory = tempfile::tempdir().expect("a directory for temporary files");
        let kernel = directory.path().join("root/lib/modules/6.1/kernel");
        let file = |place: &str, bytes: &[u8]| {
            let path = kernel.join(place);
            fs::create_dir_all(path.parent().expect("it has one")).expect("room");
            fs::write(path, bytes).expect("room for a file");
        };
        file("drivers/block/virtio_blk.ko", b"disk");
        file(
            "drivers/virtio/virtio.ko.xz",
            &pack(Packing::Xz, b"the bus"),
        );
        let kept = directory.path().join("modules");
        keep(&directory.path().join("root"), &kept).expect("room");
        let modules = read(&kept).expect("what was kept");
        let expected = [
            ("virtio.ko", b"the bus".to_vec()),
            ("virtio_blk.ko", b"disk".to_vec()),
        ];
        assert_eq!(modules, expected);
    }
}
