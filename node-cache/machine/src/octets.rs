//! Sixteen octets at a time, as a number whose lowest octet is the first one.

/// Octets in lower case: letters between `A` and `Z` get the bit that a small letter has, and nothing else changes.
#[must_use]
#[inline]
#[allow(unsafe_code)]
pub fn lower_case(octets: u128) -> u128 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: these instructions are in every x86-64 processor, and none of them reads or writes memory.
    unsafe {
        use std::arch::x86_64::{
            _mm_and_si128, _mm_cmpgt_epi8, _mm_cvtsi128_si64, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8,
            _mm_unpackhi_epi64,
        };
        let each = _mm_set_epi64x((octets >> 64) as i64, octets as i64);
        // Octets from 128 on count as negative, and so are no letters.
        let from_a = _mm_cmpgt_epi8(each, _mm_set1_epi8(b'A' as i8 - 1));
        let to_z = _mm_cmpgt_epi8(_mm_set1_epi8(b'Z' as i8 + 1), each);
        let bit = _mm_and_si128(_mm_and_si128(from_a, to_z), _mm_set1_epi8(0x20));
        let lower = _mm_or_si128(each, bit);
        let high = _mm_unpackhi_epi64(lower, lower);
        u128::from(_mm_cvtsi128_si64(lower) as u64) | (u128::from(_mm_cvtsi128_si64(high) as u64) << 64)
    }
    #[cfg(not(target_arch = "x86_64"))]
    u128::from_le_bytes(octets.to_le_bytes().map(|octet| octet.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::lower_case;

    #[test]
    fn letters_are_put_into_lower_case_and_nothing_else() {
        for octet in 0..=255_u8 {
            let octets: [u8; 16] = std::array::from_fn(|place| octet.wrapping_add(17 * place as u8));
            let lower = lower_case(u128::from_le_bytes(octets)).to_le_bytes();
            assert_eq!(lower, octets.map(|octet| octet.to_ascii_lowercase()));
        }
    }
}
