//! Server cookies (RFC 7873) in the interoperable format (RFC 9018). A client that returns a valid cookie has received
//! responses at its address before. No query is refused for want of a cookie: every response to a query with a cookie
//! has the full cookie.
//!
//! All caches of a node share one secret, so that any of them may answer a client.

use std::hash::Hasher;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher24;

use crate::dns::cookie::{self, Cookie};

const VERSION: u8 = 1;
/// The maximum age of a valid cookie, in seconds (RFC 9018 §4.3).
const MAX_AGE: u32 = 3600;
/// The maximum time that a valid cookie may be ahead of our clock, in seconds (RFC 9018 §4.3).
const MAX_CLOCK_SKEW: u32 = 300;
/// Age in seconds from which a cookie is replaced by a new one.
const RENEW_AGE: u32 = 1800;

/// Secret of the server cookies, known to the caches of one node only.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CookieSecret([u8; 16]);

impl CookieSecret {
    /// Generates a random secret.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// Computes the server cookie for a client cookie and address. `time` is in seconds modulo 2³², on the clock that
    /// all caches with the secret share.
    fn server_cookie(self, client: [u8; cookie::CLIENT_COOKIE_LEN], address: IpAddr, time: u32) -> [u8; 16] {
        let [a, b, c, d] = time.to_be_bytes();
        let prefix = [VERSION, 0, 0, 0, a, b, c, d];
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(&client);
        hasher.write(&prefix);
        match address {
            IpAddr::V4(address) => hasher.write(&address.octets()),
            IpAddr::V6(address) => hasher.write(&address.octets()),
        }
        let mut server_cookie = [0; 16];
        let (prefix_octets, hash_octets) = server_cookie.split_at_mut(8);
        prefix_octets.copy_from_slice(&prefix);
        hash_octets.copy_from_slice(&hasher.finish().to_le_bytes());
        server_cookie
    }
}

impl std::fmt::Debug for CookieSecret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("CookieSecret")
    }
}

/// The current secret and the previous one, whose cookies are still valid. Without a secret, cookies are ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CookieSecrets {
    current: Option<CookieSecret>,
    previous: Option<CookieSecret>,
}

/// Reply to the cookie of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CookieReply {
    /// The client cookie and our server cookie.
    pub cookie: Cookie,
    /// Whether the cookie of the query was valid: it had no server cookie, or one that we made.
    pub is_valid: bool,
}

impl CookieSecrets {
    /// Makes `secret` the current one; returns whether it differs from the one before.
    pub fn rotate(&mut self, secret: CookieSecret) -> bool {
        let has_changed = self.current != Some(secret);
        if has_changed {
            self.previous = self.current.replace(secret);
        }
        has_changed
    }

    /// Verifies the cookie of a client at `address` and returns the reply; `None` without a secret. `now` is in
    /// seconds.
    #[must_use]
    pub fn reply(&self, cookie: &Cookie, address: IpAddr, now: u32) -> Option<CookieReply> {
        let current = self.current?;
        let client = cookie.client_cookie();
        let received = cookie.as_octets();
        let timely = creation_time(received).filter(|time| {
            let age = now.wrapping_sub(*time) as i32;
            (-i64::from(MAX_CLOCK_SKEW)..=i64::from(MAX_AGE)).contains(&i64::from(age))
        });
        let is_made_with =
            |secret: CookieSecret, time| received.ends_with(&secret.server_cookie(client, address, time));
        let made_with_current = timely.filter(|time| is_made_with(current, *time));
        let is_ours = made_with_current.is_some()
            || timely.is_some_and(|time| self.previous.is_some_and(|previous| is_made_with(previous, time)));
        // A cookie near its maximum age, or of the previous secret, is replaced by a new one.
        let time = made_with_current.filter(|time| (now.wrapping_sub(*time) as i32) < RENEW_AGE as i32).unwrap_or(now);
        let mut full_cookie = [0; cookie::COOKIE_LEN];
        let (client_octets, server_octets) = full_cookie.split_at_mut(cookie::CLIENT_COOKIE_LEN);
        client_octets.copy_from_slice(&client);
        server_octets.copy_from_slice(&current.server_cookie(client, address, time));
        let is_valid = is_ours || received.len() == cookie::CLIENT_COOKIE_LEN;
        Some(CookieReply { cookie: Cookie::read(&full_cookie), is_valid })
    }
}

/// Returns the creation time in a full cookie of the interoperable format; `None` for any other cookie.
fn creation_time(cookie: &[u8]) -> Option<u32> {
    let cookie: &[u8; cookie::COOKIE_LEN] = cookie.try_into().ok()?;
    let [_, _, _, _, _, _, _, _, VERSION, 0, 0, 0, time @ ..] = cookie else { return None };
    time.first_chunk().map(|time| u32::from_be_bytes(*time))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: [u8; 8] = [0x24, 0x64, 0xc4, 0xab, 0xcf, 0x10, 0xc9, 0x57];
    /// The first example of RFC 9018, appendix A.
    const NOW: u32 = 1_559_731_985;
    const SECRET: CookieSecret = CookieSecret(0xe5e9_73e5_a6b2_a43f_48e7_dc84_9e37_bfcf_u128.to_be_bytes());
    const SERVER_COOKIE: u128 = 0x0100_0000_5cf7_9f11_1f81_30c3_eee2_9480;

    fn address() -> IpAddr {
        "198.51.100.100".parse().unwrap()
    }

    fn secrets() -> CookieSecrets {
        let mut secrets = CookieSecrets::default();
        assert!(secrets.rotate(SECRET) && !secrets.rotate(SECRET));
        secrets
    }

    fn first_cookie() -> Cookie {
        secrets().reply(&Cookie::read(&CLIENT), address(), NOW).unwrap().cookie
    }

    #[test]
    fn server_cookies_are_those_of_the_examples_of_the_standard() {
        assert_eq!(first_cookie().as_octets(), [&CLIENT[..], &SERVER_COOKIE.to_be_bytes()].concat());
        // The last example: a secret and the one that follows it, over IPv6.
        let client = 0x2268_1ab9_7d52_c298_u64.to_be_bytes();
        let address = "2001:db8:220:1:59de:d0f4:8769:82b8".parse().unwrap();
        for (secret, time, server_cookie) in [
            (
                0xdd3b_df93_44b6_78b1_85a6_f5cb_60fc_a715_u128,
                0x5cf7_c579,
                0x0100_0000_5cf7_c579_2655_6bd0_934c_72f8_u128,
            ),
            (0x4455_36bc_d251_3298_075a_5d37_9663_c962, 0x5cf7_c609, 0x0100_0000_5cf7_c609_a6bb_79d1_6625_507a),
        ] {
            assert_eq!(
                CookieSecret(secret.to_be_bytes()).server_cookie(client, address, time),
                server_cookie.to_be_bytes()
            );
        }
    }

    #[test]
    fn a_cookie_is_valid_for_an_hour_and_is_renewed_after_half_of_it() {
        let reply = |later: u32| secrets().reply(&first_cookie(), address(), NOW.wrapping_add(later)).unwrap();
        for (later, is_valid, is_unchanged) in [
            (0, true, true),
            (1799, true, true),
            (1800, true, false),
            (3600, true, false),
            (3601, false, false),
            (300_u32.wrapping_neg(), true, true),
            (301_u32.wrapping_neg(), false, false),
            (1 << 31, false, false),
        ] {
            let reply = reply(later);
            assert_eq!((reply.is_valid, reply.cookie == first_cookie()), (is_valid, is_unchanged), "{later}");
        }
    }

    #[test]
    fn a_cookie_that_we_did_not_make_for_this_address_is_not_valid() {
        let other_address = "198.51.100.101".parse().unwrap();
        assert!(!secrets().reply(&first_cookie(), other_address, NOW).unwrap().is_valid);
        for index in 0..cookie::COOKIE_LEN {
            let mut octets = first_cookie().as_octets().to_vec();
            octets[index] ^= 1;
            assert!(!secrets().reply(&Cookie::read(&octets), address(), NOW).unwrap().is_valid, "{index}");
        }
        for length in 16..=40 {
            let octets = vec![7; length];
            assert!(!secrets().reply(&Cookie::read(&octets), address(), NOW).unwrap().is_valid, "{length}");
        }
    }

    #[test]
    fn cookies_of_the_previous_secret_are_valid_and_of_no_older_one() {
        let mut secrets = secrets();
        assert!(secrets.rotate(CookieSecret([1; 16])));
        let reply = secrets.reply(&first_cookie(), address(), NOW).unwrap();
        assert!(reply.is_valid && reply.cookie != first_cookie());
        assert!(secrets.reply(&reply.cookie, address(), NOW).unwrap().cookie == reply.cookie);
        assert!(secrets.rotate(CookieSecret([2; 16])));
        assert!(!secrets.reply(&first_cookie(), address(), NOW).unwrap().is_valid);
    }

    #[test]
    fn without_a_secret_there_is_no_reply() {
        assert_eq!(CookieSecrets::default().reply(&first_cookie(), address(), NOW), None);
    }
}
