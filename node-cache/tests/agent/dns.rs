//! The few bytes of DNS that these tests need.

/// Who answers: the two give different response codes to every ordinary name.
pub(crate) const FROM_CACHE: u8 = 0;
pub(crate) const FROM_CLUSTER_DNS: u8 = 3;
pub(crate) const SERVFAIL: u8 = 2;

/// A question for the A records of `name`.
pub(crate) fn question(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// The bytes of an answer without records.
pub(crate) fn answer(question: &[u8], rcode: u8) -> Vec<u8> {
    let mut bytes = question.to_vec();
    bytes[2] |= 0x80;
    bytes[3] = 0x80 | rcode;
    bytes
}

/// The answer to `id.server. CH TXT`.
pub(crate) fn identity(question: &[u8], strings: &[&str]) -> Vec<u8> {
    let mut bytes = answer(question, 0);
    bytes[7] = 1;
    let data: Vec<u8> = strings.iter().flat_map(|text| [&[text.len() as u8], text.as_bytes()].concat()).collect();
    bytes.extend([0xc0, 0x0c, 0, 16, 0, 3, 0, 0, 0, 0]);
    bytes.extend((data.len() as u16).to_be_bytes());
    bytes.extend(data);
    bytes
}

pub(crate) fn asks_for_identity(question: &[u8]) -> bool {
    question[12..].to_ascii_lowercase() == *b"\x02id\x06server\0\0\x10\0\x03"
}

pub(crate) fn asks_for_root(question: &[u8]) -> bool {
    question.get(12) == Some(&0)
}

pub(crate) fn id_of(message: &[u8]) -> u16 {
    u16::from_be_bytes([message[0], message[1]])
}

pub(crate) fn rcode_of(answer: &[u8]) -> u8 {
    answer[3] & 0x0f
}
