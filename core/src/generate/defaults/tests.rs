use super::*;
use crate::ModelName;
use crate::spec::RequestDefaults;

fn spec() -> ModelSpec {
    ModelSpec {
        engine: EngineKind::Simulated,
        ..ModelSpec::default()
    }
}

fn files(sampling: SamplingParams) -> FileDefaults {
    FileDefaults {
        sampling,
        source: "generation_config.json".into(),
        ..FileDefaults::default()
    }
}

fn request() -> GenerateRequest {
    chat(&[("user", "hi")])
}

fn chat(messages: &[(&str, &str)]) -> GenerateRequest {
    let messages = messages.iter().map(|(role, content)| ChatMessage {
        role: (*role).into(),
        content: (*content).into(),
        ..ChatMessage::default()
    });
    let input = GenerateInput::Chat(messages.collect());
    GenerateRequest::new(ModelName::new("m").unwrap(), input)
}

fn conversation(request: &GenerateRequest) -> Vec<(&str, &str)> {
    let GenerateInput::Chat(messages) = &request.input else {
        panic!("not a chat");
    };
    let turns = messages.iter();
    turns
        .map(|m| (m.role.as_str(), m.content.as_str()))
        .collect()
}

#[test]
fn request_goes_before_the_spec_and_the_spec_before_the_files() {
    let spec = ModelSpec {
        defaults: RequestDefaults {
            temperature: Some(0.5),
            top_p: Some(0.5),
            top_k: Some(5),
            ..RequestDefaults::default()
        },
        ..spec()
    };
    let files = files(SamplingParams {
        temperature: Some(0.1),
        top_k: Some(1),
        min_p: Some(0.1),
        repetition_penalty: Some(1.1),
        ..SamplingParams::default()
    });
    let mut request = request();
    request.sampling.temperature = Some(0.9);
    // All tokens: a value like any other.
    request.sampling.top_k = Some(0);
    request.sampling.logit_bias.insert(7, 1.0);
    let sampling = EffectiveDefaults::new(&spec, files, None)
        .apply(request)
        .sampling;
    assert_eq!(
        sampling,
        SamplingParams {
            temperature: Some(0.9),
            top_p: Some(0.5),
            top_k: Some(0),
            min_p: Some(0.1),
            repetition_penalty: Some(1.1),
            max_tokens: Some(2_048),
            logit_bias: [(7, 1.0)].into(),
            ..SamplingParams::default()
        }
    );
}

#[test]
fn stop_texts_of_a_request_replace_those_of_the_spec() {
    let mut spec = spec();
    spec.defaults.stop = vec!["END".into()];
    let defaults = EffectiveDefaults::new(&spec, FileDefaults::default(), None);
    let stop = |stop: Option<Vec<String>>| {
        let mut request = request();
        request.sampling.stop = stop;
        defaults.apply(request).sampling.stop.unwrap()
    };
    assert_eq!(stop(None), ["END"]);
    assert_eq!(stop(Some(vec!["x".into()])), ["x"]);
    assert!(stop(Some(Vec::new())).is_empty());
}

#[test]
fn token_limit_fits_the_context_and_keeps_the_owners_limit() {
    let limits = |max_tokens, max_tokens_limit, context| {
        let spec = ModelSpec {
            max_tokens,
            max_tokens_limit,
            ..spec()
        };
        let defaults = EffectiveDefaults::new(&spec, FileDefaults::default(), context);
        [None, Some(600), Some(9_000)].map(|requested| {
            let mut request = request();
            request.sampling.max_tokens = requested;
            defaults.apply(request).sampling.max_tokens.unwrap()
        })
    };
    assert_eq!(limits(None, None, None), [2_048, 600, 9_000]);
    assert_eq!(limits(None, None, Some(512)), [512, 600, 9_000]);
    assert_eq!(limits(Some(100), Some(500), Some(512)), [100, 500, 500]);
}

#[test]
fn upstream_server_gets_only_what_somebody_set() {
    let mut spec = ModelSpec {
        engine: EngineKind::Upstream,
        ..ModelSpec::default()
    };
    let plain = EffectiveDefaults::new(&spec, FileDefaults::default(), None);
    assert_eq!(plain.apply(request()), request());
    assert_eq!(plain.values(), []);
    spec.defaults.temperature = Some(0.3);
    let owned = EffectiveDefaults::new(&spec, FileDefaults::default(), None);
    let sampling = SamplingParams {
        temperature: Some(0.3),
        ..SamplingParams::default()
    };
    assert_eq!(owned.apply(request()).sampling, sampling);
    assert_eq!(owned.values().len(), 1);
}

#[test]
fn template_arguments_are_merged_by_name() {
    let mut spec = spec();
    spec.defaults.chat_template_args = parse_template_args(r#"{"a": 1, "b": {"c": 2}}"#).unwrap();
    let defaults = EffectiveDefaults::new(&spec, FileDefaults::default(), None);
    let args = |requested: Option<&str>| {
        let mut request = request();
        request.chat_template_args = requested.map(Into::into);
        defaults.apply(request).chat_template_args.unwrap()
    };
    assert_eq!(args(None), r#"{"a":1,"b":{"c":2}}"#);
    let merged = args(Some(r#"{"b": 3, "d": null}"#));
    let merged = parse_template_args(&merged).unwrap();
    let expected = parse_template_args(r#"{"a": 1, "b": 3, "d": null}"#).unwrap();
    assert_eq!(merged, expected);
    // A text has no template.
    let text = GenerateInput::Text("x".into());
    let text = GenerateRequest::new(ModelName::new("m").unwrap(), text);
    assert_eq!(defaults.apply(text).chat_template_args, None);
}

#[test]
fn system_prompt_is_put_first() {
    let apply = |mode, messages: &[(&str, &str)]| {
        let spec = ModelSpec {
            system_prompt: Some(SystemPrompt {
                text: "Owner.".into(),
                mode,
            }),
            ..spec()
        };
        EffectiveDefaults::new(&spec, FileDefaults::default(), None).apply(chat(messages))
    };
    use SystemPromptMode::{Always, WhenMissing};
    for mode in [WhenMissing, Always] {
        assert_eq!(
            conversation(&apply(mode, &[("user", "hi")])),
            [("system", "Owner."), ("user", "hi")]
        );
    }
    for role in ["system", "developer"] {
        let messages = [(role, "Mine."), ("user", "hi")];
        assert_eq!(conversation(&apply(WhenMissing, &messages)), messages);
        assert_eq!(
            conversation(&apply(Always, &messages)),
            [(role, "Owner.\n\nMine."), ("user", "hi")]
        );
    }
    let late = [("user", "hi"), ("system", "Mine.")];
    assert_eq!(conversation(&apply(WhenMissing, &late)), late);
    assert_eq!(
        conversation(&apply(Always, &late)),
        [("system", "Owner."), ("user", "hi"), ("system", "Mine.")]
    );
    assert_eq!(
        conversation(&apply(Always, &[("system", "")])),
        [("system", "Owner.")]
    );
}

#[test]
fn every_value_is_listed_with_its_source() {
    let mut spec = spec();
    spec.max_tokens_limit = Some(4_096);
    spec.defaults.top_p = Some(0.9);
    spec.defaults.chat_template_args =
        parse_template_args(r#"{"enable_thinking": false}"#).unwrap();
    spec.system_prompt = Some(SystemPrompt {
        text: "Owner.".into(),
        mode: SystemPromptMode::Always,
    });
    let files = files(SamplingParams {
        temperature: Some(0.0),
        top_p: Some(0.1),
        repetition_penalty: Some(1.1),
        ..SamplingParams::default()
    });
    let values = EffectiveDefaults::new(&spec, files, Some(1_024)).values();
    let lines: Vec<_> = values
        .iter()
        .map(|v| format!("{} {} {} {}", v.field, v.value, v.source, v.overridable))
        .collect();
    assert_eq!(
        lines,
        [
            "maxTokens 1024 context true",
            "maxTokensLimit 4096 spec false",
            "temperature 0 generation_config.json true",
            "topP 0.9 spec true",
            "topK 0 built in true",
            "minP 0 built in true",
            "repetitionPenalty 1.1 generation_config.json true",
            "frequencyPenalty 0 built in true",
            "presencePenalty 0 built in true",
            "chatTemplateArgs.enable_thinking false spec true",
            "systemPrompt \"Owner.\" spec false",
        ]
    );
}

#[test]
fn context_is_listed_with_who_has_bounded_it() {
    let source = |length, stated, context| {
        let mut spec = spec();
        spec.engine = EngineKind::Mistral;
        spec.options.context_length = length;
        let files = FileDefaults {
            context: stated,
            ..FileDefaults::default()
        };
        let values = EffectiveDefaults::new(&spec, files, context).values();
        let is_context = |value: &&DefaultValue| value.field == "options.contextLength";
        values.iter().find(is_context).map(|v| v.source.clone())
    };
    let (spec, files, built_in) = ("spec", "model's files", "built in");
    for (length, stated, context, expected) in [
        (Some(512), Some(512), 512, spec),
        (Some(8_192), Some(8_192), 8_192, spec),
        (None, Some(512), 512, files),
        (None, Some(8_192), 8_192, files),
        (None, Some(32_768), 8_192, built_in),
        (None, None, 4_096, built_in),
    ] {
        let source = source(length, stated, Some(context));
        assert_eq!(source.as_deref(), Some(expected), "{length:?} {stated:?}");
    }
    assert_eq!(source(None, Some(512), None), None);
}
