//! A physical interrupt that is taken while its vCPU, or another one, does something about it, in every order.

use std::sync::Arc;

use loom::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};
use trapline_vcpu::interrupts::VirtualCpuInterface;

use super::crossings::{FIRST, LOOKS, Look, Owner, explore_with};
use crate::vgic::{PhysicalInterrupts, PhysicalSetup, record::Record};

const PHYSICAL: u32 = 77;

/// The physical interrupt, whose line is high.
#[derive(Default)]
struct Pin {
    is_enabled: AtomicBool,
    is_active: AtomicBool,
}

impl PhysicalInterrupts for Pin {
    fn configure(&self, physical: u32, setup: PhysicalSetup) {
        assert_eq!(physical, PHYSICAL);
        self.is_enabled.store(setup.is_enabled, Ordering::Release);
    }

    fn clear_edge(&self, physical: u32) {
        assert_eq!(physical, PHYSICAL);
    }

    fn deactivate(&self, physical: u32) {
        assert_eq!(physical, PHYSICAL);
        assert!(self.is_active.swap(false, Ordering::AcqRel));
    }
}

impl Pin {
    /// The host takes the interrupt.
    fn take(&self) {
        assert!(!self.is_active.swap(true, Ordering::AcqRel));
    }
}

fn explore(model: impl Fn([Owner; 2], Arc<Pin>) + Send + Sync + 'static) {
    explore_with(
        |vgic| {
            let pin = Arc::new(Pin::default());
            let vgic = vgic.with_physical_interrupts(pin.clone());
            let place = vgic.physical.as_ref().and_then(|all| all.place(FIRST));
            place.unwrap().store(PHYSICAL, Ordering::Release);
            (vgic, pin)
        },
        move |owners, pin| {
            owners[0]
                .vgic
                .change(None, FIRST, |record| record.set_edge(false));
            model(owners, pin);
        },
    );
}

/// The guest is in the handler of the interrupt's first occurrence, and ends it.
fn take_and_end(owner: &mut Owner, pin: &Pin) {
    pin.take();
    owner.vgic.raise_physical(FIRST);
    owner.bind();
    owner.refresh_if_woken();
    assert_eq!(owner.interface.acknowledge(), FIRST);
    owner.interface.end(FIRST);
    assert_eq!(owner.interface.physical_ends, [PHYSICAL]);
    pin.deactivate(PHYSICAL);
}

#[test]
fn loom_one_that_comes_again_while_the_last_is_folded_is_not_lost() {
    for look in LOOKS {
        one_that_comes_again_while_the_last_is_folded_is_not_lost(look);
    }
}

fn one_that_comes_again_while_the_last_is_folded_is_not_lost(look: Look) {
    explore(move |[mut owner, other], pin| {
        take_and_end(&mut owner, &pin);
        let host = pin.clone();
        let device = thread::spawn(move || {
            host.take();
            other.vgic.raise_physical(FIRST);
        });
        look(&owner.vgic, &mut owner.cpu, &mut owner.interface);
        device.join().unwrap();
        owner.refresh_if_woken();
        assert_eq!(owner.listed(FIRST), 1);
        assert_ne!(owner.interface.list_register(0) & 1 << 61, 0);
        assert!(pin.is_active.load(Ordering::Acquire));
    });
}

#[test]
fn loom_one_that_comes_while_its_vcpu_is_unbound_is_not_lost() {
    explore(|[mut owner, other], pin| {
        take_and_end(&mut owner, &pin);
        let host = pin.clone();
        let device = thread::spawn(move || {
            host.take();
            other.vgic.raise_physical(FIRST);
        });
        let vgic = owner.vgic.clone();
        vgic.unbind(&mut owner.cpu, &mut owner.interface);
        device.join().unwrap();
        owner.bind();
        assert_eq!(owner.listed(FIRST), 1);
        assert!(pin.is_active.load(Ordering::Acquire));
    });
}

#[test]
fn loom_one_that_comes_while_it_is_disabled_is_given_back() {
    explore(|[mut owner, other], pin| {
        let vgic = owner.vgic.clone();
        let host = pin.clone();
        let device = thread::spawn(move || {
            host.take();
            other.vgic.raise_physical(FIRST);
        });
        owner.bind();
        vgic.change(None, FIRST, |record| record.set_enabled(false));
        device.join().unwrap();
        owner.refresh_if_woken();
        assert_eq!(owner.listed(FIRST), 0);
        assert!(!pin.is_enabled.load(Ordering::Acquire));
        assert!(!pin.is_active.load(Ordering::Acquire));
    });
}

/// An edge does not come again by itself: whether it was taken before it is disabled or after, it is there when it is enabled again.
#[test]
fn loom_an_edge_that_comes_while_it_is_disabled_stays_pending() {
    explore(|[mut owner, other], pin| {
        let vgic = owner.vgic.clone();
        vgic.change(None, FIRST, |record| record.set_edge(true));
        let host = pin.clone();
        let device = thread::spawn(move || {
            host.take();
            other.vgic.raise_physical(FIRST);
        });
        owner.bind();
        vgic.change(None, FIRST, |record| record.set_enabled(false));
        device.join().unwrap();
        owner.refresh_if_woken();
        assert!(!pin.is_active.load(Ordering::Acquire));
        vgic.change(None, FIRST, |record| record.set_enabled(true));
        owner.refresh_if_woken();
        assert_eq!(owner.listed(FIRST), 1);
        assert_eq!(owner.interface.list_register(0) & 1 << 61, 0);
    });
}

/// Whichever of two vCPUs that enable and disable the interrupt is last, the physical one is as the record says.
#[test]
fn loom_a_record_and_its_physical_interrupt_agree() {
    explore(|[owner, other], pin| {
        let writer = thread::spawn(move || {
            let disable = |record: Record| record.set_enabled(false);
            other.vgic.change(None, FIRST, disable);
        });
        let vgic = owner.vgic.clone();
        vgic.change(None, FIRST, |record| record.set_enabled(false));
        vgic.change(None, FIRST, |record| record.set_enabled(true));
        writer.join().unwrap();
        let is_enabled = vgic.record(None, FIRST).unwrap().load().is_enabled();
        assert_eq!(pin.is_enabled.load(Ordering::Acquire), is_enabled);
    });
}
