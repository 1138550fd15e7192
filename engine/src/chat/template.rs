//! Renders a conversation with the chat template of a model, as `transformers` does.

use flotilla_core::generate::{ChatMessage, ToolCall};
use minijinja::value::Value as TemplateValue;
use minijinja::{Environment, Error, ErrorKind};
use serde_json::{Map, Value};

use super::control_tokens::ControlTokens;
use super::json::{self, OrderedMap, template_value};
use super::tool_prompt::ToolPlace;

/// The name of the template for a conversation, and of the only template of most models.
const DEFAULT: &str = "default";
/// The name of the template for a conversation with tools, where it has its own.
const TOOL_USE: &str = "tool_use";

/// The templates of a model, compiled.
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    /// The texts of all templates.
    text: String,
    special_tokens: SpecialTokens,
}

/// The texts of the tokens that templates print.
#[derive(Debug, Clone, Default)]
pub(crate) struct SpecialTokens {
    pub(crate) bos: Option<String>,
    pub(crate) eos: Option<String>,
    pub(crate) unknown: Option<String>,
}

/// What is rendered.
pub(crate) struct Conversation<'a> {
    pub(crate) messages: &'a [ChatMessage],
    /// The tools in OpenAI's form. Empty if the model must not call any.
    pub(crate) tools: &'a [Value],
    /// Further variables of the template.
    pub(crate) arguments: &'a Map<String, Value>,
}

/// Why a conversation cannot be rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RenderError {
    /// The template itself refuses the conversation, with this text.
    Refused(String),
    /// The template fails.
    Failed(String),
}

impl ChatTemplate {
    /// Compiles templates, each with its name. A model with one template calls it `default`.
    ///
    /// # Errors
    /// What is wrong with a template, and where.
    pub(crate) fn compile(
        templates: Vec<(String, String)>,
        special_tokens: SpecialTokens,
    ) -> Result<Self, String> {
        let mut environment = Environment::new();
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_lstrip_blocks(true);
        environment.set_trim_blocks(true);
        environment.add_filter("tojson", json::to_json);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        let mut text = String::new();
        for (name, source) in templates {
            text.push_str(&source);
            text.push('\n');
            // They mark what a model is trained on, and print nothing.
            let source = source
                .replace("{% generation %}", "")
                .replace("{% endgeneration %}", "")
                .replace("{%- generation %}", "")
                .replace("{%- endgeneration %}", "");
            environment
                .add_template_owned(name, source)
                .map_err(|error| first_line(&error))?;
        }
        Ok(Self {
            environment,
            text,
            special_tokens,
        })
    }

    /// The texts of all templates, to look for what they use.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether the template prints tools.
    pub(crate) fn knows_tools(&self) -> bool {
        let uses = |name| uses(&self.text, name);
        uses("tools") || uses("xml_tools") || self.environment.get_template(TOOL_USE).is_ok()
    }

    /// Where tools can be described to a model whose template does not know them. `None` if the template prints
    /// neither a system message nor the earlier turns of a conversation.
    pub(crate) fn tool_place(&self) -> Option<ToolPlace> {
        if self.prints_first_of(&["system", "user"]) {
            Some(ToolPlace::SystemMessage)
        } else if self.prints_first_of(&["user", "assistant", "user"]) {
            Some(ToolPlace::FirstUserMessage)
        } else {
            None
        }
    }

    /// Whether the template prints the first message of a conversation of these roles.
    fn prints_first_of(&self, roles: &[&str]) -> bool {
        const PROBE: &str = "probe";
        let texts = std::iter::once(PROBE).chain(std::iter::repeat("text"));
        let messages = roles.iter().zip(texts).map(|(role, content)| ChatMessage {
            role: (*role).into(),
            content: content.into(),
            ..ChatMessage::default()
        });
        let conversation = Conversation {
            messages: &messages.collect::<Vec<_>>(),
            tools: &[],
            arguments: &Map::new(),
        };
        let rendered = self.render(&conversation, &ControlTokens::new(&[]));
        rendered.is_ok_and(|text| text.contains(PROBE))
    }

    /// Renders a conversation up to the beginning of the answer. The texts of the client are protected.
    ///
    /// # Errors
    /// When the template refuses the conversation, or fails.
    pub(crate) fn render(
        &self,
        conversation: &Conversation<'_>,
        controls: &ControlTokens,
    ) -> Result<String, RenderError> {
        let protect = |text: &str| controls.protect(text);
        let mut variables = Vec::new();
        let mut set = |name: &str, value| variables.push((name.to_owned(), value));
        for (name, value) in conversation.arguments {
            set(name, template_value(value, &protect));
        }
        let messages = conversation.messages.iter();
        let messages = messages.map(|m| message_value(m, controls));
        set("messages", messages.collect::<Vec<_>>().into());
        set("add_generation_prompt", true.into());
        for (name, token) in [
            ("bos_token", &self.special_tokens.bos),
            ("eos_token", &self.special_tokens.eos),
            ("unk_token", &self.special_tokens.unknown),
        ] {
            if let Some(token) = token {
                set(name, token.as_str().into());
            }
        }
        if !conversation.tools.is_empty() {
            let tools = conversation.tools.iter();
            let tools: Vec<_> = tools.map(|tool| template_value(tool, &protect)).collect();
            // SmolLM3 has a name of its own for them.
            set("xml_tools", tools.clone().into());
            set("tools", tools.into());
        }
        let name = if conversation.tools.is_empty() {
            DEFAULT
        } else {
            TOOL_USE
        };
        let template = self.environment.get_template(name);
        let template = template.or_else(|_| self.environment.get_template(DEFAULT));
        let rendered =
            template.and_then(|template| template.render(OrderedMap(variables).into_value()));
        rendered.map_err(|error| render_error(&error))
    }
}

fn message_value(message: &ChatMessage, controls: &ControlTokens) -> TemplateValue {
    // Chat templates know only OpenAI's older name of the role.
    let role = match message.role.as_str() {
        "developer" => "system",
        role => role,
    };
    let content = match role {
        "assistant" => controls.protect_answer(&message.content),
        _ => controls.protect(&message.content),
    };
    let mut fields: Vec<(String, TemplateValue)> = vec![
        ("role".into(), controls.protect(role).into()),
        ("content".into(), content.into()),
    ];
    for (name, value) in [
        ("name", &message.name),
        ("tool_call_id", &message.tool_call_id),
    ] {
        if let Some(value) = value {
            fields.push((name.into(), controls.protect(value).into()));
        }
    }
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter();
        let calls = calls.map(|call| template_value(&call_json(call), &|t| controls.protect(t)));
        fields.push(("tool_calls".into(), calls.collect::<Vec<_>>().into()));
    }
    OrderedMap(fields).into_value()
}

fn call_json(call: &ToolCall) -> Value {
    // Templates print the arguments as an object if they are one.
    let arguments = serde_json::from_str(&call.arguments)
        .unwrap_or_else(|_| Value::String(call.arguments.clone()));
    serde_json::json!({
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    })
}

/// Marks the errors that templates raise themselves.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: String) -> Result<String, Error> {
    let error = Error::new(ErrorKind::InvalidOperation, message.clone());
    Err(error.with_source(Raised(message)))
}

fn strftime_now(format: &str) -> Result<String, Error> {
    let text = jiff::fmt::strtime::format(format, jiff::Timestamp::now());
    text.map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

fn render_error(error: &Error) -> RenderError {
    let raised = std::error::Error::source(error).and_then(|source| source.downcast_ref());
    match raised {
        Some(Raised(message)) => RenderError::Refused(message.clone()),
        None => RenderError::Failed(first_line(error)),
    }
}

fn first_line(error: &Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

/// Whether a template uses a variable of this name.
pub(crate) fn uses(template: &str, name: &str) -> bool {
    let is_part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    template.match_indices(name).any(|(index, _)| {
        let before = template[..index].chars().next_back();
        let after = template[index + name.len()..].chars().next();
        !before.is_some_and(is_part_of_name) && !after.is_some_and(is_part_of_name)
    })
}

#[cfg(test)]
mod tests {
    use super::super::control_tokens::AddedToken;
    use super::*;

    const CHAT_ML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n\
                           {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

    fn compile(source: &str) -> ChatTemplate {
        let templates = vec![(DEFAULT.to_owned(), source.to_owned())];
        let special_tokens = SpecialTokens {
            bos: Some("<s>".into()),
            ..SpecialTokens::default()
        };
        ChatTemplate::compile(templates, special_tokens).unwrap()
    }

    fn message(role: &str, content: &str) -> ChatMessage {
        ChatMessage {
            role: role.into(),
            content: content.into(),
            ..ChatMessage::default()
        }
    }

    fn render(template: &ChatTemplate, messages: &[ChatMessage]) -> Result<String, RenderError> {
        let controls = ControlTokens::new(&[AddedToken {
            text: "<|im_end|>".into(),
            is_special: true,
        }]);
        let conversation = Conversation {
            messages,
            tools: &[],
            arguments: &Map::new(),
        };
        template.render(&conversation, &controls)
    }

    #[test]
    fn control_tokens_of_the_template_stay_and_those_of_the_client_are_marked() {
        let messages = [
            message("developer", "be brief"),
            message("user", "a<|im_end|>b"),
        ];
        assert_eq!(
            render(&compile(CHAT_ML), &messages).unwrap(),
            "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\na<\u{FDD0}|im_end|>b<|im_end|>\n\
             <|im_start|>assistant\n"
        );
    }

    #[test]
    fn text_that_a_template_raises_is_distinguished_from_its_failure() {
        let user = [message("user", "hi")];
        let refused = render(&compile("{{ raise_exception('no system') }}"), &user);
        assert_eq!(refused, Err(RenderError::Refused("no system".into())));
        for broken in ["{{ messages[0].content.nothing() }}", "{{ messages + 1 }}"] {
            let failed = render(&compile(broken), &user);
            assert!(matches!(failed, Err(RenderError::Failed(_))), "{failed:?}");
        }
        let templates = vec![(DEFAULT.to_owned(), "{% if %}".to_owned())];
        assert!(ChatTemplate::compile(templates, SpecialTokens::default()).is_err());
    }

    #[test]
    fn python_methods_slices_and_training_marks_are_known() {
        let source = "{% generation %}{{ messages[::-1][0]['content'].strip().split(' ')[-1] }}\
                      {% endgeneration %}{{ strftime_now('%Y') | length }}{{ bos_token }}{{ eos_token }}";
        let user = [message("user", " good day ")];
        assert_eq!(render(&compile(source), &user).unwrap(), "day4<s>");
    }

    #[test]
    fn calls_and_tools_are_printed_in_their_order() {
        let template = compile(
            "{{ tools | tojson }}{% for m in messages %}{% for c in m.tool_calls %}{{ c.function | tojson }}\
             {% endfor %}{% endfor %}{{ flag }}",
        );
        assert!(template.knows_tools());
        assert!(!compile(CHAT_ML).knows_tools());
        let messages = [ChatMessage {
            tool_calls: vec![ToolCall {
                id: "1".into(),
                name: "f".into(),
                arguments: r#"{"b": 1, "a": 2}"#.into(),
            }],
            ..message("assistant", "")
        }];
        let arguments = serde_json::json!({"flag": true});
        let conversation = Conversation {
            messages: &messages,
            tools: &[serde_json::json!({"type": "function", "function": {"name": "f"}})],
            arguments: arguments.as_object().unwrap(),
        };
        assert_eq!(
            template
                .render(&conversation, &ControlTokens::new(&[]))
                .unwrap(),
            r#"[{"type": "function", "function": {"name": "f"}}]{"name": "f", "arguments": {"b": 1, "a": 2}}True"#
        );
    }
}
