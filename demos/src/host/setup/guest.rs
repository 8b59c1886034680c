//! Debian's stock arm64 Linux as a guest: its kernel, and an initramfs of busybox and one script; and another one with drivers for
//! virtio devices.

use std::{
    fs,
    io::Cursor,
    path::{Path, PathBuf},
};

use cpio::{NewcBuilder, newc::ModeFileType};

use super::{SetupLock, debian::Apt, modules, progress::Step};
use crate::host::{
    Failure,
    failure::{Result, at},
    places,
};

/// The guest's first program; see the file.
const INIT: &[u8] = include_bytes!("init.sh");
/// A package that always depends on the release's kernel.
const KERNEL_PACKAGE: &str = "linux-image-cloud-arm64";
const BUSYBOX_PACKAGE: &str = "busybox-static";

/// Where the stock guest lies.
#[derive(Clone, Debug)]
pub struct StockGuest {
    /// An arm64 `Image`.
    pub kernel: PathBuf,
    /// A cpio archive.
    pub initrd: PathBuf,
    /// The same with drivers for virtio devices.
    pub initrd_with_drivers: PathBuf,
}

impl StockGuest {
    /// Finds the stock guest in the cache, or fetches and builds it.
    pub fn set_up() -> Result<Self> {
        let directory = places::cache().join("guest");
        let guest = Self {
            kernel: directory.join("Image"),
            initrd: directory.join("initramfs.cpio"),
            initrd_with_drivers: directory.join("initramfs-drivers.cpio"),
        };
        let [busybox, drivers] = ["busybox", "modules"].map(|name| directory.join(name));
        let _lock = SetupLock::take()?;
        if ![&guest.kernel, &busybox, &drivers]
            .into_iter()
            .all(|path| path.exists())
        {
            fetch(&directory, &guest.kernel, &busybox, &drivers).map_err(|why| {
                Failure::input(
                    format!("Debian's arm64 Linux cannot be fetched ({why})"),
                    "this machine",
                    "connect it to a Debian mirror, or give a guest of your own by --kernel and --initrd",
                )
            })?;
        }
        let program = fs::read(&busybox).map_err(at(busybox.display()))?;
        let drivers = modules::read(&drivers).map_err(at(drivers.display()))?;
        for (path, drivers) in [
            (&guest.initrd, &[][..]),
            (&guest.initrd_with_drivers, &drivers[..]),
        ] {
            let archive = initramfs(&program, drivers).map_err(at(path.display()))?;
            if fs::read(path).ok().as_deref() != Some(&archive[..]) {
                replace(path, &archive).map_err(at(path.display()))?;
            }
        }
        Ok(guest)
    }
}

fn fetch(
    directory: &Path,
    kernel: &Path,
    busybox: &Path,
    drivers: &Path,
) -> std::result::Result<(), String> {
    let _step = Step::start("Fetching Debian's arm64 Linux kernel and busybox");
    let apt = Apt::for_guest()?;
    apt.update()?;
    let package = apt.dependency(KERNEL_PACKAGE, "linux-image-")?;
    let root = directory.join("root");
    apt.unpack(&[&package, BUSYBOX_PACKAGE], &root)?;
    let boot = root.join("boot");
    let image = fs::read_dir(&boot)
        .map_err(|error| format!("{}: {error}", boot.display()))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
        })
        .ok_or_else(|| format!("{package} has no kernel in it"))?;
    // A merged /usr moved the program between releases.
    let program = ["bin/busybox", "usr/bin/busybox"].map(|path| root.join(path));
    let program = program.iter().find(|path| path.exists());
    let program = program.ok_or_else(|| format!("{BUSYBOX_PACKAGE} has no busybox in it"))?;
    for (from, to) in [(&image, kernel), (program, busybox)] {
        fs::read(from)
            .and_then(|bytes| replace(to, &bytes))
            .map_err(|error| format!("{}: {error}", to.display()))?;
    }
    if drivers.exists() {
        fs::remove_dir_all(drivers).map_err(|error| format!("{}: {error}", drivers.display()))?;
    }
    modules::keep(&root, drivers).map_err(|error| format!("{}: {error}", drivers.display()))?;
    fs::remove_dir_all(&root).map_err(|error| format!("{}: {error}", root.display()))
}

/// A reader sees the old file or the new one, never a part of it.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let part = path.with_extension("part");
    fs::write(&part, bytes)?;
    fs::rename(&part, path)
}

/// busybox, our script as /init, the console that the kernel opens for it, and `drivers`, by name, as modules that the script loads in
/// this order.
fn initramfs(busybox: &[u8], drivers: &[(&str, Vec<u8>)]) -> std::io::Result<Vec<u8>> {
    let directory = |name: &str| {
        (
            NewcBuilder::new(name)
                .mode(0o755)
                .set_mode_file_type(ModeFileType::Directory),
            &[][..],
        )
    };
    let program = |name: &str| {
        NewcBuilder::new(name)
            .mode(0o755)
            .set_mode_file_type(ModeFileType::Regular)
    };
    let console = NewcBuilder::new("dev/console")
        .mode(0o600)
        .set_mode_file_type(ModeFileType::Char)
        .rdev_major(5)
        .rdev_minor(1);
    let mut entries = vec![
        directory("bin"),
        directory("dev"),
        directory("proc"),
        directory("root"),
        directory("sys"),
        directory("tmp"),
        (console, &[][..]),
        (program("bin/busybox"), busybox),
        (program("init"), INIT),
        directory("modules"),
    ];
    for (index, (name, contents)) in drivers.iter().enumerate() {
        entries.push((program(&format!("modules/{index}-{name}")), contents));
    }
    let entries = entries
        .into_iter()
        .map(|(entry, contents)| (entry, Cursor::new(contents)));
    cpio::write_cpio(entries, Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_initramfs_has_what_the_kernel_starts() {
        let drivers = [("b.ko", vec![1]), ("a.ko", vec![2])];
        let archive = initramfs(b"program", &drivers).expect("memory takes any archive");
        let mut names = Vec::new();
        let mut rest = &archive[..];
        loop {
            let reader = cpio::NewcReader::new(rest).expect("a well-formed archive");
            if reader.entry().is_trailer() {
                break;
            }
            names.push((reader.entry().name().to_owned(), reader.entry().mode()));
            rest = reader.finish().expect("a well-formed archive");
        }
        assert!(names.contains(&("init".to_owned(), 0o100_755)));
        assert!(names.contains(&("dev/console".to_owned(), 0o020_600)));
        assert!(names.contains(&("bin/busybox".to_owned(), 0o100_755)));
        let drivers = names.iter().filter(|(name, _)| name.ends_with(".ko"));
        let drivers: Vec<_> = drivers.map(|(name, _)| name.as_str()).collect();
        assert_eq!(drivers, ["modules/0-b.ko", "modules/1-a.ko"]);
    }
}
