//! The addresses of one family as numbers.

use super::Address;
use crate::keyed::KeyedHasher;

/// An address, or the prefix of one with zeros behind it.
pub(super) trait Bits: Copy + Ord {
    /// How many bits an address has.
    const LENGTH: u8;

    /// The same in a form that needs little alignment, so that entries of a table stay small.
    type Packed: Copy + Eq;

    fn pack(self) -> Self::Packed;
    fn unpack(packed: Self::Packed) -> Self;

    /// The bits of an address, if it belongs to this family.
    fn of(address: Address) -> Option<Self>;

    /// The first `length` bits.
    fn prefix(self, length: u8) -> Self;

    /// The keyed hash of a prefix of this length.
    fn hash(self, length: u8, key: &KeyedHasher) -> u64;
}

impl Bits for u32 {
    const LENGTH: u8 = 32;

    type Packed = Self;

    fn pack(self) -> Self {
        self
    }

    fn unpack(packed: Self) -> Self {
        packed
    }

    fn of(address: Address) -> Option<Self> {
        match address {
            Address::V4(bits, _) => Some(bits),
            Address::V6(..) => None,
        }
    }

    #[inline]
    fn prefix(self, length: u8) -> Self {
        self & Self::MAX.checked_shl(u32::from(Self::LENGTH - length)).unwrap_or(0)
    }

    #[inline]
    fn hash(self, length: u8, key: &KeyedHasher) -> u64 {
        let [a, b, c, d] = self.to_be_bytes();
        key.hash(&[a, b, c, d, length])
    }
}

impl Bits for u128 {
    const LENGTH: u8 = 128;

    type Packed = [u32; 4];

    fn pack(self) -> [u32; 4] {
        [self as u32, (self >> 32) as u32, (self >> 64) as u32, (self >> 96) as u32]
    }

    fn unpack(packed: [u32; 4]) -> Self {
        packed.into_iter().rev().fold(0, |bits, word| bits << 32 | Self::from(word))
    }

    fn of(address: Address) -> Option<Self> {
        match address {
            Address::V4(..) => None,
            Address::V6(bits, _) => Some(bits),
        }
    }

    #[inline]
    fn prefix(self, length: u8) -> Self {
        self & Self::MAX.checked_shl(u32::from(Self::LENGTH - length)).unwrap_or(0)
    }

    #[inline]
    fn hash(self, length: u8, key: &KeyedHasher) -> u64 {
        let mut bytes = [length; 17];
        bytes[1..].copy_from_slice(&self.to_be_bytes());
        // The usual prefixes have nothing in the low half.
        key.hash(if length <= 64 { &bytes[..9] } else { &bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::Bits;

    #[test]
    fn a_prefix_keeps_the_first_bits() {
        assert_eq!(0xffff_ffff_u32.prefix(0), 0);
        assert_eq!(0xffff_ffff_u32.prefix(8), 0xff00_0000);
        assert_eq!(0xffff_ffff_u32.prefix(32), 0xffff_ffff);
        assert_eq!(u128::MAX.prefix(0), 0);
        assert_eq!(u128::MAX.prefix(48), 0xffff_ffff_ffff << 80);
        assert_eq!(u128::MAX.prefix(128), u128::MAX);
    }

    #[test]
    fn what_is_packed_comes_back() {
        let bits = 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff_u128;
        assert_eq!(u128::unpack(bits.pack()), bits);
        assert_eq!(size_of::<(<u128 as Bits>::Packed, u32)>(), 20);
    }
}
