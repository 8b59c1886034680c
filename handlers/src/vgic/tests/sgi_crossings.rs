//! SGIs with senders, as GICv2 has them, while their target's owner looks.

use loom::{sync::Arc, thread};

use super::{
    crossings::{Owner, explore_v2},
    interface::SPURIOUS,
};
use crate::vgic::{Vgic, record::Record};

const SGI: u32 = 3;

/// vCPU `sender` sends the SGI to vCPU 0.
fn send(vgic: &Arc<Vgic>, sender: u32) {
    vgic.change(Some(0), SGI, |record| record.send_from_each(1 << sender));
}

/// Takes and ends what is pending at the owner, which looks as often as it is told to; the senders, a bit each.
fn take_all(owner: &mut Owner) -> u8 {
    let mut senders = 0;
    loop {
        owner.refresh_if_woken();
        let listed = owner.interface.list_registers[0];
        if owner.interface.acknowledge() == SPURIOUS {
            return senders;
        }
        assert_eq!(listed as u32, SGI);
        let sender = 1 << (listed >> 32 & 7);
        assert_eq!(senders & sender, 0, "one is taken twice");
        senders |= sender;
        owner.interface.end(SGI);
        if owner.interface.needs_maintenance() {
            let vgic = owner.vgic.clone();
            vgic.refresh(&mut owner.cpu, &mut owner.interface);
        }
    }
}

#[test]
fn loom_two_senders_of_an_sgi_are_two_interrupts() {
    explore_v2(|[mut owner, other]| {
        let vgic = owner.vgic.clone();
        vgic.change(Some(0), SGI, |record| record.set_group1(true));
        let second = vgic.clone();
        let senders = [
            thread::spawn(move || send(&vgic, 0)),
            thread::spawn(move || send(&second, 1)),
        ];
        owner.bind();
        let early = take_all(&mut owner);
        senders
            .into_iter()
            .for_each(|sender| sender.join().unwrap());
        let late = take_all(&mut owner);
        assert_eq!((early & late, early | late), (0, 0b11));
        drop(other);
    });
}

/// It is taken or taken back, and never both or neither; that of another sender stays.
#[test]
fn loom_an_sgi_is_taken_back_from_one_sender() {
    explore_v2(|[mut owner, other]| {
        let vgic = owner.vgic.clone();
        vgic.change(Some(0), SGI, |record| record.set_group1(true));
        send(&vgic, 0);
        send(&vgic, 1);
        owner.bind();
        let taker = thread::spawn(move || {
            let take_back = |record: Record| record.take_back_from_each(0b01);
            other.vgic.change(Some(0), SGI, take_back);
        });
        let early = take_all(&mut owner);
        taker.join().unwrap();
        let late = take_all(&mut owner);
        assert_eq!((early & late, (early | late) & 0b10), (0, 0b10));
        vgic.refresh(&mut owner.cpu, &mut owner.interface);
        let record = vgic.record(Some(0), SGI).unwrap().load();
        assert_eq!((record.pending_sources(), record.is_pending()), (0, false));
    });
}
