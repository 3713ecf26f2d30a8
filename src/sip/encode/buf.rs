//! A slice that is filled from its start.

/// Appends to a caller's slice. What does not fit is remembered, not written: see
/// [`Buf::finish`].
#[derive(Debug)]
pub struct Buf<'a> {
    bytes: &'a mut [u8],
    len: usize,
    overflow: bool,
}

impl<'a> Buf<'a> {
    /// An empty buffer over `bytes`.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, len: 0, overflow: false }
    }

    /// Appends `bytes`.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        match self.bytes.get_mut(self.len..self.len + bytes.len()) {
            Some(slot) => {
                slot.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            None => self.overflow = true,
        }
    }

    /// Appends `number` in decimal.
    pub fn put_number(&mut self, number: impl itoa::Integer) {
        self.put(itoa::Buffer::new().format(number).as_bytes());
    }

    /// Appends `number` as eight lower-case hexadecimal digits.
    pub fn put_hex(&mut self, number: u32) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0_u8; 8];
        for (i, digit) in text.iter_mut().enumerate() {
            *digit = DIGITS[(number >> (28 - 4 * i) & 0xf) as usize];
        }
        self.put(&text);
    }

    /// How much more fits.
    pub fn room(&self) -> usize {
        self.bytes.len() - self.len
    }

    /// What has been written, unless something did not fit.
    pub fn finish(&self) -> Option<usize> {
        (!self.overflow).then_some(self.len)
    }

    /// What has been written so far.
    pub fn written(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl crate::auth::challenge::Sink for Buf<'_> {
    fn put(&mut self, bytes: &[u8]) {
        Buf::put(self, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_to_the_last_octet_and_no_further() {
        let mut space = [0; 12];
        let mut buf = Buf::new(&mut space);
        buf.put(b"ab");
        buf.put_number(7_u32);
        buf.put_hex(0x1f);
        assert_eq!(buf.written(), b"ab70000001f");
        assert_eq!(buf.finish(), Some(11));
        buf.put(b"xy");
        assert_eq!(buf.finish(), None);
    }
}
