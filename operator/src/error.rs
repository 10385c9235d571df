//! What can go wrong while the cluster is read or written, and the sentence that helps.

use dnstier_crds::conditions::Reason;

use crate::controller::finding::Finding;

/// What went wrong while the cluster was read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused a request or could not be reached.
    #[error("cannot {verb} {what}: {}", text(source))]
    Refused {
        /// What was tried.
        verb: &'static str,
        /// On which object.
        what: String,
        /// The answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// An object that was written does not have what was written.
    #[error("{what} was written, but the API server did not keep its annotations; look for an admission webhook")]
    NotKept {
        /// The object.
        what: String,
    },
    /// An object cannot be turned into JSON.
    #[error("{what} cannot be written as JSON: {source}")]
    Unwritable {
        /// The object.
        what: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl Error {
    /// A request that the API server refused or did not answer.
    pub fn refused(verb: &'static str, what: impl Into<String>, source: kube::Error) -> Self {
        Self::Refused { verb, what: what.into(), source: Box::new(source) }
    }

    /// A label of few values, for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Refused { source, .. } => match code(source) {
                Some(403) => "forbidden",
                Some(409) => "conflict",
                Some(422 | 400) => "invalid",
                Some(_) => "refused",
                None => "unreachable",
            },
            Self::NotKept { .. } => "not_kept",
            Self::Unwritable { .. } => "unwritable",
        }
    }

    /// Whether trying again at once is likely to succeed: somebody else wrote in between.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.kind() == "conflict"
    }

    /// Whether the operator may not do what it has to.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.kind() == "forbidden"
    }

    /// What the tier's conditions say of it.
    #[must_use]
    pub fn finding(&self) -> Finding {
        let sentence = match self {
            Self::Refused { .. } => format!("The operator {self}"),
            Self::NotKept { .. } | Self::Unwritable { .. } => self.to_string(),
        };
        let message = match self {
            Self::Refused { source, .. } if code(source) == Some(403) => text(source),
            _ => return Finding::new(Reason::ApplyFailed, format!("{sentence}.")),
        };
        if message.contains("violates PodSecurity") {
            return Finding::new(Reason::PodSecurity, format!("{sentence}."));
        }
        let advice = Grant::read(&message).map(|grant| format!("; {}", grant.advice())).unwrap_or_default();
        Finding::new(Reason::Forbidden, format!("{sentence}{advice}."))
    }
}

fn text(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.trim_end_matches('.').to_owned(),
        other => other.to_string(),
    }
}

/// The HTTP status that the API server answered with.
fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// What RBAC says is missing:
/// `… User "system:serviceaccount:NS:NAME" cannot VERB resource "R" in API group "G" in the namespace "NS"`.
struct Grant<'a> {
    account_namespace: &'a str,
    account: &'a str,
    verb: &'a str,
    resource: String,
    namespace: Option<&'a str>,
}

impl<'a> Grant<'a> {
    fn read(message: &'a str) -> Option<Self> {
        let user = quoted_after(message, "User \"")?;
        let (account_namespace, account) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
        let verb = message.split_once("\" cannot ")?.1.split_whitespace().next()?;
        let resource = quoted_after(message, "resource \"")?;
        let group = quoted_after(message, "API group \"").unwrap_or_default();
        let (resource, subresource) = resource.split_once('/').map_or((resource, ""), |(kind, sub)| (kind, sub));
        let mut resource = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        if !subresource.is_empty() {
            resource = format!("{resource}/{subresource}");
        }
        Some(Self { account_namespace, account, verb, resource, namespace: quoted_after(message, "namespace \"") })
    }

    fn advice(&self) -> String {
        let Self { account_namespace, account, verb, resource, namespace } = self;
        let verbs = if resource == "services" { "get,list,watch,create,patch,delete" } else { verb };
        match namespace {
            Some(namespace) => format!(
                "grant it with `kubectl -n {namespace} create role dnstier-extra --verb={verbs} --resource={resource} && \
                 kubectl -n {namespace} create rolebinding dnstier-extra --role=dnstier-extra \
                 --serviceaccount={account_namespace}:{account}`"
            ),
            None => format!(
                "grant it with `kubectl create clusterrole dnstier-extra --verb={verbs} --resource={resource} && \
                 kubectl create clusterrolebinding dnstier-extra --clusterrole=dnstier-extra \
                 --serviceaccount={account_namespace}:{account}`"
            ),
        }
    }
}

fn quoted_after<'a>(message: &'a str, before: &str) -> Option<&'a str> {
    let (_, rest) = message.split_once(before)?;
    rest.split_once('"').map(|(quoted, _)| quoted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    fn api(code: u16, message: &str) -> Error {
        let status = Status { code, message: message.to_owned(), ..Status::default() };
        Error::refused("apply", "Service kube-system/dnstier-default-cluster-dns", kube::Error::Api(status.boxed()))
    }

    #[test]
    fn a_refusal_by_rbac_comes_with_the_command_that_grants_it() {
        let finding = api(
            403,
            "services \"dnstier-default-cluster-dns\" is forbidden: User \
             \"system:serviceaccount:dnstier-system:dnstier-operator\" cannot patch resource \"services\" in API group \
             \"\" in the namespace \"kube-system\"",
        )
        .finding();
        assert_eq!(finding.reason, Reason::Forbidden);
        for part in [
            "kubectl -n kube-system create role",
            "--resource=services ",
            "--serviceaccount=dnstier-system:dnstier-operator",
        ] {
            assert!(finding.message.contains(part), "{}", finding.message);
        }
    }

    #[test]
    fn a_group_and_a_subresource_are_named_as_kubectl_wants_them() {
        let finding = api(
            403,
            "x is forbidden: User \"system:serviceaccount:a:b\" cannot patch resource \"dnstiers/status\" in API group \
             \"dnstier.io\" at the cluster scope",
        )
        .finding();
        assert!(finding.message.contains("--resource=dnstiers.dnstier.io/status"), "{}", finding.message);
        assert!(finding.message.contains("create clusterrole "), "{}", finding.message);
    }

    #[test]
    fn a_full_quota_is_told_as_it_is() {
        let finding =
            api(403, "exceeded quota: small, requested: services=1, used: services=5, limited: services=5").finding();
        assert_eq!(finding.reason, Reason::Forbidden);
        assert!(finding.message.ends_with("services=5."), "{}", finding.message);
    }

    #[test]
    fn somebody_else_writing_in_between_is_a_conflict() {
        assert!(api(409, "the object has been modified").is_conflict());
    }
}
