//! Which device of the guest serves which interface of the namespace.

use hull_vm::MacAddress;
use serde::{Deserialize, Serialize};

/// A network device of the guest. Interfaces are known by their indexes, which the kernel does not use again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slot {
    /// The other end of the device, in the namespace.
    pub(super) tap: i32,
    /// The hardware address that the device was made with.
    device: [u8; 6],
    /// The interface whose place the device takes; without one it is a spare.
    pub(super) serves: Option<i32>,
}

/// A tap that is to lead somewhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) tap: i32,
    pub(super) from: Option<i32>,
    pub(super) to: Option<i32>,
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

    pub(super) fn device(&self) -> MacAddress {
        MacAddress(self.device)
    }
}

/// Lets the slots serve the interfaces that there are. One that is served stays where it is.
///
/// Returns what has to be moved for that, and the interfaces that are left without a slot.
pub(super) fn assign(slots: &mut [Slot], interfaces: &[i32]) -> (Vec<Move>, Vec<i32>) {
    let before: Vec<Slot> = slots.to_vec();
    for slot in slots.iter_mut() {
        slot.serves = slot.serves.filter(|index| interfaces.contains(index));
    }
    let mut left_out = Vec::new();
    for &interface in interfaces {
        if slots.iter().any(|slot| slot.serves == Some(interface)) {
            continue;
        }
        match slots.iter_mut().find(|slot| slot.serves.is_none()) {
            Some(free) => free.serves = Some(interface),
            None => left_out.push(interface),
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
            serves: *serves,
            ..Slot::new(number, 100 + i32::from(number))
        });
        slots.collect()
    }

    fn served(slots: &[Slot]) -> Vec<Option<i32>> {
        slots.iter().map(|slot| slot.serves).collect()
    }

    #[test]
    fn an_interface_that_appears_takes_a_spare() {
        let mut slots = slots(&[Some(2), None]);
        let (moves, left_out) = assign(&mut slots, &[2, 7]);
        assert_eq!(served(&slots), [Some(2), Some(7)]);
        let (tap, from, to) = (101, None, Some(7));
        assert_eq!(moves, [Move { tap, from, to }]);
        assert!(left_out.is_empty());
        assert_eq!(assign(&mut slots, &[2, 7]), (vec![], vec![]));
    }

    #[test]
    fn an_interface_that_vanishes_leaves_a_spare() {
        let mut slots = slots(&[Some(2), Some(7)]);
        let (moves, _) = assign(&mut slots, &[7]);
        assert_eq!(served(&slots), [None, Some(7)]);
        let (tap, from, to) = (100, Some(2), None);
        assert_eq!(moves, [Move { tap, from, to }]);
    }

    #[test]
    fn one_takes_the_place_of_another_at_once() {
        let mut slots = slots(&[Some(2), Some(7)]);
        let (moves, left_out) = assign(&mut slots, &[9, 2, 10]);
        assert_eq!(served(&slots), [Some(2), Some(9)]);
        let (tap, from, to) = (101, Some(7), Some(9));
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
