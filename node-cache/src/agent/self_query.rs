//! Self-query: the agent asks the caches of its own pod for `id.server` through a captured address.
//!
//! Self-queries carry the packet mark whose redirect rule is always installed, so they reach the caches while the
//! queries of pods still go to the Service. Only a response with this pod's UID counts: without the rule the cluster
//! DNS would respond.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use node_cache_config::names::DNS_PORT;

use super::rules::MARK;
use crate::dns::question::Question;
use crate::dns::{Name, NameError, Response};
use crate::stub_client::{StubClient, StubError, character_strings, identity_question};

/// Time that the caches have to tell their identity, the retry included.
const SELF_QUERY_TIMEOUT: Duration = Duration::from_millis(500);
/// Time after which a UDP query is sent a second time.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Reason why an address does not count as served by this pod.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SelfQueryError {
    /// No response within the timeout.
    #[error("the caches of this pod do not answer")]
    Timeout,
    /// A response without the identity of this pod.
    #[error("somebody else than this pod answers")]
    OtherResponder,
    /// The query could not be sent, or was refused.
    #[error("the caches of this pod cannot be asked: {0}")]
    Io(#[source] std::io::Error),
    /// The queried name is not valid.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl From<StubError> for SelfQueryError {
    fn from(error: StubError) -> Self {
        match error {
            StubError::Timeout => Self::Timeout,
            StubError::Io(error) => Self::Io(error),
            StubError::Mismatch => Self::OtherResponder,
        }
    }
}

/// Self-query of one pod.
#[derive(Clone, Debug)]
pub(crate) struct SelfQuery {
    question: Question,
    /// Character-string that tells this pod from every other one: `pod=<UID>`.
    identity: String,
}

impl SelfQuery {
    /// Returns the self-query of the pod with this UID.
    ///
    /// # Errors
    ///
    /// None: `id.server` is a valid name.
    pub(crate) fn new(pod_uid: &str) -> Result<Self, NameError> {
        Ok(Self { question: identity_question()?, identity: format!("pod={pod_uid}") })
    }

    /// Checks that this pod responds at an address, over UDP and if asked for over TCP as well.
    ///
    /// # Errors
    ///
    /// [`SelfQueryError`] with the reason why the address does not count as served.
    pub(crate) async fn check(&self, address: IpAddr, over_tcp: bool) -> Result<(), SelfQueryError> {
        let client = client(address);
        self.check_identity(&client.query_udp(&self.question, SELF_QUERY_TIMEOUT).await?)?;
        if over_tcp {
            self.check_identity(&client.query_tcp(&self.question, SELF_QUERY_TIMEOUT).await?)?;
        }
        Ok(())
    }

    fn check_identity(&self, response: &Response) -> Result<(), SelfQueryError> {
        if character_strings(response).contains(&self.identity) { Ok(()) } else { Err(SelfQueryError::OtherResponder) }
    }
}

/// Queries the Service behind an address that is not captured, as a pod would, and returns the rcode: the query
/// carries no mark.
///
/// # Errors
///
/// [`SelfQueryError`] when there is no response within `limit`.
pub(crate) async fn query_service(
    address: IpAddr,
    name: &str,
    rtype: u16,
    limit: Duration,
) -> Result<u16, SelfQueryError> {
    let question = Question::plain(&Name::from_text(name)?, rtype);
    Ok(unmarked_client(address).query_rcode(&question, limit).await?)
}

fn client(address: IpAddr) -> StubClient {
    unmarked_client(address).with_mark(MARK)
}

fn unmarked_client(address: IpAddr) -> StubClient {
    StubClient::new(SocketAddr::new(address, DNS_PORT)).with_retransmit(RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::codes::{rcode, rtype};

    #[test]
    fn only_the_uid_of_this_pod_counts() {
        let self_query = SelfQuery::new("2b1d").unwrap();
        let is_own = |strings: &[&str]| {
            let data = strings.iter().flat_map(|text| [&[text.len() as u8], text.as_bytes()].concat()).collect();
            let record = (rtype::TXT, 0, data);
            let response = Response::with_records(&self_query.question, rcode::NOERROR, &[record]);
            self_query.check_identity(&response).is_ok()
        };
        assert!(is_own(&["instance=cache-0", "node=a", "pod=2b1d"]));
        assert!(!is_own(&["instance=cache-0", "node=a", "pod=2b1d0"]));
        assert!(!is_own(&["instance=pod=2b1d"]));
        assert!(!is_own(&[]));
        let refused = Response::empty(&self_query.question, rcode::REFUSED);
        assert!(self_query.check_identity(&refused).is_err());
        let cut_off = (rtype::TXT, 0, b"\x09pod=2b1d".to_vec());
        let cut_off = Response::with_records(&self_query.question, rcode::NOERROR, &[cut_off]);
        assert!(self_query.check_identity(&cut_off).is_err(), "a string that is cut off");
    }
}
