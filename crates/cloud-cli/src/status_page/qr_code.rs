//! The public address as a QR code.

use qrcode::render::svg::Color;
use qrcode::{EcLevel, QrCode};

/// Returns the code as an SVG element, dark on light for every reader; empty if the text is too
/// long for a code.
pub(super) fn svg(text: &str) -> String {
    let Ok(code) = QrCode::with_error_correction_level(text, EcLevel::L) else {
        return String::new();
    };
    let svg = code
        .render::<Color<'_>>()
        .dark_color(Color("#000"))
        .light_color(Color("#fff"))
        .quiet_zone(true)
        .build();
    // Without the XML declaration, which HTML does not have.
    let element = svg.find("<svg").and_then(|start| svg.get(start..));
    element.unwrap_or_default().replacen(
        "<svg",
        r#"<svg role="img" aria-label="QR code of the address""#,
        1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_one_svg_element() {
        let svg = svg("https://sn0001.ui.example.com/");
        assert!(svg.starts_with("<svg role=\"img\""), "{svg}");
        assert!(svg.ends_with("</svg>"), "{svg}");
        assert_eq!(super::svg(&"x".repeat(10_000)), "");
    }
}
