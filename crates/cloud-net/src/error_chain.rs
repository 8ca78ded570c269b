//! Errors with their causes.

use std::error::Error;

/// Formats an error and its causes. Omits causes whose text is already there, as some errors print
/// their cause.
#[must_use]
pub fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in causes(error) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// Returns the last cause: the error of the system, its resolver or TLS. The outer ones of an HTTP
/// library only say that a request could not be sent.
#[must_use]
pub fn root_cause<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    causes(error).last().unwrap_or(error)
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(error.source(), |&error| error.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    fn layers(texts: &[&'static str]) -> Layer {
        let (text, rest) = texts.split_first().unwrap();
        Layer {
            text,
            source: (!rest.is_empty()).then(|| Box::new(layers(rest))),
        }
    }

    #[test]
    fn repeated_causes_are_omitted() {
        assert_eq!(
            error_chain(&layers(&["no answer", "refused", "os error 111"])),
            "no answer: refused: os error 111"
        );
        assert_eq!(
            error_chain(&layers(&["no answer: refused", "refused"])),
            "no answer: refused"
        );
    }

    #[test]
    fn root_cause_is_the_last_one() {
        let error = layers(&["no answer", "refused", "os error 111"]);
        assert_eq!(root_cause(&error).to_string(), "os error 111");
        assert_eq!(root_cause(&layers(&["refused"])).to_string(), "refused");
    }
}
