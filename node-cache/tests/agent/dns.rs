//! Messages of DNS, as far as these tests need them.

/// Response codes that tell who answered: caches and the cluster DNS give different ones to every ordinary name.
pub(crate) const FROM_CACHE: u8 = 0;
pub(crate) const FROM_CLUSTER_DNS: u8 = 3;
pub(crate) const SERVFAIL: u8 = 2;

/// Builds a query for the A records of `name`.
pub(crate) fn query(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// Builds a response without records.
pub(crate) fn empty_response(query: &[u8], rcode: u8) -> Vec<u8> {
    let mut bytes = query.to_vec();
    bytes[2] |= 0x80;
    bytes[3] = 0x80 | rcode;
    bytes
}

/// Builds the response to `id.server. CH TXT`.
pub(crate) fn identity_response(query: &[u8], strings: &[&str]) -> Vec<u8> {
    let mut bytes = empty_response(query, 0);
    bytes[7] = 1;
    let data: Vec<u8> = strings.iter().flat_map(|text| [&[text.len() as u8], text.as_bytes()].concat()).collect();
    bytes.extend([0xc0, 0x0c, 0, 16, 0, 3, 0, 0, 0, 0]);
    bytes.extend((data.len() as u16).to_be_bytes());
    bytes.extend(data);
    bytes
}

pub(crate) fn is_identity_query(query: &[u8]) -> bool {
    query[12..].to_ascii_lowercase() == *b"\x02id\x06server\0\0\x10\0\x03"
}

pub(crate) fn is_root_query(query: &[u8]) -> bool {
    query.get(12) == Some(&0)
}

pub(crate) fn id(message: &[u8]) -> u16 {
    u16::from_be_bytes([message[0], message[1]])
}

pub(crate) fn rcode(response: &[u8]) -> u8 {
    response[3] & 0x0f
}
