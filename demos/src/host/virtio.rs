//! virtio devices of QEMU that guests drive themselves: which transport each has, and what QEMU is told.
//!
//! A transport is 0x200 bytes, and stage 2 maps pages: the transports of one page go to one guest, so there are as many guests with
//! such devices as there are pages.

use std::{
    ffi::OsString,
    os::unix::fs::MetadataExt,
    path::{self, Path, PathBuf},
};

use super::{
    Failure,
    failure::{Result, at},
    machine::doubled_commas,
    request::GuestRequest,
};
use crate::config::guest_machine::{VIRTIO, VIRTIO_IN_PAGE, VIRTIO_STRIDE};

/// How many guests can have devices.
const GUESTS: usize = ((VIRTIO.end - VIRTIO.start) / VIRTIO_STRIDE) as usize / PER_GUEST;
/// How many a guest can have.
const PER_GUEST: usize = VIRTIO_IN_PAGE as usize;

/// What is behind a transport.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Backend {
    /// A disk, whose contents are a file's.
    Disk {
        /// The file, byte for byte.
        file: PathBuf,
        /// The guest cannot write it.
        is_read_only: bool,
    },
    /// Random numbers of the host's.
    RandomNumbers,
}

impl Backend {
    /// What the user calls a disk.
    pub const DISK: &str = "virtio-blk";
    /// What the user calls random numbers.
    pub const RANDOM_NUMBERS: &str = "virtio-rng";

    /// What the user calls it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Disk { .. } => Self::DISK,
            Self::RandomNumbers => Self::RANDOM_NUMBERS,
        }
    }

    /// What QEMU is told to have it at transport `number`.
    fn arguments(&self, number: u8) -> Vec<OsString> {
        let bus = format!("bus=virtio-mmio-bus.{number}");
        match self {
            Self::Disk { file, is_read_only } => {
                let read_only = if *is_read_only { "on" } else { "off" };
                let mut drive = OsString::from(format!(
                    "if=none,id=disk{number},format=raw,read-only={read_only},file="
                ));
                // A name with a colon in it would be a protocol to QEMU, unless a slash comes first.
                let file = path::absolute(file).unwrap_or_else(|_| file.clone());
                drive.push(doubled_commas(&file));
                let device = format!("virtio-blk-device,drive=disk{number},{bus}");
                vec!["-drive".into(), drive, "-device".into(), device.into()]
            }
            Self::RandomNumbers => {
                vec!["-device".into(), format!("virtio-rng-device,{bus}").into()]
            }
        }
    }
}

/// For each of `guests` the numbers of its devices' transports.
///
/// # Errors
/// A guest has devices and nobody has said that it is trusted; or there are more than there is room for.
pub fn transports(guests: &[GuestRequest]) -> Result<Vec<Vec<u8>>> {
    let mut pages = 0;
    let place = |guest: &GuestRequest| {
        let refuse = |what: String, key: &str, remedy: &str| {
            Err(Failure::input(what, guest.place.of(key), remedy))
        };
        let Some(first) = guest.virtio.first() else {
            return Ok(Vec::new());
        };
        if !guest.is_dma_trusted {
            let what = format!(
                "`{}` can have all memory read and written by its {}, the hypervisor's too",
                guest.name,
                first.name()
            );
            let remedy = "if it is trusted with that, write dma = \"trusted\" in its [[vm]]";
            return refuse(what, "device", remedy);
        }
        if guest.virtio.len() > PER_GUEST {
            let what = format!("`{}` has {} virtio devices", guest.name, guest.virtio.len());
            return refuse(what, "device", &format!("give it at most {PER_GUEST}"));
        }
        if pages == GUESTS {
            let what = format!("more than {GUESTS} guests have virtio devices");
            return refuse(what, "device", "give them to fewer guests");
        }
        let numbers = (pages as u8 * VIRTIO_IN_PAGE..).take(guest.virtio.len());
        pages += 1;
        Ok(numbers.collect())
    };
    guests.iter().map(place).collect()
}

/// The files of all disks are there and may be used as asked for; none is written by one guest and used by another.
pub fn check_files(guests: &[GuestRequest]) -> Result<()> {
    let mut used: Vec<((u64, u64), bool)> = Vec::new();
    let backends = guests.iter().flat_map(|guest| &guest.virtio);
    for backend in backends {
        let Backend::Disk { file, is_read_only } = backend else {
            continue;
        };
        let identity = check_file(file, *is_read_only)?;
        let is_shared = |(other, is_other_read_only): &((u64, u64), bool)| {
            *other == identity && !(*is_read_only && *is_other_read_only)
        };
        if used.iter().any(is_shared) {
            return Err(Failure::input(
                "the disk is used twice, and written",
                file.display(),
                "give each a file of its own, or read_only = true to all that have it",
            ));
        }
        used.push((identity, *is_read_only));
    }
    Ok(())
}

/// What the file is to the system, whatever it is called.
fn check_file(path: &Path, is_read_only: bool) -> Result<(u64, u64)> {
    let refuse = |what: &str, remedy: &str| Err(Failure::input(what, path.display(), remedy));
    let make = format!(
        "make one, for example by `truncate -s 64M {}`",
        path.display()
    );
    let metadata = match path.metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return refuse("there is no such disk", &make);
        }
        other => other.map_err(at(path.display()))?,
    };
    if !metadata.is_file() {
        return refuse("the disk is not a file", &make);
    }
    if metadata.len() == 0 {
        return refuse("the disk is empty", &make);
    }
    let mut options = std::fs::File::options();
    options.read(true).write(!is_read_only);
    options.open(path).map_err(at(path.display()))?;
    Ok((metadata.dev(), metadata.ino()))
}

/// What QEMU is told to have the devices of `guests` at their `transports`.
pub fn arguments<'a>(
    guests: &[GuestRequest],
    transports: impl IntoIterator<Item = &'a [u8]>,
) -> Vec<OsString> {
    let placed: Vec<_> = guests
        .iter()
        .zip(transports)
        .flat_map(|(guest, numbers)| guest.virtio.iter().zip(numbers))
        .collect();
    if placed.is_empty() {
        return Vec::new();
    }
    // As virtio 1 has it, not as it was before.
    let mut arguments: Vec<OsString> = ["-global", "virtio-mmio.force-legacy=false"]
        .map(Into::into)
        .to_vec();
    arguments.extend(
        placed
            .iter()
            .flat_map(|(backend, number)| backend.arguments(**number)),
    );
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::request::GuestSource;

    fn guest(count: usize) -> GuestRequest {
        GuestRequest {
            virtio: vec![Backend::RandomNumbers; count],
            is_dma_trusted: true,
            ..GuestRequest::new(GuestSource::Stock, String::new(), 1)
        }
    }

    fn with_disk(file: &Path, is_read_only: bool) -> GuestRequest {
        let file = file.into();
        GuestRequest {
            virtio: vec![Backend::Disk { file, is_read_only }],
            ..guest(0)
        }
    }

    #[track_caller]
    fn refuse<T: std::fmt::Debug>(result: Result<T>, parts: &[&str]) {
        let failure = result.expect_err("it is wrong").to_string();
        assert_eq!(failure.lines().count(), 1, "{failure}");
        for part in parts {
            assert!(failure.contains(part), "{failure}: no `{part}`");
        }
    }

    #[test]
    fn the_transports_of_one_page_belong_to_one_guest() {
        let guests = [guest(2), guest(0), guest(8), guest(1), guest(1)];
        let transports = transports(&guests).expect("there is room");
        let expected = [vec![0, 1], vec![], (8..16).collect(), vec![16], vec![24]];
        assert_eq!(transports, expected);
    }

    #[test]
    fn there_are_four_pages_of_eight() {
        refuse(
            transports(&[guest(9)]),
            &["has 9 virtio devices", "at most 8"],
        );
        refuse(
            transports(&[const { 0 }; 5].map(|_| guest(1))),
            &["more than 4 guests"],
        );
    }

    #[test]
    fn a_guest_that_nobody_trusts_has_none() {
        let mut untrusted = guest(1);
        untrusted.is_dma_trusted = false;
        refuse(
            transports(&[untrusted]),
            &["virtio-rng", "the hypervisor's too", "dma = \"trusted\""],
        );
    }

    #[test]
    fn a_disk_is_a_file_that_nobody_else_writes() {
        let directory = tempfile::tempdir().expect("a directory for temporary files");
        let path = directory.path().join("disk,1.img");
        refuse(
            check_files(&[with_disk(&path, false)]),
            &["there is no such disk", "truncate -s 64M"],
        );
        std::fs::write(&path, b"").expect("room for a file");
        refuse(check_files(&[with_disk(&path, false)]), &["is empty"]);
        refuse(
            check_files(&[with_disk(directory.path(), true)]),
            &["not a file"],
        );
        std::fs::write(&path, [0; 512]).expect("room for a file");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("room for a link");
        let both = |one, other| check_files(&[with_disk(&path, one), with_disk(&link, other)]);
        assert_eq!(both(true, true), Ok(()));
        for (one, other) in [(true, false), (false, true), (false, false)] {
            refuse(both(one, other), &["used twice", "read_only"]);
        }
        let guests = [with_disk(&path, true)];
        let arguments = arguments(&guests, [&[8][..]]);
        let drive = arguments[3].to_string_lossy();
        assert!(
            drive.ends_with("disk,,1.img") && drive.contains("read-only=on"),
            "{drive}"
        );
        assert_eq!(
            arguments[5],
            "virtio-blk-device,drive=disk8,bus=virtio-mmio-bus.8"
        );
    }
}
