//! What runs are made of: found, built or read once.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

use super::GuestPlace;
use crate::host::{
    cross::{self, Built},
    failure::Result,
    input::{Contents, dtb, initrd, kernel::Kernel},
    request::{GuestRequest, GuestSource},
    setup::{guest::StockGuest, qemu::Qemu},
};

/// The files of one guest.
pub(super) struct Files {
    pub(super) kernel: PathBuf,
    pub(super) initrd: Option<PathBuf>,
}

/// QEMU, and the models of CPU that it offers.
#[derive(Clone, Debug)]
pub struct Emulator {
    /// The program.
    pub qemu: Qemu,
    /// What [`Request::cpu`] can be.
    pub models: Vec<String>,
}

/// What runs are made of. Everything is found, built or read once, however many runs and guests of one size have it.
#[derive(Default)]
pub struct Inputs {
    emulator: Option<Emulator>,
    hypervisors: BTreeMap<String, Built>,
    kernels: BTreeMap<(PathBuf, u64, u64), Kernel>,
    ramdisks: BTreeMap<(PathBuf, bool, u64), Contents>,
    stock: Option<StockGuest>,
    own: BTreeMap<String, PathBuf>,
}

impl Inputs {
    /// QEMU, which is installed if there is none.
    ///
    /// # Errors
    /// There is no QEMU, and no way to get it.
    pub fn emulator(&mut self) -> Result<Emulator> {
        if let Some(known) = &self.emulator {
            return Ok(known.clone());
        }
        let qemu = Qemu::set_up()?;
        let models = qemu.cpu_models();
        Ok(self.emulator.insert(Emulator { qemu, models }).clone())
    }

    pub(super) fn hypervisor(&mut self, name: &str) -> Result<Built> {
        if let Some(known) = self.hypervisors.get(name) {
            return Ok(known.clone());
        }
        let built = cross::build(&[name])?.remove(0);
        Ok(self.hypervisors.entry(name.into()).or_insert(built).clone())
    }

    /// Reads the files that the user named for `guest`, which is at `place`.
    pub(super) fn read_named(&mut self, guest: &GuestRequest, place: &GuestPlace) -> Result<()> {
        let ram = place.seen();
        let memory = place.ram.length;
        let is_linux = match &guest.source {
            GuestSource::File(path) => self.kernel(path, &ram)?.is_linux,
            GuestSource::Stock | GuestSource::Own(_) => true,
        };
        if let Some(path) = &guest.initrd {
            self.ramdisk(path, is_linux, memory)?;
        }
        if let Some(path) = &guest.dtb {
            dtb::read(path, &guest.described(place))?;
        }
        Ok(())
    }

    /// Makes sure that the guests that nobody has to bring are there.
    pub(super) fn set_up(&mut self, guests: &[GuestRequest]) -> Result<()> {
        let mut names: Vec<&str> = Vec::new();
        for guest in guests {
            match &guest.source {
                GuestSource::Own(name) if !self.own.contains_key(name) => names.push(name),
                GuestSource::Stock if self.stock.is_none() => {
                    self.stock = Some(StockGuest::set_up()?);
                }
                GuestSource::Own(_) | GuestSource::Stock | GuestSource::File(_) => {}
            }
        }
        names.sort_unstable();
        names.dedup();
        if !names.is_empty() {
            let built = cross::build(&names)?.into_iter().map(|image| image.flat);
            self.own
                .extend(names.into_iter().map(str::to_owned).zip(built));
        }
        Ok(())
    }

    /// Where the files of `guest` are. What it needs has been set up.
    pub(super) fn files(&self, guest: &GuestRequest) -> Files {
        let own_initrd = guest.initrd.clone();
        let (kernel, initrd) = match &guest.source {
            GuestSource::File(path) => (path.clone(), own_initrd),
            GuestSource::Own(name) => (self.own[name].clone(), own_initrd),
            GuestSource::Stock => {
                let stock = self.stock.as_ref().expect("`set_up` went over all guests");
                let initrd = if guest.virtio.is_empty() {
                    &stock.initrd
                } else {
                    &stock.initrd_with_drivers
                };
                let initrd = own_initrd.unwrap_or_else(|| initrd.clone());
                (stock.kernel.clone(), Some(initrd))
            }
        };
        Files { kernel, initrd }
    }

    pub(super) fn kernel(&mut self, path: &Path, ram: &Range<u64>) -> Result<Kernel> {
        let key = (path.to_path_buf(), ram.start, ram.end);
        if let Some(known) = self.kernels.get(&key) {
            return Ok(known.clone());
        }
        let kernel = Kernel::read(path, ram)?;
        Ok(self.kernels.entry(key).or_insert(kernel).clone())
    }

    pub(super) fn ramdisk(&mut self, path: &Path, is_linux: bool, memory: u64) -> Result<Contents> {
        let key = (path.to_path_buf(), is_linux, memory);
        if let Some(known) = self.ramdisks.get(&key) {
            return Ok(known.clone());
        }
        let contents = initrd::check(path, is_linux, memory)?;
        Ok(self.ramdisks.entry(key).or_insert(contents).clone())
    }
}
