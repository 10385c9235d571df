//! Errors of reading and writing the cluster.

/// Failure to read or write the cluster.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A request that the API server refused or did not answer.
    #[error("cannot {verb} {object}: {}", request_failure(source))]
    Request {
        /// Verb of the request, such as `apply` or `list`.
        verb: &'static str,
        /// Kind, namespace and name of the object, or the plural and the namespace of a list.
        object: String,
        /// Response of the API server, or the reason why there is none.
        #[source]
        source: Box<kube::Error>,
    },
    /// Annotations that a successful patch did not leave on its object.
    #[error("{object} was written, but the API server did not keep its annotations; look for an admission webhook")]
    AnnotationsDropped {
        /// Kind, namespace and name of the object.
        object: String,
    },
    /// A record of a roll-out that was changed or deleted since it was read.
    #[error("{object} has another version than the one that was read")]
    OutdatedRecord {
        /// Kind, namespace and name of the object.
        object: String,
    },
    /// An object that cannot be serialized to JSON.
    #[error("{object} cannot be written as JSON: {source}")]
    Serialize {
        /// Kind, namespace and name of the object.
        object: String,
        /// Error of the serializer.
        #[source]
        source: serde_json::Error,
    },
}

impl Error {
    /// Builds the error of a failed request.
    pub(crate) fn request(verb: &'static str, object: impl Into<String>, source: kube::Error) -> Self {
        Self::Request { verb, object: object.into(), source: Box::new(source) }
    }

    /// Builds the error of a record of a roll-out that was not written.
    pub(crate) fn unwritten_record(object: impl Into<String>, source: kube::Error) -> Self {
        match http_status(&source) {
            Some(404 | 409) => Self::OutdatedRecord { object: object.into() },
            _ => Self::request("write", object, source),
        }
    }

    /// Returns the kind of the error: one of seven words, for the label of a metric.
    #[must_use]
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Request { source, .. } => match http_status(source) {
                Some(403) => "forbidden",
                Some(409) => "conflict",
                Some(422 | 400) => "invalid",
                Some(_) => "refused",
                None => "unreachable",
            },
            Self::OutdatedRecord { .. } => "conflict",
            Self::AnnotationsDropped { .. } => "not_kept",
            Self::Serialize { .. } => "unwritable",
        }
    }

    /// Returns whether another writer changed the object in between, so that an early retry is likely to succeed.
    #[must_use]
    pub(crate) fn is_conflict(&self) -> bool {
        self.kind() == "conflict"
    }

    /// Returns whether the API server denies the operator a permission that it needs.
    #[must_use]
    pub(crate) fn is_forbidden(&self) -> bool {
        self.kind() == "forbidden"
    }
}

/// Returns the message of a failed request without its final period.
#[must_use]
pub(crate) fn request_failure(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.trim_end_matches('.').to_owned(),
        kube::Error::Service(source) => source.to_string(),
        other => other.to_string(),
    }
}

/// Returns the HTTP status of the API server's response; `None` when there was no response.
fn http_status(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    #[test]
    fn somebody_else_writing_in_between_is_a_conflict() {
        let status = Status { code: 409, message: "the object has been modified".to_owned(), ..Status::default() };
        assert!(Error::request("apply", "Service a/b", kube::Error::Api(status.boxed())).is_conflict());
    }
}
