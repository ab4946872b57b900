//! The keys and certificates of one control plane, made anew for each.

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The files, all in one directory.
pub struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    /// Makes all of them.
    ///
    /// # Errors
    /// Names the file that cannot be written.
    pub fn create(directory: &Path) -> anyhow::Result<Self> {
        let made = Self { directory: directory.into() };
        let mut authority = CertificateParams::default();
        authority.distinguished_name.push(DnType::CommonName, "balancer test cluster");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)
            .context("make the certificate authority")?;
        made.write("ca.pem", &authority.pem())?;

        let names = ["127.0.0.1", "::1", "localhost", "kubernetes.default.svc"];
        let mut server = CertificateParams::new(names.map(String::from))?;
        server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        made.sign("server", &server, &authority)?;

        let mut admin = CertificateParams::default();
        admin.distinguished_name.push(DnType::CommonName, "admin");
        // RBAC binds this group to everything before it looks at any role.
        admin.distinguished_name.push(DnType::OrganizationName, "system:masters");
        admin.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        made.sign("admin", &admin, &authority)?;

        let accounts = KeyPair::generate().context("make the key of the service accounts")?;
        made.write("accounts.key", &accounts.serialize_pem())?;
        made.write("accounts.pub", &accounts.public_key_pem())?;
        Ok(made)
    }

    /// The path of one of the files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The same as an argument.
    pub fn argument(&self, flag: &str, name: &str) -> String {
        format!("--{flag}={}", self.path(name).display())
    }

    fn sign(
        &self,
        name: &str,
        parameters: &CertificateParams,
        authority: &CertifiedIssuer<'_, KeyPair>,
    ) -> anyhow::Result<()> {
        let key = KeyPair::generate().with_context(|| format!("make the key of {name}"))?;
        let certificate = parameters.signed_by(&key, authority);
        let certificate = certificate.with_context(|| format!("sign the certificate of {name}"))?;
        self.write(&format!("{name}.pem"), &certificate.pem())?;
        self.write(&format!("{name}.key"), &key.serialize_pem())
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.path(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        let private = Permissions::from_mode(0o600);
        fs::set_permissions(&path, private).with_context(|| format!("protect {}", path.display()))
    }
}
