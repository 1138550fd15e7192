//! The arguments of the chat template that a request sets.

use flotilla_core::generate::{GenerateRequest, RequestError, parse_template_args};
use serde_json::{Map, Value};

use crate::LoadError;
use crate::chat::template::uses;

const ENABLE_THINKING: &str = "enable_thinking";
const REASONING_EFFORT: &str = "reasoning_effort";
/// Variables that every template gets from the conversation itself.
const RESERVED: [&str; 3] = ["messages", "tools", "add_generation_prompt"];

/// The arguments, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct TemplateArgs(pub(crate) Map<String, Value>);

impl TemplateArgs {
    /// Sets an argument. The error says what is wrong with it.
    fn set(&mut self, name: &str, value: &Value, template: &str) -> Result<(), String> {
        match name {
            ENABLE_THINKING if !value.is_boolean() => {
                return Err("The value must be true or false.".to_owned());
            }
            REASONING_EFFORT => {
                let effort = value.as_str().ok_or("The value must be a text.")?;
                return self.set_effort(effort, template);
            }
            name if RESERVED.contains(&name) => {
                return Err("This argument comes from the conversation itself.".to_owned());
            }
            _ => {}
        }
        self.0.insert(name.to_owned(), value.clone());
        Ok(())
    }

    /// Sets how much the model thinks, by the means that its template has.
    fn set_effort(&mut self, effort: &str, template: &str) -> Result<(), String> {
        let (name, value) = if uses(template, REASONING_EFFORT) && effort != "none" {
            let effort = match effort {
                "minimal" | "low" => "low",
                "medium" => "medium",
                "high" | "xhigh" => "high",
                _ => return Err(format!("'{effort}' is not an effort of this model.")),
            };
            (REASONING_EFFORT, effort.into())
        } else if uses(template, ENABLE_THINKING) {
            (ENABLE_THINKING, (effort != "none").into())
        } else if effort != "none" || uses(template, REASONING_EFFORT) {
            return Err(format!(
                "The model cannot reason with the effort '{effort}'."
            ));
        } else {
            return Ok(());
        };
        self.0.insert(name.to_owned(), value);
        Ok(())
    }
}

/// Returns the arguments of a request. `template` is the text of the model's chat template.
///
/// An argument that the template does not use changes nothing, as in Jinja.
///
/// # Errors
/// When an argument is not one of a client, or when the model has no effort of reasoning.
pub(crate) fn template_args<M>(
    request: &GenerateRequest<M>,
    template: &str,
) -> Result<TemplateArgs, RequestError> {
    let mut args = TemplateArgs::default();
    let json = request.chat_template_args.as_deref().unwrap_or("{}");
    let fields = parse_template_args(json).map_err(|problem| {
        let message = format!("'chat_template_kwargs' {problem}.");
        RequestError::invalid("chat_template_kwargs", message)
    })?;
    for (name, value) in &fields {
        args.set(name, value, template).map_err(|problem| {
            RequestError::invalid(format!("chat_template_kwargs.{name}"), problem)
        })?;
    }
    // The model's owner may have set the same by an argument.
    if let Some(effort) = &request.reasoning_effort {
        args.set_effort(effort, template)
            .map_err(|problem| RequestError::invalid(REASONING_EFFORT, problem))?;
    }
    Ok(args)
}

/// Checks the arguments of a model's spec, so that they do not make every request fail.
///
/// # Errors
/// [`LoadError::Spec`] when one of them would be refused in a request.
pub(crate) fn check_defaults(
    defaults: &Map<String, Value>,
    template: &str,
) -> Result<(), LoadError> {
    let mut args = TemplateArgs::default();
    for (name, value) in defaults {
        args.set(name, value, template).map_err(|problem| {
            LoadError::Spec(format!("spec.defaults.chatTemplateArgs.{name}: {problem}"))
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::ModelName;
    use flotilla_core::generate::GenerateInput;

    const QWEN: &str = "{% if enable_thinking is false %}<think></think>{% endif %}";
    const GPT_OSS: &str = "Reasoning: {{ reasoning_effort }}";
    const PLAIN: &str = "{{ messages[0].content }}{{ custom_flag }}";

    fn args(
        effort: Option<&str>,
        json: Option<&str>,
        template: &str,
    ) -> Result<TemplateArgs, String> {
        let request = GenerateRequest {
            reasoning_effort: effort.map(str::to_owned),
            chat_template_args: json.map(str::to_owned),
            ..GenerateRequest::new(
                ModelName::new("m").unwrap(),
                GenerateInput::Chat(Vec::new()),
            )
        };
        template_args(&request, template).map_err(|error| match error {
            RequestError::Invalid { param, .. } => param.unwrap(),
            error => panic!("{error:?}"),
        })
    }

    fn with(json: Value) -> TemplateArgs {
        TemplateArgs(json.as_object().unwrap().clone())
    }

    #[test]
    fn effort_is_passed_by_the_means_of_the_template() {
        let thinking = |enable: bool| with(serde_json::json!({"enable_thinking": enable}));
        let high = with(serde_json::json!({"reasoning_effort": "high"}));
        assert_eq!(args(Some("high"), None, GPT_OSS), Ok(high));
        assert_eq!(args(Some("none"), None, QWEN), Ok(thinking(false)));
        assert_eq!(args(Some("low"), None, QWEN), Ok(thinking(true)));
        assert_eq!(args(Some("none"), None, PLAIN), Ok(TemplateArgs::default()));
        assert_eq!(
            args(Some("low"), None, PLAIN),
            Err("reasoning_effort".into())
        );
        assert_eq!(
            args(Some("none"), None, GPT_OSS),
            Err("reasoning_effort".into())
        );
    }

    #[test]
    fn argument_is_passed_unless_it_is_the_conversations_own() {
        let set = |json, template| args(None, Some(json), template);
        for json in [
            r#"{"enable_thinking": false}"#,
            r#"{"custom_flag": true}"#,
            r#"{"other": 1}"#,
        ] {
            let passed = with(serde_json::from_str(json).unwrap());
            assert_eq!(set(json, PLAIN), Ok(passed));
        }
        let refused = |name: &str| Err(format!("chat_template_kwargs.{name}"));
        assert_eq!(set(r#"{"messages": []}"#, QWEN), refused("messages"));
        assert_eq!(
            set(r#"{"enable_thinking": "no"}"#, QWEN),
            refused("enable_thinking")
        );
        assert_eq!(set("[]", QWEN), Err("chat_template_kwargs".into()));
    }

    #[test]
    fn default_that_every_request_would_fail_with_is_an_error_of_the_spec() {
        let check = |args: Value, template| check_defaults(args.as_object().unwrap(), template);
        let usable = serde_json::json!({"enable_thinking": false, "other": 1});
        assert_eq!(check(usable.clone(), QWEN), Ok(()));
        assert_eq!(check(usable, PLAIN), Ok(()));
        for (args, name) in [
            (serde_json::json!({"messages": []}), "messages"),
            (
                serde_json::json!({"enable_thinking": "no"}),
                "enable_thinking",
            ),
            (
                serde_json::json!({"reasoning_effort": "high"}),
                "reasoning_effort",
            ),
        ] {
            let Err(LoadError::Spec(problem)) = check(args, PLAIN) else {
                panic!("{name} is accepted");
            };
            let field = format!("spec.defaults.chatTemplateArgs.{name}: ");
            assert!(problem.starts_with(&field), "{problem}");
        }
    }
}
