//! The formats that servers speak.
//!
//! An [`Endpoint`] is what a client asks for. A wire format is the form in which a server is asked;
//! it decides how the body reads and where it is posted. Today each format is the native form of
//! one endpoint, and some endpoints can be asked in two formats ([`super::every_form`]). A server
//! with another API (the model in the path, for example) adds a format here, and no endpoint.

use crate::domain::endpoint::{Endpoint, Endpoints, PassedPath};

/// The form of a request to a server, and of the server's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WireFormat {
    Responses,
    ChatCompletions,
    Completions,
    Embeddings,
    Moderations,
    ImagesGenerations,
    ImagesEdits,
    Videos,
    /// Anthropic, "Create a Message".
    AnthropicMessages,
    Rerank,
    RerankV2,
    Score,
    Tokenize,
    AudioTranscriptions,
    AudioTranslations,
    /// Whatever the server has at the path.
    PassedThrough(PassedPath),
}

impl WireFormat {
    /// The form in which clients ask this endpoint.
    pub const fn of(asked: Endpoint) -> Self {
        match asked {
            Endpoint::Responses => Self::Responses,
            Endpoint::ChatCompletions => Self::ChatCompletions,
            Endpoint::Completions => Self::Completions,
            Endpoint::Embeddings => Self::Embeddings,
            Endpoint::Moderations => Self::Moderations,
            Endpoint::ImagesGenerations => Self::ImagesGenerations,
            Endpoint::ImagesEdits => Self::ImagesEdits,
            Endpoint::Videos => Self::Videos,
            Endpoint::Messages => Self::AnthropicMessages,
            Endpoint::Rerank => Self::Rerank,
            Endpoint::RerankV2 => Self::RerankV2,
            Endpoint::Score => Self::Score,
            Endpoint::Tokenize => Self::Tokenize,
            Endpoint::AudioTranscriptions => Self::AudioTranscriptions,
            Endpoint::AudioTranslations => Self::AudioTranslations,
            Endpoint::PassedThrough(path) => Self::PassedThrough(path),
        }
    }

    /// The endpoint whose native form this is. Catalogs name what a lane serves by the endpoint.
    pub const fn endpoint(self) -> Endpoint {
        match self {
            Self::Responses => Endpoint::Responses,
            Self::ChatCompletions => Endpoint::ChatCompletions,
            Self::Completions => Endpoint::Completions,
            Self::Embeddings => Endpoint::Embeddings,
            Self::Moderations => Endpoint::Moderations,
            Self::ImagesGenerations => Endpoint::ImagesGenerations,
            Self::ImagesEdits => Endpoint::ImagesEdits,
            Self::Videos => Endpoint::Videos,
            Self::AnthropicMessages => Endpoint::Messages,
            Self::Rerank => Endpoint::Rerank,
            Self::RerankV2 => Endpoint::RerankV2,
            Self::Score => Endpoint::Score,
            Self::Tokenize => Endpoint::Tokenize,
            Self::AudioTranscriptions => Endpoint::AudioTranscriptions,
            Self::AudioTranslations => Endpoint::AudioTranslations,
            Self::PassedThrough(path) => Endpoint::PassedThrough(path),
        }
    }

    /// Whether a request is a form with a recording.
    pub const fn takes_audio(self) -> bool {
        self.endpoint().takes_audio()
    }
}

/// Whether a lane that serves these endpoints can be asked in one of these formats. If the lane's
/// endpoints are unknown, every format may work.
pub fn can_be_asked(formats: &[WireFormat], served: Endpoints) -> bool {
    served.is_empty() || formats.iter().any(|format| served.contains(format.endpoint()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::format::every_form;

    #[test]
    fn an_endpoint_is_asked_in_its_own_form_first() {
        for asked in Endpoint::ALL {
            assert_eq!(WireFormat::of(asked).endpoint(), asked);
            assert_eq!(every_form(asked).first(), Some(&WireFormat::of(asked)));
        }
    }
}
