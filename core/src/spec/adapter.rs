//! The rules of models that are adapters of others.

use super::{EngineKind, Model, ValidationErrors, engine};

impl EngineKind {
    /// Returns whether the engine may compute models with adapters. `Auto` is one that may with most files.
    #[must_use]
    pub fn has_adapters(self) -> bool {
        match self {
            Self::Auto | Self::Llama | Self::Simulated => true,
            Self::Mistral | Self::Upstream => false,
        }
    }
}

impl Model {
    /// Checks the fields of an adapter. Most options are those of the process that it shares with its base.
    pub(super) fn validate_adapter(&self, errors: &mut ValidationErrors) {
        let spec = &self.spec;
        let Some(base) = &spec.base else {
            return;
        };
        errors.add_if(
            base == self.name(),
            "spec.base",
            "must be the name of another model",
        );
        errors.add_if(
            !spec.engine.has_adapters(),
            "spec.engine",
            format!(
                "must be llama or auto, as the model is an adapter of '{base}', is {}",
                spec.engine
            ),
        );
        errors.add_if(
            spec.format.is_some(),
            "spec.format",
            "does not apply to an adapter: remove it",
        );
        let options = spec.options.set_options();
        let of_base = options.filter(|(option, readers)| {
            spec.engine.computes()
                && readers.contains(&spec.engine)
                && !engine::ADAPTER_OPTIONS.contains(option)
        });
        for (option, _) in of_base {
            errors.add(
                &format!("spec.options.{option}"),
                format!("applies to the base '{base}': set it there"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::model;
    use super::*;

    fn adapter(fields: &str) -> Result<Model, String> {
        model(&format!("{{base: chat, source: {{path: /a}}{fields}}}"))
    }

    #[test]
    fn adapter_has_its_own_template_and_limits() {
        for fields in [
            "",
            ", engine: llama",
            ", options: {chatTemplate: x, maxPromptSeconds: 3}",
            ", memory: 20MiB, zones: [z], concurrency: 2, maxTokens: 9, systemPrompt: {text: x}",
        ] {
            let model = adapter(fields).unwrap();
            assert_eq!(model.spec.base.unwrap().as_str(), "chat");
        }
    }

    #[test]
    fn options_of_the_whole_process_are_those_of_the_base() {
        for option in [
            "contextLength: 2048",
            "kvCacheType: q8_0",
            "threads: 2",
            "gpuLayers: 1",
            "flashAttention: true",
            "pipeline: text",
            "dtype: f32",
        ] {
            let text = adapter(&format!(", options: {{{option}}}")).unwrap_err();
            let name = option.split(':').next().unwrap();
            let expected = format!("spec.options.{name} applies to the base 'chat': set it there");
            assert!(text.contains(&expected), "{text}");
        }
        // An option of another engine has one reason.
        let text = adapter(", options: {url: 'http://x/v1'}").unwrap_err();
        assert!(!text.contains("base"), "{text}");
    }

    #[test]
    fn what_no_adapter_can_have_is_refused() {
        for (fields, expected) in [
            (", engine: mistral", "spec.engine must be llama or auto"),
            (", format: gguf", "spec.format does not apply to an adapter"),
        ] {
            let text = adapter(fields).unwrap_err();
            assert!(text.contains(expected), "{text}");
        }
        let text = model("{base: m}").unwrap_err();
        for expected in [
            "spec.base must be the name of another",
            "spec.source is needed",
        ] {
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn memory_of_an_adapter_limits_no_process() {
        let without = adapter("").unwrap();
        let with = adapter(", memory: 1MiB").unwrap();
        assert_eq!(with.spec.runner_memory_limit(), None);
        assert_eq!(with.serving_revision(), without.serving_revision());
    }
}
