//! Sixteen octets at a time, as a number whose lowest octet is the first one.

/// Octets in lower case: letters between `A` and `Z` get the bit that a small letter has, and nothing else changes.
#[must_use]
#[inline]
pub fn lower_case(octets: u128) -> u128 {
    #[cfg(target_arch = "x86_64")]
    return simd::on(octets, |octets| simd::or(octets, simd::case_between(octets, b'A', b'Z')));
    #[cfg(not(target_arch = "x86_64"))]
    u128::from_le_bytes(octets.to_le_bytes().map(|octet| octet.to_ascii_lowercase()))
}

/// The bit that tells a small letter from a capital one, wherever there is a small one.
#[must_use]
#[inline]
pub fn case_of_small_letters(octets: u128) -> u128 {
    #[cfg(target_arch = "x86_64")]
    return simd::on(octets, |octets| simd::case_between(octets, b'a', b'z'));
    #[cfg(not(target_arch = "x86_64"))]
    u128::from_le_bytes(octets.to_le_bytes().map(|octet| if octet.is_ascii_lowercase() { 0x20 } else { 0 }))
}

/// SAFETY of all that is unsafe here: these instructions are in every x86-64 processor, and none of them reads or writes memory.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod simd {
    use std::arch::x86_64::{
        __m128i, _mm_and_si128, _mm_cmpgt_epi8, _mm_cvtsi128_si64, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8,
        _mm_unpackhi_epi64,
    };

    /// Does something to octets in a vector register.
    #[inline]
    pub(super) fn on(octets: u128, work: impl FnOnce(__m128i) -> __m128i) -> u128 {
        // SAFETY: see above.
        let low = work(unsafe { _mm_set_epi64x((octets >> 64) as i64, octets as i64) });
        // SAFETY: see above.
        let [low, high] = unsafe { [low, _mm_unpackhi_epi64(low, low)].map(|half| _mm_cvtsi128_si64(half) as u64) };
        u128::from(low) | (u128::from(high) << 64)
    }

    #[inline]
    pub(super) fn or(one: __m128i, other: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_or_si128(one, other) }
    }

    /// The bit of the case of letters in each octet that lies between these two, which are of ASCII.
    #[inline]
    pub(super) fn case_between(octets: __m128i, first: u8, last: u8) -> __m128i {
        // SAFETY: see above.
        unsafe {
            // Octets from 128 on count as negative, and so lie below.
            let from_first = _mm_cmpgt_epi8(octets, _mm_set1_epi8(first as i8 - 1));
            let to_last = _mm_cmpgt_epi8(_mm_set1_epi8(last as i8 + 1), octets);
            _mm_and_si128(_mm_and_si128(from_first, to_last), _mm_set1_epi8(0x20))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_put_into_lower_case_and_nothing_else() {
        for octet in 0..=255_u8 {
            let octets: [u8; 16] = std::array::from_fn(|place| octet.wrapping_add(17 * place as u8));
            let lower = lower_case(u128::from_le_bytes(octets)).to_le_bytes();
            assert_eq!(lower, octets.map(|octet| octet.to_ascii_lowercase()));
        }
    }

    #[test]
    fn small_letters_are_told_from_everything_else() {
        for octet in 0..=255_u8 {
            let octets: [u8; 16] = std::array::from_fn(|place| octet.wrapping_add((31 * place) as u8));
            let case = case_of_small_letters(u128::from_le_bytes(octets)).to_le_bytes();
            assert_eq!(case, octets.map(|octet| if octet.is_ascii_lowercase() { 0x20 } else { 0 }));
        }
    }
}
