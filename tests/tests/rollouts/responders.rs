//! Servers in the cluster that respond wrongly to every query.

use crate::lab;
use crate::tier::{RestoreOnDrop, kubectl};

/// Response of a server to every query.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Response {
    /// SERVFAIL.
    Servfail,
    /// An address that no other server knows.
    WrongAddress,
}

impl Response {
    const fn template(self) -> &'static str {
        match self {
            Self::Servfail => "template ANY ANY . {\n    rcode SERVFAIL\n  }",
            Self::WrongAddress => {
                "template IN A . {\n    answer \"{{ .Name }} 60 IN A 203.0.113.99\"\n  }\n  \
                 template ANY ANY . {\n    rcode NOERROR\n  }"
            }
        }
    }
}

/// Starts a server in a pod. Returns its address, and the guard that removes it.
pub(crate) fn start(response: Response) -> (String, RestoreOnDrop<impl FnMut()>) {
    let image = lab().image("coredns").expect("the lab has CoreDNS");
    let template = response.template();
    let manifest = serde_json::json!({
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "responder", "namespace": "lab"},
                "data": {"Corefile": format!(".:53 {{\n  {template}\n}}\n")},
            },
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "responder", "namespace": "lab"},
                "spec": {
                    "nodeName": "node-a",
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{
                        "name": "coredns",
                        "image": image,
                        "imagePullPolicy": "Never",
                        "args": ["-conf", "/etc/coredns/Corefile"],
                        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
                    }],
                    "volumes": [{"name": "config", "configMap": {"name": "responder"}}],
                },
            },
        ],
    });
    let remove = || drop(lab().kubectl(&["delete", "pod,configmap", "responder", "-n", "lab", "--ignore-not-found"]));
    remove();
    let guard = RestoreOnDrop(remove);
    lab().kubectl_with_input(&["apply", "-f", "-"], &manifest.to_string()).expect("a pod");
    kubectl(&["wait", "pod", "responder", "-n", "lab", "--for=condition=Ready", "--timeout=120s"]);
    (kubectl(&["get", "pod", "responder", "-n", "lab", "-o", "jsonpath={.status.podIP}"]), guard)
}
