//! The ids of tool calls to which neither the engine nor the server gave one.

/// The characters of the random part of an id.
const ID_LENGTH: usize = 24;

/// Returns a new id of a call.
pub(crate) fn new_call_id() -> String {
    let characters = std::iter::repeat_with(fastrand::alphanumeric);
    let mut id = "call_".to_owned();
    id.extend(characters.take(ID_LENGTH));
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ() {
        assert_ne!(new_call_id(), new_call_id());
        assert_eq!(new_call_id().len(), "call_".len() + ID_LENGTH);
    }
}
