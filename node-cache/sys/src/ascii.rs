//! ASCII case of sixteen bytes at a time. The bytes are a `u128` whose lowest byte is the first one.

/// Converts the letters `A` to `Z` among sixteen bytes to lower case; all other bytes stay.
#[must_use]
#[inline]
pub fn to_lowercase(bytes: u128) -> u128 {
    #[cfg(target_arch = "x86_64")]
    return simd::map(bytes, |bytes| simd::or(bytes, simd::case_bits(bytes, b'A', b'Z')));
    #[cfg(not(target_arch = "x86_64"))]
    u128::from_le_bytes(bytes.to_le_bytes().map(|byte| byte.to_ascii_lowercase()))
}

/// Returns the ASCII case bit (0x20) of each byte that is a lower-case letter, and zeros elsewhere.
#[must_use]
#[inline]
pub fn lowercase_mask(bytes: u128) -> u128 {
    #[cfg(target_arch = "x86_64")]
    return simd::map(bytes, |bytes| simd::case_bits(bytes, b'a', b'z'));
    #[cfg(not(target_arch = "x86_64"))]
    u128::from_le_bytes(bytes.to_le_bytes().map(|byte| if byte.is_ascii_lowercase() { 0x20 } else { 0 }))
}

/// SSE2 instructions. SAFETY of all unsafe code in here: every x86-64 processor has these instructions, and none of
/// them reads or writes memory.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod simd {
    use std::arch::x86_64::{
        __m128i, _mm_and_si128, _mm_cmpgt_epi8, _mm_cvtsi128_si64, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8,
        _mm_unpackhi_epi64,
    };

    /// Applies `operation` to sixteen bytes in a vector register.
    #[inline]
    pub(super) fn map(bytes: u128, operation: impl FnOnce(__m128i) -> __m128i) -> u128 {
        // SAFETY: see the module.
        let low = operation(unsafe { _mm_set_epi64x((bytes >> 64) as i64, bytes as i64) });
        // SAFETY: see the module.
        let [low, high] = unsafe { [low, _mm_unpackhi_epi64(low, low)].map(|half| _mm_cvtsi128_si64(half) as u64) };
        u128::from(low) | (u128::from(high) << 64)
    }

    #[inline]
    pub(super) fn or(left: __m128i, right: __m128i) -> __m128i {
        // SAFETY: see the module.
        unsafe { _mm_or_si128(left, right) }
    }

    /// The case bit of each byte between `first` and `last`, both of them ASCII and inclusive.
    #[inline]
    pub(super) fn case_bits(bytes: __m128i, first: u8, last: u8) -> __m128i {
        // SAFETY: see the module.
        unsafe {
            // The comparison is signed: bytes from 128 on count as negative, and so are below `first`.
            let from_first = _mm_cmpgt_epi8(bytes, _mm_set1_epi8(first as i8 - 1));
            let to_last = _mm_cmpgt_epi8(_mm_set1_epi8(last as i8 + 1), bytes);
            _mm_and_si128(_mm_and_si128(from_first, to_last), _mm_set1_epi8(0x20))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_put_into_lower_case_and_nothing_else() {
        for byte in 0..=255_u8 {
            let bytes: [u8; 16] = std::array::from_fn(|index| byte.wrapping_add(17 * index as u8));
            let lower = to_lowercase(u128::from_le_bytes(bytes)).to_le_bytes();
            assert_eq!(lower, bytes.map(|byte| byte.to_ascii_lowercase()));
        }
    }

    #[test]
    fn lower_case_letters_are_distinguished_from_everything_else() {
        for byte in 0..=255_u8 {
            let bytes: [u8; 16] = std::array::from_fn(|index| byte.wrapping_add((31 * index) as u8));
            let mask = lowercase_mask(u128::from_le_bytes(bytes)).to_le_bytes();
            assert_eq!(mask, bytes.map(|byte| if byte.is_ascii_lowercase() { 0x20 } else { 0 }));
        }
    }
}
