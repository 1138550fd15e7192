//! Random texts that nobody can guess.

/// Returns a random text of 32 hexadecimal digits: 128 bits of the system's generator.
///
/// # Panics
/// If the system has no random numbers: then nothing that depends on secrets may go on.
#[must_use]
pub fn random_id() -> String {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random generator works");
    hex::encode(bytes)
}
