//! The public address as a QR code.

use clap::builder::styling::{Ansi256Color, Style};
use qrcode::render::svg::Color;
use qrcode::render::unicode::Dense1x2;
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

/// Black on white of the palette that a terminal's theme does not change.
const BLACK: Ansi256Color = Ansi256Color(16);
const WHITE: Ansi256Color = Ansi256Color(231);

/// Widest code for a terminal: most are at least this wide, and a broken line breaks the code.
const MAX_COLUMNS: usize = 80;

/// Returns the code as lines for a terminal, dark on light whatever its theme; none if it is too
/// wide.
pub(crate) fn terminal_lines(text: &str) -> Vec<String> {
    let Ok(code) = QrCode::with_error_correction_level(text, EcLevel::L) else {
        return Vec::new();
    };
    let image = code.render::<Dense1x2>().quiet_zone(true).build();
    if image.lines().any(|line| line.chars().count() > MAX_COLUMNS) {
        return Vec::new();
    }
    let style = Style::new()
        .fg_color(Some(BLACK.into()))
        .bg_color(Some(WHITE.into()));
    image
        .lines()
        .map(|line| format!("{style}{line}{style:#}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_terminal_are_a_square_in_fixed_colours() {
        let lines = terminal_lines("https://sn0001.ui.example.com/");
        // Two modules in height per character; the code and its quiet zone are square.
        let width = |line: &String| {
            line.chars()
                .filter(|c| " \u{2580}\u{2584}\u{2588}".contains(*c))
                .count()
        };
        assert!(
            lines
                .iter()
                .all(|line| width(line).div_ceil(2) == lines.len()),
            "{lines:?}"
        );
        assert!(
            lines
                .iter()
                .all(|line| line.starts_with("\u{1b}[") && line.ends_with("\u{1b}[0m"))
        );
        assert!(terminal_lines(&"x".repeat(2000)).is_empty());
    }

    #[test]
    fn code_is_one_svg_element() {
        let svg = svg("https://sn0001.ui.example.com/");
        assert!(svg.starts_with("<svg role=\"img\""), "{svg}");
        assert!(svg.ends_with("</svg>"), "{svg}");
        assert_eq!(super::svg(&"x".repeat(10_000)), "");
    }
}
