//! Ordered rows of one replica, as its state machine sees them.

use bytes::Bytes;

/// A consistent snapshot of a replica's rows.
pub struct Rows<'a> {
    _todo: std::marker::PhantomData<&'a ()>,
}

/// A replica's rows inside the transaction that applies commands; reads see the writes before them.
pub struct RowsMut<'a> {
    _todo: std::marker::PhantomData<&'a mut ()>,
}

impl Rows<'_> {
    /// The value of `key`.
    pub fn get(&self, key: &[u8]) -> Option<Bytes> {
        let _ = key;
        todo!()
    }

    /// The first row with `from <= key < to`.
    pub fn first(&self, from: &[u8], to: &[u8]) -> Option<(Bytes, Bytes)> {
        let _ = (from, to);
        todo!()
    }

    /// Visit rows with `from <= key < to` in order until `visit` returns false.
    pub fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        let _ = (from, to, visit);
        todo!()
    }
}

impl RowsMut<'_> {
    /// The value of `key`.
    pub fn get(&self, key: &[u8]) -> Option<Bytes> {
        let _ = key;
        todo!()
    }

    /// The first row with `from <= key < to`.
    pub fn first(&self, from: &[u8], to: &[u8]) -> Option<(Bytes, Bytes)> {
        let _ = (from, to);
        todo!()
    }

    /// Visit rows with `from <= key < to` in order until `visit` returns false.
    pub fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        let _ = (from, to, visit);
        todo!()
    }

    /// Set `key` to `value`.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        let _ = (key, value);
        todo!()
    }

    /// Remove `key` if it is there.
    pub fn remove(&mut self, key: &[u8]) {
        let _ = key;
        todo!()
    }
}

/// Rows in memory behind the same types: for the unit tests of state machines.
pub struct MemoryRows {
    _todo: (),
}

impl Default for MemoryRows {
    fn default() -> MemoryRows {
        todo!()
    }
}

impl MemoryRows {
    /// Rows for [`StateMachine::query`](crate::StateMachine::query).
    pub fn rows(&self) -> Rows<'_> {
        todo!()
    }

    /// Rows for [`StateMachine::apply`](crate::StateMachine::apply).
    pub fn rows_mut(&mut self) -> RowsMut<'_> {
        todo!()
    }
}
