//! Finding: a problem of a tier, with the reason and the message of a condition.

use dnstier_crds::conditions::Reason;

use crate::error::{Error, request_failure};

/// A problem of a tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Reason, from the documented list.
    pub(crate) reason: Reason,
    /// One sentence: the problem, its place, and the remedy.
    pub(crate) message: String,
}

impl Finding {
    /// Builds a finding.
    #[must_use]
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

impl From<&Error> for Finding {
    /// Converts an error. A denied permission comes with the `kubectl` command that grants it, a refused image with the
    /// field that names it and the value of the chart that admits it.
    fn from(error: &Error) -> Self {
        let sentence = match error {
            Error::Request { .. } => format!("The operator {error}"),
            Error::AnnotationsDropped { .. } | Error::OutdatedRecord { .. } | Error::Serialize { .. } => {
                error.to_string()
            }
        };
        let message = match error {
            Error::Request { source, .. } if error.is_forbidden() => request_failure(source),
            _ => return Self::new(Reason::ApplyFailed, format!("{sentence}.")),
        };
        if message.contains("violates PodSecurity") {
            return Self::new(Reason::PodSecurity, format!("{sentence}."));
        }
        if let Error::Request { object, .. } = error
            && let Some(refusal) = refused_image(object, &message)
        {
            return Self::new(Reason::Forbidden, refusal);
        }
        let remedy = MissingGrant::parse(&message).map(|grant| format!("; {}", grant.remedy())).unwrap_or_default();
        Self::new(Reason::Forbidden, format!("{sentence}{remedy}."))
    }
}

/// Returns whether RBAC denies a permission, which concerns every object of a kind.
pub(crate) fn is_missing_grant(error: &Error) -> bool {
    match error {
        Error::Request { source, .. } => {
            error.is_forbidden() && MissingGrant::parse(&request_failure(source)).is_some()
        }
        Error::AnnotationsDropped { .. } | Error::OutdatedRecord { .. } | Error::Serialize { .. } => false,
    }
}

/// Value of the chart that admits further images. The chart's admission policy names it when it refuses one.
const EXTRA_IMAGES: &str = "admissionPolicy.extraImages";

/// Returns the sentences about an image that the chart's admission policy refused, from a message of this form:
/// `… denied request: image … is neither from … nor from a prefix in the value admissionPolicy.extraImages …`; `None`
/// for any other refusal.
fn refused_image(object: &str, message: &str) -> Option<String> {
    let (_, refusal) = message.split_once(" denied request: ")?;
    if !refusal.contains(EXTRA_IMAGES) {
        return None;
    }
    let field = if object.starts_with("DaemonSet ") { "spec.nodeCache.image" } else { "spec.resolvers.image" };
    Some(format!(
        "{field}: {refusal}; name an image of that repository, or add this one's repository to {EXTRA_IMAGES} with \
         `helm upgrade`. {object} stays as it is."
    ))
}

/// Permission that RBAC denies, from a message of this form:
/// `… User "system:serviceaccount:NS:NAME" cannot VERB resource "R" in API group "G" in the namespace "NS"`.
struct MissingGrant<'a> {
    account_namespace: &'a str,
    account: &'a str,
    verb: &'a str,
    /// Resource as `kubectl create role --resource` takes it: `resource.group/subresource`.
    resource: String,
    /// Namespace of the resource; `None` at cluster scope.
    namespace: Option<&'a str>,
}

impl<'a> MissingGrant<'a> {
    /// Parses a message of the API server; `None` for any other form, such as that of an exceeded quota.
    fn parse(message: &'a str) -> Option<Self> {
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

    /// Returns the advice with the `kubectl` commands that grant the permission.
    fn remedy(&self) -> String {
        let Self { account_namespace, account, verb, resource, namespace } = self;
        // All that is done with Services: other verbs would be refused next. Those of a namespace that the settings do
        // not name are read by each pass and not watched.
        let verbs = match (resource.as_str(), *verb) {
            ("services", "get") => "get,list,create,patch,delete",
            ("services", _) => "list,watch,create,patch,delete",
            (_, verb) => verb,
        };
        match namespace {
            Some(namespace) => format!(
                "grant it with `kubectl -n {namespace} create role dnstier-extra --verb={verbs} \
                 --resource={resource} && kubectl -n {namespace} create rolebinding dnstier-extra --role=dnstier-extra \
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

/// Returns the text between `prefix`, which ends with a quotation mark, and the next quotation mark.
fn quoted_after<'a>(message: &'a str, prefix: &str) -> Option<&'a str> {
    let (_, rest) = message.split_once(prefix)?;
    rest.split_once('"').map(|(quoted, _)| quoted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    fn finding_of(code: u16, message: &str) -> Finding {
        let status = Status { code, message: message.to_owned(), ..Status::default() };
        let source = kube::Error::Api(status.boxed());
        Finding::from(&Error::request("apply", "Service kube-system/dnstier-default-cluster-dns", source))
    }

    #[test]
    fn a_refusal_by_rbac_comes_with_the_command_that_grants_it() {
        let finding = finding_of(
            403,
            "services \"dnstier-default-cluster-dns\" is forbidden: User \
             \"system:serviceaccount:dnstier-system:dnstier-operator\" cannot patch resource \"services\" in API group \
             \"\" in the namespace \"kube-system\"",
        );
        assert_eq!(finding.reason, Reason::Forbidden);
        for part in [
            "kubectl -n kube-system create role",
            "--verb=list,watch,create,patch,delete --resource=services ",
            "--serviceaccount=dnstier-system:dnstier-operator",
        ] {
            assert!(finding.message.contains(part), "{}", finding.message);
        }
    }

    #[test]
    fn services_that_are_not_watched_need_get_and_no_watch() {
        let finding = finding_of(
            403,
            "services \"dns\" is forbidden: User \"system:serviceaccount:a:b\" cannot get resource \"services\" in API \
             group \"\" in the namespace \"other\"",
        );
        let command = "kubectl -n other create role dnstier-extra --verb=get,list,create,patch,delete ";
        assert!(finding.message.contains(command), "{}", finding.message);
    }

    #[test]
    fn a_group_and_a_subresource_are_named_as_kubectl_wants_them() {
        let finding = finding_of(
            403,
            "x is forbidden: User \"system:serviceaccount:a:b\" cannot patch resource \"dnstiers/status\" in API group \
             \"dnstier.io\" at the cluster scope",
        );
        assert!(finding.message.contains("--resource=dnstiers.dnstier.io/status"), "{}", finding.message);
        assert!(finding.message.contains("create clusterrole "), "{}", finding.message);
    }

    #[test]
    fn a_refused_image_comes_with_its_field_and_the_value_that_admits_it() {
        for (object, field) in [
            ("DaemonSet dnstier-node/dnstier-default-node-cache", "spec.nodeCache.image: image mirror.example/x:1 "),
            ("Deployment dnstier-system/dnstier-default-zone-0", "spec.resolvers.image: image mirror.example/x:1 "),
        ] {
            let message = "daemonsets.apps \"x\" is forbidden: ValidatingAdmissionPolicy 'dnstier-operator-workloads' \
                           with binding 'dnstier-operator-workloads' denied request: image mirror.example/x:1 is \
                           neither from the repository localhost/dnstier-node-cache nor from a prefix in the value \
                           admissionPolicy.extraImages of the chart";
            let status = Status { code: 403, message: message.to_owned(), ..Status::default() };
            let finding = Finding::from(&Error::request("apply", object, kube::Error::Api(status.boxed())));
            assert_eq!(finding.reason, Reason::Forbidden);
            assert!(finding.message.starts_with(field), "{}", finding.message);
            for part in ["add this one's repository to admissionPolicy.extraImages", &format!("{object} stays")] {
                assert!(finding.message.contains(part), "{}", finding.message);
            }
        }
    }

    #[test]
    fn the_message_of_an_exceeded_quota_is_passed_on() {
        let finding =
            finding_of(403, "exceeded quota: small, requested: services=1, used: services=5, limited: services=5");
        assert_eq!(finding.reason, Reason::Forbidden);
        assert!(finding.message.ends_with("services=5."), "{}", finding.message);
    }
}
