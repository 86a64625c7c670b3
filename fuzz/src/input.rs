//! Numbers and texts from the front of an input. What is not there is zero or empty, so that every input says something.
//!
//! Must not: fail.

/// What is left of an input.
pub struct Input<'b>(pub &'b [u8]);

impl<'b> Input<'b> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.bytes(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    /// At most `count` bytes.
    pub fn bytes(&mut self, count: usize) -> &'b [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// One byte.
    pub fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    /// Eight bytes, little-endian.
    pub fn i64(&mut self) -> i64 {
        i64::from_le_bytes(self.array())
    }

    /// Bytes up to the next zero, which is taken too, or up to the end.
    pub fn until_zero(&mut self) -> &'b [u8] {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        let taken = self.bytes(end);
        self.bytes(1);
        taken
    }
}
