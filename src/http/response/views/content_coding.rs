//! Content codings of a view, and the choice of the coding that a client wants (RFC 9110, section
//! 12.5.3).

use std::io::{Error, Write};

use axum::http::HeaderMap;
use axum::http::header::ACCEPT_ENCODING;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

/// A view is compressed once and sent often.
const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 6;

/// How the bytes of a view are coded; ordered by preference, the preferred coding last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    Identity = 0,
    Gzip = 1,
    Zstd = 2,
}

impl Coding {
    /// Every coding.
    pub const ALL: [Self; 3] = [Self::Identity, Self::Gzip, Self::Zstd];

    /// The coding's name in headers.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
        }
    }

    /// The suffix that distinguishes the tag of this form from the tags of the others: a strong tag
    /// names bytes.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Identity => "",
            Self::Gzip => "-gzip",
            Self::Zstd => "-zstd",
        }
    }

    /// The coding with the highest weight in the client's header; among equals the smaller one. A
    /// header that cannot be read asks for no coding.
    pub fn wanted(headers: &HeaderMap) -> Self {
        let offered: Vec<(&str, u16)> = headers
            .get_all(ACCEPT_ENCODING)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(weighed)
            .collect();
        let named = |name: &str| offered.iter().find(|(coding, _)| coding.eq_ignore_ascii_case(name)).map(|(_, weight)| *weight);
        let any = named("*");
        let weight = |coding: Self| match coding.name() {
            Some("gzip") => named("gzip").or(named("x-gzip")).or(any).unwrap_or(0),
            Some(name) => named(name).or(any).unwrap_or(0),
            // Always acceptable, so that there is a form to send.
            None => named("identity").unwrap_or(0),
        };
        let best = Self::ALL.into_iter().map(|coding| (weight(coding), coding)).max_by_key(|(weight, coding)| (*weight, *coding as usize));
        best.filter(|(weight, _)| *weight > 0).map_or(Self::Identity, |(_, coding)| coding)
    }

    /// Encodes the bytes. Blocks.
    ///
    /// # Errors
    /// When memory is short.
    pub fn encode(self, bytes: &Bytes) -> Result<Bytes, Error> {
        match self {
            Self::Identity => Ok(bytes.clone()),
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::new(GZIP_LEVEL));
                encoder.write_all(bytes)?;
                Ok(encoder.finish()?.into())
            }
            Self::Zstd => Ok(zstd::bulk::compress(bytes, ZSTD_LEVEL)?.into()),
        }
    }
}

/// One item of the header: a coding and its weight in thousandths.
fn weighed(item: &str) -> Option<(&str, u16)> {
    let mut parts = item.split(';');
    let coding = parts.next()?.trim();
    let weight = match parts.find_map(|part| part.trim().strip_prefix("q=").or_else(|| part.trim().strip_prefix("Q="))) {
        None => 1.0,
        Some(text) => text.trim().parse::<f32>().ok().filter(|weight| (0.0..=1.0).contains(weight))?,
    };
    // The check above keeps the weight in range.
    (!coding.is_empty()).then_some((coding, (weight * 1_000.0) as u16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_gets_what_it_weighs_highest() {
        let wanted = |text: &str| {
            let headers: HeaderMap = [(ACCEPT_ENCODING, text.parse().unwrap())].into_iter().collect();
            Coding::wanted(&headers).name().unwrap_or("identity")
        };
        let cases = [
            ("gzip, deflate, br, zstd", "zstd"),
            ("gzip, deflate, br", "gzip"),
            ("zstd;q=0.2, gzip;q=0.8", "gzip"),
            ("*", "zstd"),
            ("*;q=0.1, identity", "identity"),
            ("zstd;q=0, *", "gzip"),
            ("GZIP;Q=1.0", "gzip"),
            ("x-gzip", "gzip"),
            ("br", "identity"),
            ("gzip;q=2", "identity"),
            ("gzip;q=0", "identity"),
            (";;,", "identity"),
            ("identity;q=0", "identity"),
        ];
        for (header, coding) in cases {
            assert_eq!(wanted(header), coding, "{header}");
        }
        assert_eq!(Coding::wanted(&HeaderMap::new()), Coding::Identity);
    }

    #[test]
    fn each_coding_gives_the_bytes_back() {
        let bytes = Bytes::from("catalog ".repeat(1_000));
        let mut plain = Vec::new();
        let packed = Coding::Gzip.encode(&bytes).unwrap();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed[..]), &mut plain).unwrap();
        assert_eq!(plain, bytes);
        assert_eq!(zstd::bulk::decompress(&Coding::Zstd.encode(&bytes).unwrap(), 100_000).unwrap(), bytes);
    }
}
