//! Which certificates are trusted: the system's, an extra file's, or the built-in ones.
//!
//! Company-internal authorities are in the system's store or come as a file. An image without any
//! store falls back to Mozilla's list as of the build of this program. The log says which source
//! was used and how many certificates it held.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::provider::SetupError;

/// The TLS settings of a client. The extra file is read and checked even when `needs_tls` is
/// `false`, so that a wrong path shows at once; the system's store is not read then.
pub(super) fn client_config(provider: &str, ca_file: Option<&Path>, needs_tls: bool) -> Result<ClientConfig, SetupError> {
    let mut roots = if needs_tls { system_roots(provider) } else { RootCertStore::empty() };
    if let Some(path) = ca_file {
        let added = add_file(&mut roots, path).map_err(|reason| SetupError::CaFile {
            provider: provider.into(),
            path: path.display().to_string(),
            reason,
        })?;
        tracing::info!(provider, path = %path.display(), certificates = added, "trusting the certificates of a file");
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| SetupError::Tls { provider: provider.into(), reason: error.to_string() })?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn system_roots(provider: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(provider, %error, "cannot read a part of the system's certificates");
    }
    let (certificates, unusable) = roots.add_parsable_certificates(found.certs);
    if certificates > 0 {
        tracing::info!(provider, certificates, unusable, "trusting the system's certificates");
    } else {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        tracing::info!(provider, certificates = roots.len(), "the system has no certificates; trusting the built-in ones");
    }
    roots
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<usize, String> {
    let before = roots.len();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())? {
        roots.add(certificate.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    }
    match roots.len() - before {
        0 => Err("it holds no certificate".into()),
        added => Ok(added),
    }
}
