//! Which device of the guest serves which interface of the namespace.

use hull_vm::MacAddress;
use serde::{Deserialize, Serialize};

/// An interface of the namespace, known by its index, which the kernel does not use again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Link {
    pub(super) index: i32,
    /// Whether it took the frames of all multicast groups before a device took its place.
    pub(super) all_multicast: bool,
}

/// A network device of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slot {
    /// The other end of the device, in the namespace.
    pub(super) tap: i32,
    /// The hardware address that the device was made with.
    device: [u8; 6],
    /// The interface whose place the device takes; without one it is a spare.
    pub(super) serves: Option<Link>,
}

/// A tap that is to lead somewhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) tap: i32,
    pub(super) from: Option<Link>,
    pub(super) to: Option<Link>,
}

impl Slot {
    /// The `number`th device of a guest, which serves nobody.
    pub(super) fn new(number: u8, tap: i32) -> Self {
        Self {
            tap,
            device: [0x02, 0x48, 0x75, 0x6c, 0x73, number],
            serves: None,
        }
    }

    /// Lets the tap lead to where it should lead already.
    pub(super) fn again(&self) -> Move {
        Move {
            tap: self.tap,
            from: None,
            to: self.serves,
        }
    }

    /// Whether it takes the place of the interface with this index.
    pub(super) fn is_for(&self, index: i32) -> bool {
        self.serves.is_some_and(|link| link.index == index)
    }

    pub(super) fn device(&self) -> MacAddress {
        MacAddress(self.device)
    }
}

/// Lets the slots serve the interfaces that there are. One that is served stays where it is.
///
/// Returns what has to be moved for that, and the interfaces that are left without a slot.
pub(super) fn assign(slots: &mut [Slot], links: &[Link]) -> (Vec<Move>, Vec<i32>) {
    let before: Vec<Slot> = slots.to_vec();
    for slot in slots.iter_mut() {
        let is_there = |served: &Link| links.iter().any(|link| link.index == served.index);
        slot.serves = slot.serves.filter(is_there);
    }
    let mut left_out = Vec::new();
    for &link in links {
        if slots.iter().any(|slot| slot.is_for(link.index)) {
            continue;
        }
        match slots.iter_mut().find(|slot| slot.serves.is_none()) {
            Some(free) => free.serves = Some(link),
            None => left_out.push(link.index),
        }
    }
    let moves = before
        .iter()
        .zip(slots.iter())
        .filter(|(before, after)| before.serves != after.serves)
        .map(|(before, after)| Move {
            tap: after.tap,
            from: before.serves,
            to: after.serves,
        });
    (moves.collect(), left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(serves: &[Option<i32>]) -> Vec<Slot> {
        let slots = (0_u8..).zip(serves).map(|(number, serves)| Slot {
            serves: serves.map(link),
            ..Slot::new(number, 100 + i32::from(number))
        });
        slots.collect()
    }

    fn link(index: i32) -> Link {
        Link {
            index,
            all_multicast: false,
        }
    }

    fn served(slots: &[Slot]) -> Vec<Option<i32>> {
        let served = slots.iter().map(|slot| slot.serves);
        served.map(|link| link.map(|link| link.index)).collect()
    }

    #[test]
    fn an_interface_that_appears_takes_a_spare() {
        let mut slots = slots(&[Some(2), None]);
        let (moves, left_out) = assign(&mut slots, &[2, 7].map(link));
        assert_eq!(served(&slots), [Some(2), Some(7)]);
        let (tap, from, to) = (101, None, Some(link(7)));
        assert_eq!(moves, [Move { tap, from, to }]);
        assert!(left_out.is_empty());
        assert_eq!(assign(&mut slots, &[2, 7].map(link)), (vec![], vec![]));
    }

    #[test]
    fn an_interface_that_vanishes_leaves_a_spare() {
        let mut slots = slots(&[Some(2), Some(7)]);
        let (moves, _) = assign(&mut slots, &[7].map(link));
        assert_eq!(served(&slots), [None, Some(7)]);
        let (tap, from, to) = (100, Some(link(2)), None);
        assert_eq!(moves, [Move { tap, from, to }]);
    }

    #[test]
    fn one_takes_the_place_of_another_at_once() {
        let mut slots = slots(&[Some(2), Some(7)]);
        let (moves, left_out) = assign(&mut slots, &[9, 2, 10].map(link));
        assert_eq!(served(&slots), [Some(2), Some(9)]);
        let (tap, from, to) = (101, Some(link(7)), Some(link(9)));
        assert_eq!(moves, [Move { tap, from, to }]);
        assert_eq!(left_out, [10]);
    }

    #[test]
    fn devices_have_addresses_of_their_own() {
        let slots = slots(&[None, None, None]);
        let addresses: std::collections::HashSet<_> = slots.iter().map(Slot::device).collect();
        assert_eq!(addresses.len(), slots.len());
    }
}
