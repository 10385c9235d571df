//! Addresses on the loopback interface.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

/// Returns an address of 127.0.0.1 with a UDP port that is free now.
pub(crate) fn free_address() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Returns the address of a port of 127.0.0.1 that a child process printed.
pub(crate) fn address_of_port(port: &str) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port.trim().parse::<u16>().unwrap()).into()
}

#[cfg(test)]
mod tests {
    use super::address_of_port;

    #[test]
    fn a_printed_port_is_an_address_of_loopback() {
        assert_eq!(address_of_port("5353\n").to_string(), "127.0.0.1:5353");
    }
}
