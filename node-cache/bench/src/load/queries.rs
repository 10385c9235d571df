//! Questions about names that nobody asked before, made as fast as they are asked, and what is said to them.

use crate::servers::upstream::Said;

/// Addresses of each name.
const ADDRESSES: u8 = 4;
/// How long they live in seconds: longer than anything here takes.
const TTL: u32 = 3600;
const A: u16 = 1;

/// What the upstream says to all of them.
pub(crate) fn four_addresses(_name: &[u8], rtype: u16) -> Said {
    if rtype == A { Said::Addresses(ADDRESSES, TTL) } else { Said::Nothing(1, TTL) }
}

/// The question for the A records of a name, in wire form with its labels' lengths and without its final zero.
pub(crate) fn question(name: &[u8], rtype: u16, out: &mut Vec<u8>) {
    // RD is set, one question, and no OPT record: what pods send.
    out.extend_from_slice(&[0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(name);
    out.push(0);
    out.extend_from_slice(&rtype.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
}

/// A name of a set: each set has other ones.
pub(crate) fn of_set(set: u8, number: u64, out: &mut Vec<u8>) {
    numbered(&[5, b's', b'e', b't', b'-', b'a' + set], number, out);
}

/// `<10 digits>.<label>.example`.
fn numbered(label: &[u8], mut number: u64, out: &mut Vec<u8>) {
    let mut name = [10; 11 + 16 + 8];
    for digit in name[1..11].iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    let end = 11 + label.len();
    name[11..end].copy_from_slice(label);
    name[end..end + 8].copy_from_slice(b"\x07example");
    question(&name[..end + 8], A, out);
}
