//! The form in which texts count as the same.

/// The letters and digits of a text in lower case, with one space between words.
pub(crate) fn normalized(text: &str) -> String {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_alphanumeric());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    words.join(" ")
}
