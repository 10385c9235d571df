//! Queries, made as fast as they are sent. All names of one kind have equal length, so that their responses have, too.

use node_cache::dns::Name;
use node_cache::dns::codes::rtype;
use node_cache::dns::question::Question;

const A: u16 = 1;

/// Returns the question for the A records of a host; hits are measured with these names.
pub(crate) fn host_question(number: usize) -> Question {
    let name = format!("host-{number:07}.department.shop.example");
    Question::plain(&Name::from_text(&name).unwrap(), rtype::A)
}

/// Appends a query with ID 0. The name is in wire form, without its final zero.
pub(crate) fn append(name: &[u8], rtype: u16, out: &mut Vec<u8>) {
    // RD is set, one question, and no OPT record, as pods send it.
    out.extend_from_slice(&[0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(name);
    out.push(0);
    out.extend_from_slice(&rtype.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
}

/// Appends a query for the A records of `<number>.set-<a letter>.example`, where the number has ten digits. Sets,
/// from 0 to 25, have no name in common.
pub(crate) fn append_of_set(set: u8, mut number: u64, out: &mut Vec<u8>) {
    let label = [5, b's', b'e', b't', b'-', b'a' + set];
    let mut name = [10; 11 + 6 + 8];
    for digit in name[1..11].iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    name[11..17].copy_from_slice(&label);
    name[17..].copy_from_slice(b"\x07example");
    append(&name, A, out);
}

#[cfg(test)]
mod tests {
    use node_cache::dns::Name;

    use super::append_of_set;

    #[test]
    fn a_query_of_a_set_can_be_read() {
        let mut query = Vec::new();
        append_of_set(2, 1_234, &mut query);
        let (name, end) = Name::read_uncompressed(&query, 12).unwrap();
        assert_eq!(name, Name::from_text("0000001234.set-c.example").unwrap());
        assert_eq!(query[end..], [0, 1, 0, 1]);
        assert_eq!(query[..12], [0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    }
}
