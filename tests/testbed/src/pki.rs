//! Certificates: an authority, and a client certificate for each identity, so that RBAC applies.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

use crate::error::{Attempt, Error, Result};

/// The identity of a client in its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `system:node:node1`, `jane`, …
    pub user: String,
    /// `system:masters`, … At most one, which is all that rcgen supports.
    pub group: Option<String>,
}

impl Identity {
    /// A user without a group.
    pub fn user(user: impl Into<String>) -> Self {
        Self { user: user.into(), group: None }
    }

    /// A user in a group.
    pub fn member(user: impl Into<String>, group: &str) -> Self {
        Self { user: user.into(), group: Some(group.into()) }
    }

    /// The administrator, with all permissions.
    pub fn admin() -> Self {
        Self::member("admin", "system:masters")
    }

    fn name(&self) -> DistinguishedName {
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, self.user.as_str());
        if let Some(group) = &self.group {
            name.push(DnType::OrganizationName, group.as_str());
        }
        name
    }
}

/// The cluster's certificate authority, kept in a directory.
#[derive(Debug)]
pub(crate) struct Authority {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Creates a new authority.
    pub(crate) fn create(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).attempt(|| format!("making {}", directory.display()))?;
        let key = KeyPair::generate()?;
        let params = authority_params();
        let certificate = params.self_signed(&key)?;
        write(&directory.join("ca.crt"), &certificate.pem())?;
        write(&directory.join("ca.key"), &key.serialize_pem())?;
        Ok(Self { directory: directory.into(), issuer: Issuer::new(params, key) })
    }

    /// Opens an authority that [`Authority::create`] has made.
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        let path = directory.join("ca.key");
        let key = fs::read_to_string(&path).attempt(|| format!("reading {}", path.display()))?;
        // Name and key make the issuer; the certificate itself is not needed to sign.
        Ok(Self {
            directory: directory.into(),
            issuer: Issuer::new(authority_params(), KeyPair::from_pem(&key)?),
        })
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    /// Makes a client certificate and its key.
    pub(crate) fn client(&self, identity: &Identity) -> Result<Pair> {
        let mut params = valid(CertificateParams::default());
        params.distinguished_name = identity.name();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params)
    }

    /// Makes a server certificate for these names and addresses.
    pub(crate) fn server(&self, identity: &Identity, names: &[&str], addresses: &[IpAddr]) -> Result<Pair> {
        let mut params =
            valid(CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>())?);
        params.distinguished_name = identity.name();
        params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Result<Pair> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// A certificate and its key in PEM.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Pair {
    /// Writes `NAME.crt` and `NAME.key`.
    pub(crate) fn write(&self, directory: &Path, name: &str) -> Result<()> {
        write(&directory.join(format!("{name}.crt")), &self.certificate)?;
        write(&directory.join(format!("{name}.key")), &self.key)
    }
}

/// The key that service-account tokens are signed with: `service-accounts.key` and `.pub`.
pub(crate) fn service_account_key(directory: &Path) -> Result<()> {
    let key = KeyPair::generate()?;
    write(&directory.join("service-accounts.key"), &key.serialize_pem())?;
    write(&directory.join("service-accounts.pub"), &key.public_key_pem())
}

fn authority_params() -> CertificateParams {
    let mut params = valid(CertificateParams::default());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params.distinguished_name = Identity::user("lbstack-testbed").name();
    params
}

/// From an hour ago (clocks differ, and API servers compare to the second) for ten years.
fn valid(mut params: CertificateParams) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::hours(1);
    params.not_after = now + Duration::days(3650);
    params
}

/// Writes a file that only root can read.
pub(crate) fn write(path: &Path, content: &str) -> Result<()> {
    let attempted = || format!("writing {}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).attempt(attempted)?;
    }
    fs::write(path, content).attempt(attempted)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .map_err(|source| Error::Io { attempted: attempted(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `openssl x509` says about a certificate.
    fn text(certificate: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), certificate).unwrap();
        let mut command = std::process::Command::new("openssl");
        command
            .args(["x509", "-noout", "-subject", "-ext", "subjectAltName,extendedKeyUsage", "-in"])
            .arg(file.path());
        crate::process::run(&mut command).unwrap()
    }

    #[test]
    fn a_client_certificate_names_the_user_and_the_group() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::create(directory.path()).unwrap();
        let pair = authority.client(&Identity::member("system:node:node1", "system:nodes")).unwrap();
        let text = text(&pair.certificate);
        assert!(text.contains("CN = system:node:node1"), "{text}");
        assert!(text.contains("O = system:nodes"), "{text}");
        assert!(text.contains("TLS Web Client Authentication"), "{text}");
    }

    #[test]
    fn a_server_certificate_names_hosts_and_addresses() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::create(directory.path()).unwrap();
        let addresses = ["127.0.0.1".parse().unwrap(), "fd00:33::2".parse().unwrap()];
        let pair =
            authority.server(&Identity::user("kube-apiserver"), &["kubernetes.default"], &addresses).unwrap();
        let text = text(&pair.certificate);
        for name in ["DNS:kubernetes.default", "IP Address:127.0.0.1", "IP Address:FD00:33:0:0:0:0:0:2"] {
            assert!(text.contains(name), "{name} is not in {text}");
        }
        assert!(text.contains("TLS Web Server Authentication"), "{text}");
    }

    #[test]
    fn an_authority_that_was_opened_again_signs_for_the_same_name() {
        let directory = tempfile::tempdir().unwrap();
        let made = Authority::create(directory.path()).unwrap();
        let opened = Authority::open(directory.path()).unwrap();
        opened.client(&Identity::admin()).unwrap().write(directory.path(), "admin").unwrap();
        let mut verify = std::process::Command::new("openssl");
        verify.arg("verify").arg("-CAfile").arg(made.certificate()).arg(directory.path().join("admin.crt"));
        crate::process::run(&mut verify).unwrap();
    }

    #[test]
    fn keys_are_readable_by_root_alone() {
        let directory = tempfile::tempdir().unwrap();
        Authority::create(directory.path()).unwrap();
        service_account_key(directory.path()).unwrap();
        for name in ["ca.key", "service-accounts.key"] {
            assert_eq!(
                fs::metadata(directory.path().join(name)).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
    }
}
