//! The patterns of names that PEFT's configurations have.

use regex::{Regex, RegexBuilder};

/// The most bytes of a pattern.
const MAX_BYTES: usize = 512;
/// The most memory of a compiled pattern, in bytes.
const MAX_COMPILED: usize = 1 << 16;

/// A regular expression for the last parts of a module's name.
#[derive(Debug, Clone)]
pub(super) struct Pattern(Regex);

impl Pattern {
    /// Compiles a pattern as PEFT understands it. `None` if it is too long, or no regular expression in linear time.
    pub(super) fn new(pattern: &str) -> Option<Self> {
        if pattern.len() > MAX_BYTES {
            return None;
        }
        let mut builder = RegexBuilder::new(&format!(r"^(?:.*\.)?(?:{pattern})$"));
        builder.size_limit(MAX_COMPILED).build().ok().map(Self)
    }

    pub(super) fn matches(&self, module: &str) -> bool {
        self.0.is_match(module)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_matches_whole_last_parts() {
        let matches = |pattern: &str| {
            let module = "model.layers.11.mlp.down_proj";
            Pattern::new(pattern).unwrap().matches(module)
        };
        assert!(matches("down_proj"));
        assert!(matches("model.layers.11.mlp.down_proj"));
        assert!(matches("^model.layers.11.mlp.down_proj"));
        assert!(matches(r"layers\.(10|11)\..*"));
        assert!(!matches("proj"));
        assert!(!matches("layers.1.mlp.down_proj"));
        assert!(!matches("layers.11.mlp"));
        assert!(!matches("^layers.11.mlp.down_proj"));
    }

    #[test]
    fn pattern_is_bounded() {
        assert!(Pattern::new("(?=ahead)").is_none());
        assert!(Pattern::new("((a{100}){100}){100}").is_none());
        assert!(Pattern::new(&"a".repeat(600)).is_none());
    }
}
