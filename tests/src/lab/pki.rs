//! Keys, certificates and kubeconfigs: one authority a lab, one identity for each client of the API server.

use std::fs;

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use serde_json::json;

use super::fabric::CONTROL_PLANE;
use super::layout::{Layout, NODES};

/// Group whose members may do everything.
const ADMINISTRATORS: &str = "system:masters";

/// Creates everything below the lab's `pki` folder.
///
/// # Errors
/// When a file cannot be written.
pub(super) fn create(layout: &Layout) -> Result<()> {
    fs::create_dir_all(layout.file("pki"))?;
    let authority = Authority::create(layout)?;
    authority.issue("apiserver", "kube-apiserver", None, &api_server_names())?;
    authority.issue("apiserver-kubelet-client", "kube-apiserver-kubelet-client", Some(ADMINISTRATORS), &[])?;
    authority.user("admin", "admin", Some(ADMINISTRATORS))?;
    for user in ["kube-controller-manager", "kube-scheduler", "kube-proxy"] {
        authority.user(user, &format!("system:{user}"), None)?;
    }
    for node in NODES {
        authority.user(node.name, &format!("system:node:{}", node.name), Some("system:nodes"))?;
    }
    let tokens = KeyPair::generate()?;
    fs::write(layout.pki("service-accounts.key"), tokens.serialize_pem())?;
    fs::write(layout.pki("service-accounts.pub"), tokens.public_key_pem())?;
    Ok(())
}

/// Returns the names and addresses of the API server, the first addresses of the Service ranges among them.
fn api_server_names() -> Vec<String> {
    let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
    let addresses = CONTROL_PLANE.into_iter().chain(["127.0.0.1", "10.96.0.1", "fd96::1"]);
    names.into_iter().chain(addresses).map(str::to_owned).collect()
}

struct Authority<'a> {
    layout: &'a Layout,
    issuer: Issuer<'static, KeyPair>,
}

impl<'a> Authority<'a> {
    fn create(layout: &'a Layout) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, format!("lab {}", layout.name()));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        fs::write(layout.pki("ca.crt"), params.self_signed(&key)?.pem())?;
        fs::write(layout.pki("ca.key"), key.serialize_pem())?;
        Ok(Self { layout, issuer: Issuer::new(params, key) })
    }

    /// Writes `file.crt` and `file.key`.
    fn issue(&self, file: &str, name: &str, group: Option<&str>, names: &[String]) -> Result<()> {
        let mut params = CertificateParams::new(names.to_vec())?;
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        fs::write(self.layout.pki(&format!("{file}.crt")), certificate.pem())?;
        fs::write(self.layout.pki(&format!("{file}.key")), key.serialize_pem())?;
        Ok(())
    }

    /// Writes certificate, key and kubeconfig of a client of the API server.
    fn user(&self, file: &str, name: &str, group: Option<&str>) -> Result<()> {
        self.issue(file, name, group, &[])?;
        let at = |kind: &str| self.layout.pki(&format!("{file}.{kind}"));
        let server = format!("https://{}:6443", CONTROL_PLANE[0]);
        let lab = self.layout.name();
        let authority = self.layout.pki("ca.crt");
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": lab, "cluster": {"server": server, "certificate-authority": authority}}],
            "users": [{"name": file, "user": {"client-certificate": at("crt"), "client-key": at("key")}}],
            "contexts": [{"name": lab, "context": {"cluster": lab, "user": file}}],
            "current-context": lab,
        });
        fs::write(self.layout.kubeconfig(file), serde_json::to_vec_pretty(&kubeconfig)?)?;
        Ok(())
    }
}
