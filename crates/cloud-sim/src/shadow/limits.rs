//! The limits of a shadow document.

/// Longest state document in bytes, metadata not counted, as in AWS IoT Core.
pub(super) const MAX_DOCUMENT: usize = 8 * 1024;

/// Levels of nesting inside a section, a key of the section itself being the first. AWS names 5, 6
/// and 8 in different places; the strictest one here, so that a device that passes here passes
/// everywhere.
pub(super) const MAX_DEPTH: usize = 5;
