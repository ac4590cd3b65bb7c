//! Says in plain words why there is no connection: the causes that operators meet, each with what
//! helps. The error's own words follow, for those who know them.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError};

use super::{causes, reason};

/// Why there is no connection; `through` is the proxy that it goes through.
pub fn unconnected(error: &(dyn Error + 'static), through: Option<&str>) -> String {
    let hint = tls_fault(error).map(hint_of).or_else(|| is_name_unknown(error).then_some("the name of the server cannot be resolved"));
    let hint = hint.or_else(|| causes(error).find_map(io_kind).and_then(hint_of_kind));
    let text = reason(error);
    let text = hint.map_or(text.clone(), |hint| format!("{hint} ({text})"));
    through.map_or(text.clone(), |proxy| format!("through the proxy {proxy}: {text}"))
}

/// The fault of TLS among the causes.
fn tls_fault<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    causes(error).find_map(tls_fault_in)
}

/// An input or output error hides what it was made of: that is not among its causes.
fn tls_fault_in<'e>(cause: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let hidden = || cause.downcast_ref::<io::Error>()?.get_ref().and_then(|hidden| tls_fault_in(hidden));
    cause.downcast_ref().or_else(hidden)
}

fn hint_of(fault: &rustls::Error) -> &'static str {
    match fault {
        rustls::Error::InvalidCertificate(fault) => match fault {
            CertificateError::UnknownIssuer => {
                "the server's certificate is from an issuer that is not trusted here; name its CA file as the provider's `ca_file`"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the server's certificate is for another name; use a name that it has"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the server's certificate has expired, or the clock of this machine is wrong"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the server's certificate is not valid yet, or the clock of this machine is wrong"
            }
            CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
                "the server's own certificate is that of a CA; have it issue one for the server"
            }
            _ => "the server's certificate is not accepted",
        },
        rustls::Error::InvalidMessage(_) => "the server does not speak TLS on this port; use http://",
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired | AlertDescription::BadCertificate) => {
            "the server wants a certificate of the client"
        }
        _ => "TLS could not be agreed on",
    }
}

fn is_name_unknown(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| cause.to_string().starts_with("dns error"))
}

fn io_kind(cause: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    cause.downcast_ref::<io::Error>().map(io::Error::kind)
}

const fn hint_of_kind(kind: io::ErrorKind) -> Option<&'static str> {
    match kind {
        io::ErrorKind::ConnectionRefused => Some("nothing listens at this address"),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Some("there is no way to this address"),
        io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => Some("the server closed the connection before it was agreed on"),
        _ => None,
    }
}
