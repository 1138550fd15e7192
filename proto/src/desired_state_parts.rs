//! Desired states in parts: a node may run more models, with more files, than fit into one message.
//!
//! The sender splits a desired state into messages of bounded size, all but the last of which have
//! `more` set. The receiver collects them and acts on the complete state only.

use prost::Message;

use crate::v1::{DesiredModel, DesiredState};

/// Size at which a part is full, in bytes.
const PART_BYTES: usize = 1 << 20;
/// Largest model in a desired state, in bytes: its resource and the list of its files. Larger ones
/// cannot be stored either.
pub const MAX_MODEL_BYTES: usize = 8 << 20;
/// Largest desired state of one node, in bytes.
pub const MAX_STATE_BYTES: usize = 256 << 20;
/// Largest message with a part, in bytes.
pub const MAX_PART_BYTES: usize = PART_BYTES + MAX_MODEL_BYTES;

/// A desired state in parts.
#[derive(Debug, Default)]
pub struct SplitState {
    /// The messages, in order. There is at least one.
    pub parts: Vec<DesiredState>,
    /// Names of the models that are in no part because they are too large.
    pub left_out: Vec<String>,
}

/// The received parts exceed [`MAX_STATE_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the desired state is larger than {} MiB", MAX_STATE_BYTES >> 20)]
pub struct StateTooLarge;

/// Splits a desired state into parts.
#[must_use]
pub fn split(mut state: DesiredState) -> SplitState {
    let mut split = SplitState::default();
    let mut models = Vec::new();
    let (mut part_bytes, mut total_bytes) = (0, 0);
    for model in std::mem::take(&mut state.models) {
        let bytes = model.encoded_len();
        if bytes > MAX_MODEL_BYTES || total_bytes + bytes > MAX_STATE_BYTES {
            split.left_out.push(model.name);
            continue;
        }
        if part_bytes + bytes > PART_BYTES && !models.is_empty() {
            split.parts.push(DesiredState {
                models: std::mem::take(&mut models),
                more: true,
                ..state.clone()
            });
            part_bytes = 0;
        }
        part_bytes += bytes;
        total_bytes += bytes;
        models.push(model);
    }
    split.parts.push(DesiredState { models, ..state });
    split
}

/// The parts of a desired state that have arrived so far.
#[derive(Debug, Default)]
pub struct PartialState {
    models: Vec<DesiredModel>,
    bytes: usize,
}

impl PartialState {
    /// Adds the next part. Returns the whole desired state with the last one.
    ///
    /// # Errors
    /// [`StateTooLarge`]; the parts so far are dropped then.
    pub fn add(&mut self, mut part: DesiredState) -> Result<Option<DesiredState>, StateTooLarge> {
        self.bytes += part.models.iter().map(Message::encoded_len).sum::<usize>();
        if self.bytes > MAX_STATE_BYTES {
            *self = Self::default();
            return Err(StateTooLarge);
        }
        self.models.append(&mut part.models);
        if part.more {
            return Ok(None);
        }
        let models = std::mem::take(self).models;
        Ok(Some(DesiredState { models, ..part }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(model_bytes: &[usize]) -> DesiredState {
        let models = model_bytes.iter().enumerate();
        DesiredState {
            models: models
                .map(|(index, bytes)| DesiredModel {
                    name: format!("m{index}"),
                    resource_json: "x".repeat(*bytes),
                    ..DesiredModel::default()
                })
                .collect(),
            fleet_id: "f".into(),
            store_revision: 7,
            controllers: vec!["a:1".into()],
            ..DesiredState::default()
        }
    }

    #[test]
    fn parts_are_bounded_and_make_up_the_whole_state() {
        for sizes in [
            vec![],
            vec![10],
            vec![400 << 10; 20],
            vec![5 << 20, 10, 10, PART_BYTES, 10],
        ] {
            let whole = state(&sizes);
            let split = split(whole.clone());
            assert!(split.left_out.is_empty());
            let last = split.parts.len() - 1;
            let mut partial = PartialState::default();
            for (index, part) in split.parts.into_iter().enumerate() {
                assert!(part.encoded_len() <= MAX_PART_BYTES);
                assert_eq!(part.more, index < last);
                let complete = partial.add(part).unwrap();
                assert_eq!(complete, (index == last).then(|| whole.clone()));
            }
        }
        assert!(split(state(&[400 << 10; 20])).parts.len() > 5);
    }

    #[test]
    fn only_the_model_that_is_too_large_is_left_out() {
        let split = split(state(&[10, MAX_MODEL_BYTES, 20]));
        assert_eq!(split.left_out, ["m1"]);
        let models: Vec<_> = split.parts.iter().flat_map(|part| &part.models).collect();
        assert_eq!(models.len(), 2);
    }

    #[test]
    fn endless_parts_are_refused() {
        let part = DesiredState {
            more: true,
            ..state(&[MAX_MODEL_BYTES])
        };
        let mut partial = PartialState::default();
        let refused = (0..40).find(|_| partial.add(part.clone()).is_err());
        assert_eq!(refused, Some(31));
    }
}
