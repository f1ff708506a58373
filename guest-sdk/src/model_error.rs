use http::StatusCode;

use crate::ElementType;
use crate::nn::errors;

/// Why a model gave no answer.
///
/// `?` in a handler makes it a response: [`ModelErrorKind::InvalidInput`] a 400 that says so,
/// [`ModelErrorKind::Timeout`] a 504, and the rest a 500. The causes of a 504 and a 500 are logged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("model \"{model}\": {kind}")]
pub struct ModelError {
    /// The model's name.
    pub model: String,
    /// What went wrong.
    pub kind: ModelErrorKind,
}

/// What went wrong with a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelErrorKind {
    /// The function has no model of that name.
    #[error("not found; vesta.toml names the function's models{}", in_brackets(.0))]
    NotFound(String),
    /// An input is missing, unknown, or of the wrong type or shape; in the host's words, with what the model
    /// takes and what was given.
    #[error("{}", or(.0, "it does not take these inputs"))]
    InvalidInput(String),
    /// There was no time left to run it.
    #[error("out of time{}", in_brackets(.0))]
    Timeout(String),
    /// Anything else that the host reports.
    #[error("{code}{}", in_brackets(.detail))]
    Host {
        /// The name of the code in `wasi:nn`.
        code: &'static str,
        /// The host's words.
        detail: String,
    },
    /// The function asked for an output that the model does not have.
    #[error("it has no output \"{output}\", but {}", .available.join(", "))]
    NoOutput {
        /// The name asked for.
        output: String,
        /// The names there are.
        available: Vec<String>,
    },
    /// An output is not of the type that the function asked for.
    #[error("output \"{output}\" is {}, not {expected}", of_wasi(*.actual))]
    OutputType {
        /// The output's name.
        output: String,
        /// The type asked for.
        expected: ElementType,
        /// The type it has.
        actual: ElementType,
    },
    /// The host's tensor has other bytes than its shape says.
    #[error("output \"{output}\" of shape {shape:?} came with {bytes} bytes")]
    BadOutput {
        /// The output's name.
        output: String,
        /// The shape that the host named.
        shape: Vec<u32>,
        /// The length of its data.
        bytes: usize,
    },
}

fn or<'a>(detail: &'a str, otherwise: &'a str) -> &'a str {
    if detail.is_empty() { otherwise } else { detail }
}

/// `wasi:nn` names three types alike.
fn of_wasi(actual: ElementType) -> String {
    if actual == ElementType::U8 { "u8, i8 or bool".into() } else { actual.to_string() }
}

fn in_brackets(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(" ({detail})") }
}

impl ModelError {
    /// What a client reads of it.
    pub(crate) fn status(&self) -> StatusCode {
        match self.kind {
            ModelErrorKind::InvalidInput(_) => StatusCode::BAD_REQUEST,
            ModelErrorKind::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    #[cold]
    pub(crate) fn from_wasi(model: &str, error: &errors::Error) -> ModelError {
        use errors::ErrorCode as Code;
        let detail = error.data();
        let kind = match error.code() {
            Code::NotFound => ModelErrorKind::NotFound(detail),
            Code::InvalidArgument => ModelErrorKind::InvalidInput(detail),
            Code::Timeout => ModelErrorKind::Timeout(detail),
            Code::InvalidEncoding => ModelErrorKind::Host { code: "invalid encoding", detail },
            Code::RuntimeError => ModelErrorKind::Host { code: "runtime error", detail },
            Code::UnsupportedOperation => ModelErrorKind::Host { code: "unsupported operation", detail },
            Code::TooLarge => ModelErrorKind::Host { code: "too large", detail },
            Code::Security => ModelErrorKind::Host { code: "not permitted", detail },
            Code::Unknown => ModelErrorKind::Host { code: "unknown error", detail },
        };
        ModelError { model: model.to_string(), kind }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_model_and_the_mistake() {
        let say = |kind| ModelError { model: "digits".into(), kind }.to_string();
        assert_eq!(
            say(ModelErrorKind::NoOutput { output: "x".into(), available: vec!["a".into(), "b".into()] }),
            "model \"digits\": it has no output \"x\", but a, b"
        );
        let (expected, actual) = (ElementType::F32, ElementType::I64);
        assert_eq!(
            say(ModelErrorKind::OutputType { output: "y".into(), expected, actual }),
            "model \"digits\": output \"y\" is i64, not f32"
        );
        let (expected, actual) = (ElementType::F32, ElementType::U8);
        assert!(
            say(ModelErrorKind::OutputType { output: "y".into(), expected, actual })
                .ends_with("output \"y\" is u8, i8 or bool, not f32")
        );
        let wrong = "input \"x\" must be [?, 64], not [1, 3]";
        assert_eq!(say(ModelErrorKind::InvalidInput(wrong.into())), format!("model \"digits\": {wrong}"));
        assert_eq!(say(ModelErrorKind::Timeout(String::new())), "model \"digits\": out of time");
    }

    #[test]
    fn wrong_inputs_are_a_400_that_says_so_a_timeout_a_504_and_the_rest_a_500() {
        let error = |kind| crate::Error::from(ModelError { model: "m".into(), kind });
        let wrong = error(ModelErrorKind::InvalidInput("input \"x\" must be [2], not [3]".into()));
        assert_eq!(
            (wrong.status().as_u16(), wrong.detail()),
            (400, "model \"m\": input \"x\" must be [2], not [3]")
        );
        assert!(wrong.cause().is_none());
        assert_eq!(error(ModelErrorKind::Timeout(String::new())).status(), 504);
        let failed = error(ModelErrorKind::Host { code: "runtime error", detail: "secret".into() });
        assert_eq!(failed.status(), 500);
        assert!(!failed.detail().contains("secret") && failed.causes().unwrap().contains("secret"));
        assert_eq!(error(ModelErrorKind::NotFound(String::new())).status(), 500);
    }
}
