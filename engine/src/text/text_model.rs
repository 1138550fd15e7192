//! What is known of a model without its engine thread.

use std::sync::Arc;
use std::time::Duration;

use flotilla_core::generate::{
    ChatMessage, EmbedInput, GenerateInput, GenerateRequest, RequestError, ToolChoice,
};
use serde_json::Value;

use super::prompt_size;
use super::template_args::{TemplateArgs, template_args};
use super::vocabulary::Vocabulary;
use crate::chat::template::{ChatTemplate, Conversation, RenderError};
use crate::chat::tool_prompt::describe_tools;

/// How many times the tokens of the context a prompt's names, calls and tools may have: a template may print
/// only a part of them, and with less white space.
const PRINTED_PARTS_FACTOR: usize = 4;
/// The size of a chat, in bytes of its messages, up to which it is rendered before it is counted. That is
/// exact, as templates may leave out whole messages.
const SHORT_CHAT_BYTES: usize = 64 * 1024;

/// A model's vocabulary, template and limits.
pub(crate) struct TextModel {
    pub(crate) vocabulary: Arc<Vocabulary>,
    /// `None` if the model has no chat template.
    pub(crate) template: Option<Arc<ChatTemplate>>,
    /// The context length, in tokens.
    pub(crate) context: usize,
    /// How long the reading of one prompt may take.
    pub(crate) reading_limit: Duration,
}

/// A prompt as the engine reads it.
#[derive(Debug)]
pub(crate) struct Prompt {
    pub(crate) tokens: Vec<u32>,
    /// The rendered chat. Empty for other prompts.
    pub(crate) text: String,
}

impl TextModel {
    /// The text of the chat template. Empty if the model has none.
    pub(crate) fn template_text(&self) -> &str {
        self.template
            .as_ref()
            .map_or("", |template| template.text())
    }

    /// Turns the input of a request into a prompt. `tools` are those that the model may call.
    ///
    /// # Errors
    /// [`RequestError::ContextLength`] when it is too long, and [`RequestError::Invalid`] when it cannot be
    /// rendered.
    pub(crate) fn prompt(
        &self,
        request: &GenerateRequest,
        tools: &[Value],
    ) -> Result<Prompt, RequestError> {
        let prompt = match &request.input {
            GenerateInput::Tokens(tokens) => Prompt {
                tokens: tokens.clone(),
                text: String::new(),
            },
            // The client renders this prompt, so its control tokens are meant.
            GenerateInput::Text(text) => {
                self.check_texts(&[text], self.context)?;
                Prompt {
                    tokens: self.encode(text, true, "prompt")?,
                    text: String::new(),
                }
            }
            GenerateInput::Chat(messages) => {
                let text = self.render(request, messages, tools)?;
                Prompt {
                    tokens: self.encode(&text, false, "messages")?,
                    text,
                }
            }
        };
        if prompt.tokens.is_empty() {
            return Err(RequestError::invalid("prompt", "The prompt has no tokens."));
        }
        if prompt.tokens.len() >= self.context {
            return Err(self.too_long(prompt.tokens.len()));
        }
        Ok(prompt)
    }

    fn render(
        &self,
        request: &GenerateRequest,
        messages: &[ChatMessage],
        tools: &[Value],
    ) -> Result<String, RequestError> {
        let Some(template) = &self.template else {
            return Err(RequestError::invalid(
                "messages",
                "The model has no chat template, so it takes no conversations: send a prompt to /v1/completions, \
                 or give the model a template in its spec.options.chatTemplate.",
            ));
        };
        self.check_chat(request, messages)?;
        let TemplateArgs(arguments) = template_args(request, template.text())?;
        let mut conversation = Conversation {
            messages,
            tools,
            arguments: &arguments,
        };
        let described;
        // A template that prints one message of a conversation has no place for tools: its model was trained for
        // one kind of question, and answers that as ever.
        if !tools.is_empty()
            && !template.knows_tools()
            && let Some(place) = template.tool_place()
        {
            described = describe_tools(messages, tools, place);
            let texts = described.iter().map(|message| message.content.as_str());
            self.check_texts(&texts.collect::<Vec<_>>(), self.context)?;
            conversation.messages = &described;
            conversation.tools = &[];
        }
        let rendered = template.render(&conversation, &self.vocabulary.controls);
        rendered.map_err(|error| {
            let problem = match error {
                RenderError::Refused(problem) => format!("refuses the conversation: {problem}"),
                RenderError::Failed(problem) => format!("cannot print the conversation: {problem}"),
            };
            let problem = problem.trim_end_matches('.');
            let message = format!("The model's chat template {problem}.");
            RequestError::invalid("messages", message)
        })
    }

    /// Refuses a chat that certainly does not fit into the context, without rendering it.
    fn check_chat(
        &self,
        request: &GenerateRequest,
        messages: &[ChatMessage],
    ) -> Result<(), RequestError> {
        let contents: Vec<&str> = prompt_size::contents(messages).collect();
        // A message without text costs the template some bytes, too.
        let bytes: usize = contents.iter().map(|text| text.len() + 1).sum();
        if bytes > SHORT_CHAT_BYTES {
            self.check_texts(&contents, self.context)?;
        }
        let tools = match request.tool_choice {
            ToolChoice::None => &[],
            _ => &request.tools[..],
        };
        let parts = prompt_size::printed_parts(messages, tools, self.template_text());
        self.check_texts(&parts, self.context.saturating_mul(PRINTED_PARTS_FACTOR))
    }

    /// Turns an input of an embedding request into tokens. `param` names the input.
    ///
    /// # Errors
    /// As [`prompt`](Self::prompt).
    pub(crate) fn embed_tokens(
        &self,
        input: &EmbedInput,
        param: &str,
    ) -> Result<Vec<u32>, RequestError> {
        let tokens = match input {
            EmbedInput::Tokens(tokens) => tokens.clone(),
            EmbedInput::Text(text) => {
                self.check_texts(&[text], self.context)?;
                let text = self.vocabulary.controls.protect(text);
                self.encode(&text, true, param)?
            }
        };
        // mistral.rs 0.8.1 panics at a sequence of one token, and its thread ends.
        if tokens.len() < 2 {
            let message = "The model cannot make an embedding of an input of fewer than 2 tokens.";
            return Err(RequestError::invalid(param, message));
        }
        if tokens.len() > self.context {
            return Err(self.too_long(tokens.len()));
        }
        Ok(tokens)
    }

    fn encode(&self, text: &str, is_raw: bool, param: &str) -> Result<Vec<u32>, RequestError> {
        let tokens = (self.vocabulary.token_ids)(text, is_raw);
        let message = "The model's tokenizer cannot split the text.";
        tokens.ok_or_else(|| RequestError::invalid(param, message))
    }

    fn too_long(&self, tokens: usize) -> RequestError {
        RequestError::ContextLength(format!(
            "The prompt of {tokens} tokens is longer than the model's context of {} tokens.",
            self.context
        ))
    }

    /// Refuses texts of more than `limit` tokens together.
    fn check_texts(&self, texts: &[&str], limit: usize) -> Result<(), RequestError> {
        let bytes: usize = texts.iter().map(|text| text.len()).sum();
        let count = |piece: &str| self.vocabulary.count_tokens(piece);
        // A token has at least one byte; an empty text counts as one.
        let is_long = bytes.saturating_add(texts.len()) > limit;
        if is_long && prompt_size::exceeds(texts.iter().copied(), limit, count) {
            return Err(RequestError::ContextLength(format!(
                "The prompt is longer than the model's context of {} tokens.",
                self.context
            )));
        }
        Ok(())
    }
}

/// Refuses a prompt whose reading is expected to take longer than `limit`. `speed` is how fast this node reads, in
/// tokens per second.
pub(crate) fn check_reading_time(
    tokens: usize,
    speed: Option<f64>,
    limit: Duration,
) -> Result<(), RequestError> {
    let Some(speed) = speed else {
        return Ok(());
    };
    let seconds = tokens as f64 / speed;
    if seconds <= limit.as_secs_f64() {
        return Ok(());
    }
    Err(RequestError::ContextLength(format!(
        "The prompt of {tokens} tokens would take about {seconds:.0} s to read on this node, which reads {speed:.0} \
         tokens per second; a prompt may take {} s (the model's spec.options.maxPromptSeconds).",
        limit.as_secs()
    )))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::chat::control_tokens::ControlTokens;
    use crate::chat::template::SpecialTokens;
    use flotilla_core::ModelName;
    use flotilla_core::generate::{Tool, ToolCall};

    const TEMPLATE: &str = "{% for m in messages %}{{ m.content.split('</think>')[-1] }} {{ m.name or '' }}\
                            {{ m.tool_calls or '' }}{% endfor %}{{ tools }}{{ raise_exception('too many turns') \
                            if messages[0].content == 'refuse' }}";

    /// A model whose words are tokens, with a context of 100 of them.
    pub(crate) fn words(template: Option<&str>) -> TextModel {
        TextModel {
            vocabulary: Arc::new(Vocabulary {
                token_text: Box::new(|_| String::new()),
                token_ids: Box::new(|text, _| Some(vec![0; text.split_whitespace().count()])),
                controls: ControlTokens::new(&[]),
                grammars: None,
                end_tokens: Arc::new([]),
                more_end_tokens: Vec::new(),
            }),
            template: template.map(|text| {
                let templates = vec![("default".to_owned(), text.to_owned())];
                Arc::new(ChatTemplate::compile(templates, SpecialTokens::default()).unwrap())
            }),
            context: 100,
            reading_limit: Duration::from_secs(120),
        }
    }

    fn prompt_of(model: &TextModel, input: GenerateInput) -> Result<usize, RequestError> {
        let request = GenerateRequest::new(ModelName::new("m").unwrap(), input);
        let prompt = model.prompt(&request, &[])?;
        Ok(prompt.tokens.len())
    }

    fn prompt(input: GenerateInput) -> Result<usize, RequestError> {
        prompt_of(&words(Some(TEMPLATE)), input)
    }

    fn chat(role: &str, content: String) -> GenerateInput {
        with(ChatMessage {
            role: role.into(),
            content,
            ..ChatMessage::default()
        })
    }

    fn with(message: ChatMessage) -> GenerateInput {
        GenerateInput::Chat(vec![message])
    }

    #[test]
    fn prompt_that_is_too_long_is_refused() {
        let long = "word ".repeat(20_000);
        let call = ToolCall {
            arguments: long.clone(),
            ..ToolCall::default()
        };
        for input in [
            chat("user", long.clone()),
            chat("user", "word ".repeat(100)),
            chat("user", format!("{long}</think>")),
            GenerateInput::Text(long.clone()),
            GenerateInput::Tokens(vec![1; 101]),
            GenerateInput::Tokens(vec![1; 100]),
            with(ChatMessage {
                tool_calls: vec![call],
                ..ChatMessage::default()
            }),
            with(ChatMessage {
                name: Some(long.clone()),
                ..ChatMessage::default()
            }),
            GenerateInput::Chat(vec![ChatMessage::default(); 70_000]),
        ] {
            assert!(matches!(prompt(input), Err(RequestError::ContextLength(_))));
        }
        // A template leaves this out.
        assert_eq!(
            prompt(chat("assistant", format!("{long}</think>answer"))),
            Ok(1)
        );
        assert_eq!(prompt(chat("user", "word ".repeat(99))), Ok(99));
        assert_eq!(prompt(GenerateInput::Tokens(vec![1; 99])), Ok(99));
    }

    #[test]
    fn conversation_that_the_template_refuses_is_the_fault_of_the_client() {
        let Err(RequestError::Invalid { param, message }) = prompt(chat("user", "refuse".into()))
        else {
            panic!("accepted");
        };
        assert_eq!(param.as_deref(), Some("messages"));
        assert!(
            message.ends_with("refuses the conversation: too many turns."),
            "{message}"
        );
        let raw = words(None);
        let refused = prompt_of(&raw, chat("user", "hi".into()));
        assert!(refused.unwrap_err().to_string().contains("/v1/completions"));
        assert_eq!(prompt_of(&raw, GenerateInput::Text("hi you".into())), Ok(2));
    }

    #[test]
    fn tools_reach_the_model_wherever_its_template_has_a_place_for_them() {
        let mut request =
            GenerateRequest::new(ModelName::new("m").unwrap(), chat("user", "hi".into()));
        request.tools = vec![Tool {
            name: "get_weather".into(),
            ..Tool::default()
        }];
        let tools = [serde_json::json!({"type": "function", "function": {"name": "get_weather"}})];
        for (template, has_tools) in [
            (TEMPLATE, true),
            (
                "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}",
                true,
            ),
            // Gemma's refuses system messages.
            (
                "{{ raise_exception('no') if messages[0].role == 'system' }}{% for m in messages %}{{ m.content }} \
                 {% endfor %}",
                true,
            ),
            ("{{ messages[-1].content }}", false),
            (
                "{{ raise_exception('no') if messages[0].role == 'system' }}hi",
                false,
            ),
        ] {
            let prompt = words(Some(template)).prompt(&request, &tools).unwrap();
            assert_eq!(prompt.text.contains("get_weather"), has_tools, "{template}");
        }
    }

    #[test]
    fn prompt_that_would_be_read_for_too_long_is_refused_with_both_figures() {
        let limit = Duration::from_secs(120);
        assert!(check_reading_time(9_000_000, None, limit).is_ok());
        assert!(check_reading_time(1_200, Some(10.0), limit).is_ok());
        let refused = check_reading_time(3_000, Some(10.0), limit);
        let Err(RequestError::ContextLength(message)) = refused else {
            panic!("accepted");
        };
        assert!(
            message.contains("300 s") && message.contains("120 s"),
            "{message}"
        );
    }
}
