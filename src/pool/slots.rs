//! Storage that gives each thing a small number, and lists threaded through it: getting, moving and removing an entry
//! costs the same however many there are, and nothing is allocated once the busiest moment has been seen.

use std::ops::{Index, IndexMut};

/// No entry.
pub(super) const NONE: u32 = u32::MAX;

/// Entries by slot. A freed slot keeps its last value until it is used again, so an index that was ever valid never fails.
#[derive(Clone, Debug)]
pub(super) struct Slab<T> {
    entries: Vec<T>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub(super) fn insert(&mut self, entry: T) -> u32 {
        if let Some(slot) = self.free.pop() {
            self[slot] = entry;
            return slot;
        }
        // Sockets run out long before slots do; should the slots run out, the last one stands in.
        let slot = u32::try_from(self.entries.len()).unwrap_or(NONE - 1);
        self.entries.push(entry);
        slot
    }

    /// The entry must be in no list any more.
    pub(super) fn remove(&mut self, slot: u32) {
        self.free.push(slot);
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;
    fn index(&self, slot: u32) -> &T {
        &self.entries[slot as usize]
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, slot: u32) -> &mut T {
        &mut self.entries[slot as usize]
    }
}

/// The neighbours of an entry in the one list that it is in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    before: u32,
    after: u32,
}

impl Default for Links {
    fn default() -> Self {
        Self { before: NONE, after: NONE }
    }
}

/// An entry that can be in a [`List`].
pub(super) trait Linked {
    fn links(&mut self) -> &mut Links;
    fn neighbours(&self) -> &Links;
}

/// A doubly linked list of slots of one [`Slab`].
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    head: u32,
    tail: u32,
    len: u32,
}

impl Default for List {
    fn default() -> Self {
        Self { head: NONE, tail: NONE, len: 0 }
    }
}

impl List {
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn first(&self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }

    pub(super) fn last(&self) -> Option<u32> {
        (self.tail != NONE).then_some(self.tail)
    }

    pub(super) fn push_front<T: Linked>(&mut self, slab: &mut Slab<T>, slot: u32) {
        *slab[slot].links() = Links { before: NONE, after: self.head };
        match self.head {
            NONE => self.tail = slot,
            head => slab[head].links().before = slot,
        }
        self.head = slot;
        self.len += 1;
    }

    pub(super) fn push_back<T: Linked>(&mut self, slab: &mut Slab<T>, slot: u32) {
        *slab[slot].links() = Links { before: self.tail, after: NONE };
        match self.tail {
            NONE => self.head = slot,
            tail => slab[tail].links().after = slot,
        }
        self.tail = slot;
        self.len += 1;
    }

    /// Puts `slot` before the first entry for which `goes_after` is true, at the end if there is none.
    pub(super) fn insert_before<T: Linked>(&mut self, slab: &mut Slab<T>, slot: u32, goes_after: impl Fn(&T) -> bool) {
        let mut at = self.head;
        while at != NONE && !goes_after(&slab[at]) {
            at = slab[at].neighbours().after;
        }
        if at == NONE {
            return self.push_back(slab, slot);
        }
        let before = slab[at].neighbours().before;
        if before == NONE {
            return self.push_front(slab, slot);
        }
        *slab[slot].links() = Links { before, after: at };
        slab[before].links().after = slot;
        slab[at].links().before = slot;
        self.len += 1;
    }

    /// Takes out an entry that is in this list.
    pub(super) fn remove<T: Linked>(&mut self, slab: &mut Slab<T>, slot: u32) {
        let Links { before, after } = *slab[slot].neighbours();
        match before {
            NONE => self.head = after,
            before => slab[before].links().after = after,
        }
        match after {
            NONE => self.tail = before,
            after => slab[after].links().before = before,
        }
        *slab[slot].links() = Links::default();
        self.len -= 1;
    }

    /// From first to last.
    pub(super) fn iter<'a, T: Linked>(&self, slab: &'a Slab<T>) -> impl Iterator<Item = u32> + use<'a, T> {
        let mut at = self.head;
        std::iter::from_fn(move || {
            let slot = (at != NONE).then_some(at)?;
            at = slab[slot].neighbours().after;
            Some(slot)
        })
    }

    /// The entry before this one, nearer to the front.
    pub(super) fn previous<T: Linked>(slab: &Slab<T>, slot: u32) -> Option<u32> {
        let before = slab[slot].neighbours().before;
        (before != NONE).then_some(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Entry(u32, Links);

    impl Linked for Entry {
        fn links(&mut self) -> &mut Links {
            &mut self.1
        }
        fn neighbours(&self) -> &Links {
            &self.1
        }
    }

    fn values(list: &List, slab: &Slab<Entry>) -> Vec<u32> {
        list.iter(slab).map(|slot| slab[slot].0).collect()
    }

    #[test]
    fn entries_keep_their_order_through_inserts_and_removals() {
        let mut slab = Slab::default();
        let mut list = List::default();
        let slots: Vec<u32> = (0..5).map(|value| slab.insert(Entry(value, Links::default()))).collect();
        list.push_back(&mut slab, slots[2]);
        list.push_front(&mut slab, slots[1]);
        list.push_back(&mut slab, slots[4]);
        list.insert_before(&mut slab, slots[3], |entry| entry.0 > 3);
        list.insert_before(&mut slab, slots[0], |entry| entry.0 > 0);
        assert_eq!(values(&list, &slab), [0, 1, 2, 3, 4]);
        for (gone, left) in [(2, vec![0, 1, 3, 4]), (0, vec![1, 3, 4]), (4, vec![1, 3]), (3, vec![1]), (1, vec![])] {
            list.remove(&mut slab, slots[gone]);
            assert_eq!(values(&list, &slab), left);
            assert_eq!(list.len() as usize, left.len());
            assert_eq!(list.last().map(|slot| slab[slot].0), left.last().copied());
        }
    }

    #[test]
    fn slots_are_used_again() {
        let mut slab = Slab::default();
        let first = slab.insert(1);
        slab.remove(first);
        assert_eq!(slab.insert(2), first);
        assert_eq!(slab[first], 2);
    }
}
