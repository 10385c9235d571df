//! Server cookies (RFC 7873) of the shape that servers share (RFC 9018). A client that shows the cookie it was given has
//! been reached at its address before. Nobody is refused for want of one: whoever asks with a cookie is told the whole one.
//!
//! The secret is one for all caches of a node, so that a client may be answered by any of them.

use std::hash::Hasher;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher24;

use crate::dns::cookie::{self, Cookie};

const VERSION: u8 = 1;
/// How old a cookie may be, and how far ahead of our clock (RFC 9018 §4.3), in seconds.
const OLDEST: u32 = 3600;
const AHEAD: u32 = 300;
/// From this age on, in seconds, a client is told a new one.
const RENEWED: u32 = 1800;

/// What only the caches of one node know.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret([u8; 16]);

impl Secret {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// The server's part of a cookie that was made at `time` (in seconds, from when all who share the secret count them,
    /// modulo 2³²).
    fn server_part(self, client: [u8; cookie::CLIENT], address: IpAddr, time: u32) -> [u8; 16] {
        let [a, b, c, d] = time.to_be_bytes();
        let head = [VERSION, 0, 0, 0, a, b, c, d];
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(&client);
        hasher.write(&head);
        match address {
            IpAddr::V4(address) => hasher.write(&address.octets()),
            IpAddr::V6(address) => hasher.write(&address.octets()),
        }
        let mut part = [0; 16];
        let (written, hash) = part.split_at_mut(8);
        written.copy_from_slice(&head);
        hash.copy_from_slice(&hasher.finish().to_le_bytes());
        part
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret")
    }
}

/// The secret in force and the one before it, whose cookies still count. Without any, cookies are passed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Secrets {
    current: Option<Secret>,
    former: Option<Secret>,
}

/// What a client that sent a cookie is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CookieReply {
    /// Its own part and ours.
    pub cookie: Cookie,
    /// Whether what it sent could stand: it had no part of ours, or one that we made.
    pub is_good: bool,
}

impl Secrets {
    /// Puts a secret in force; whether it is another one.
    pub fn renew(&mut self, secret: Secret) -> bool {
        let is_other = self.current != Some(secret);
        if is_other {
            self.former = self.current.replace(secret);
        }
        is_other
    }

    /// What a client at `address` that sent `cookie` is told at `now` (in seconds); none without a secret.
    #[must_use]
    pub fn tell(&self, cookie: &Cookie, address: IpAddr, now: u32) -> Option<CookieReply> {
        let current = self.current?;
        let (client, sent) = (cookie.client(), cookie.as_octets());
        let made = made_at(sent).filter(|time| {
            let age = now.wrapping_sub(*time) as i32;
            (-i64::from(AHEAD)..=i64::from(OLDEST)).contains(&i64::from(age))
        });
        let is_by = |secret: Secret, time| sent.ends_with(&secret.server_part(client, address, time));
        let stays = made.filter(|time| is_by(current, *time));
        let is_ours = stays.is_some() || made.is_some_and(|time| self.former.is_some_and(|former| is_by(former, time)));
        // One that is nearly too old, or of the former secret, gives way to a new one.
        let time = stays.filter(|time| (now.wrapping_sub(*time) as i32) < RENEWED as i32).unwrap_or(now);
        let mut whole = [0; cookie::WHOLE];
        let (own, ours) = whole.split_at_mut(cookie::CLIENT);
        own.copy_from_slice(&client);
        ours.copy_from_slice(&current.server_part(client, address, time));
        Some(CookieReply { cookie: Cookie::read(&whole), is_good: is_ours || sent.len() == cookie::CLIENT })
    }
}

/// When a whole cookie of our shape says that it was made.
fn made_at(cookie: &[u8]) -> Option<u32> {
    let whole: &[u8; cookie::WHOLE] = cookie.try_into().ok()?;
    let [_, _, _, _, _, _, _, _, VERSION, 0, 0, 0, time @ ..] = whole else { return None };
    time.first_chunk().map(|time| u32::from_be_bytes(*time))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: [u8; 8] = [0x24, 0x64, 0xc4, 0xab, 0xcf, 0x10, 0xc9, 0x57];
    /// The first example of RFC 9018, appendix A.
    const NOW: u32 = 1_559_731_985;
    const SECRET: Secret = Secret(0xe5e9_73e5_a6b2_a43f_48e7_dc84_9e37_bfcf_u128.to_be_bytes());
    const PART: u128 = 0x0100_0000_5cf7_9f11_1f81_30c3_eee2_9480;

    fn address() -> IpAddr {
        "198.51.100.100".parse().unwrap()
    }

    fn secrets() -> Secrets {
        let mut secrets = Secrets::default();
        assert!(secrets.renew(SECRET) && !secrets.renew(SECRET));
        secrets
    }

    fn first() -> Cookie {
        secrets().tell(&Cookie::read(&CLIENT), address(), NOW).unwrap().cookie
    }

    #[test]
    fn the_parts_are_those_of_the_examples_of_the_standard() {
        assert_eq!(first().as_octets(), [&CLIENT[..], &PART.to_be_bytes()].concat());
        // The last one: a secret and the one that follows it, over IPv6.
        let client = 0x2268_1ab9_7d52_c298_u64.to_be_bytes();
        let address = "2001:db8:220:1:59de:d0f4:8769:82b8".parse().unwrap();
        for (secret, time, part) in [
            (
                0xdd3b_df93_44b6_78b1_85a6_f5cb_60fc_a715_u128,
                0x5cf7_c579,
                0x0100_0000_5cf7_c579_2655_6bd0_934c_72f8_u128,
            ),
            (0x4455_36bc_d251_3298_075a_5d37_9663_c962, 0x5cf7_c609, 0x0100_0000_5cf7_c609_a6bb_79d1_6625_507a),
        ] {
            assert_eq!(Secret(secret.to_be_bytes()).server_part(client, address, time), part.to_be_bytes());
        }
    }

    #[test]
    fn a_cookie_stands_for_an_hour_and_is_renewed_after_half_of_it() {
        let tell = |later: u32| secrets().tell(&first(), address(), NOW.wrapping_add(later)).unwrap();
        for (later, is_good, stays) in [
            (0, true, true),
            (1799, true, true),
            (1800, true, false),
            (3600, true, false),
            (3601, false, false),
            (300_u32.wrapping_neg(), true, true),
            (301_u32.wrapping_neg(), false, false),
            (1 << 31, false, false),
        ] {
            let told = tell(later);
            assert_eq!((told.is_good, told.cookie == first()), (is_good, stays), "{later}");
        }
    }

    #[test]
    fn what_we_did_not_make_for_this_address_is_not_good() {
        let elsewhere = "198.51.100.101".parse().unwrap();
        assert!(!secrets().tell(&first(), elsewhere, NOW).unwrap().is_good);
        for index in 0..cookie::WHOLE {
            let mut octets = first().as_octets().to_vec();
            octets[index] ^= 1;
            assert!(!secrets().tell(&Cookie::read(&octets), address(), NOW).unwrap().is_good, "{index}");
        }
        for length in 16..=40 {
            let octets = vec![7; length];
            assert!(!secrets().tell(&Cookie::read(&octets), address(), NOW).unwrap().is_good, "{length}");
        }
    }

    #[test]
    fn a_new_secret_honours_the_cookies_of_the_one_before_it_and_no_others() {
        let mut secrets = secrets();
        assert!(secrets.renew(Secret([1; 16])));
        let told = secrets.tell(&first(), address(), NOW).unwrap();
        assert!(told.is_good && told.cookie != first());
        assert!(secrets.tell(&told.cookie, address(), NOW).unwrap().cookie == told.cookie);
        assert!(secrets.renew(Secret([2; 16])));
        assert!(!secrets.tell(&first(), address(), NOW).unwrap().is_good);
    }

    #[test]
    fn without_a_secret_nothing_is_told() {
        assert_eq!(Secrets::default().tell(&first(), address(), NOW), None);
    }
}
