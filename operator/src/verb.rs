//! Verb of a request to the API server.

use hyper::{Method, Request};

/// Verb of a request, as the audit log of the API server names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Read of one object, or of anything that is none.
    Get,
    /// Read of many objects.
    List,
    /// Stream of changes.
    Watch,
    /// Creation of an object.
    Create,
    /// Replacement of an object.
    Update,
    /// Change of an object.
    Patch,
    /// Deletion of an object.
    Delete,
    /// Any other method, which may write.
    Other,
}

impl Verb {
    /// Returns the verb of a request.
    #[must_use]
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let query = request.uri().query().unwrap_or_default();
        let is_watch = query.split('&').any(|parameter| matches!(parameter, "watch=true" | "watch=1"));
        // The name that kube gives to the request.
        let is_list = matches!(request.extensions().get::<&'static str>(), Some(&("list" | "list_metadata")));
        match *request.method() {
            Method::GET if is_watch => Self::Watch,
            Method::GET if is_list => Self::List,
            Method::GET | Method::HEAD | Method::OPTIONS => Self::Get,
            Method::POST => Self::Create,
            Method::PUT => Self::Update,
            Method::PATCH => Self::Patch,
            Method::DELETE => Self::Delete,
            _ => Self::Other,
        }
    }

    /// Returns the name of the verb.
    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::Other => "other",
        }
    }

    /// Returns whether a request with this verb may change something.
    #[must_use]
    pub(crate) const fn is_write(self) -> bool {
        !matches!(self, Self::Get | Self::List | Self::Watch)
    }
}
