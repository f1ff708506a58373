//! JSON bodies, and errors that say where they are wrong.

use serde::Deserialize;
use serde_json::Deserializer;

use crate::Error;

/// Parses a body, the client's or one that came over [`crate::http`].
pub(crate) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|error| explain::<T>(body, &error))
}

/// Parses once more, now noting the path: what goes well need not pay for that.
#[cold]
fn explain<'a, T: Deserialize<'a>>(body: &'a [u8], error: &serde_json::Error) -> Error {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Error::bad_request("the body is empty; JSON was expected");
    }
    if !error.is_data() {
        return Error::bad_request(format!("the body is not valid JSON: {error}"));
    }
    match serde_path_to_error::deserialize::<_, T>(&mut Deserializer::from_slice(body)) {
        Err(located) if located.path().iter().next().is_some() => {
            let path = located.path().to_string();
            Error::bad_request(format!("{path}: {}", located.inner())).with_field(path)
        }
        _ => Error::bad_request(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Image<'a> {
        #[serde(rename = "name")]
        _name: &'a str,
        #[serde(rename = "rows")]
        _rows: Vec<Vec<f32>>,
    }

    fn error(body: &str) -> (String, Option<String>) {
        let error = parse::<Image>(body.as_bytes()).unwrap_err();
        assert_eq!(error.status(), 400);
        (error.detail().to_string(), error.field().map(str::to_string))
    }

    #[test]
    fn a_wrong_value_is_named_by_its_path() {
        let (detail, field) = error(r#"{"name": "a", "rows": [[1, 2], [3, "x"]]}"#);
        assert_eq!(field.as_deref(), Some("rows[1][1]"));
        assert!(
            detail.starts_with("rows[1][1]: invalid type: string \"x\", expected f32 at line 1"),
            "{detail}"
        );
    }

    #[test]
    fn a_missing_field_is_named() {
        assert_eq!(error(r#"{"name": "a"}"#).0, "missing field `rows` at line 1 column 13");
    }

    #[test]
    fn broken_and_empty_bodies_say_so() {
        assert!(error(r#"{"name": "#).0.starts_with("the body is not valid JSON: EOF"));
        assert_eq!(error(" \n").0, "the body is empty; JSON was expected");
        assert!(error(r#"{"name": "a", "rows": []} x"#).0.contains("trailing characters"));
    }

    #[test]
    fn strings_may_borrow_from_the_body() {
        assert!(parse::<Image>(br#"{"name": "a", "rows": [[]]}"#).is_ok());
    }
}
