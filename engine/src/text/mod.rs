//! Prompts and answers, the same for all engines that compute text: requests are checked and turned into tokens,
//! tokens are chosen, and answers are divided into content, thoughts and calls.

pub(crate) mod answer_grammar;
pub(crate) mod answer_matcher;
pub(crate) mod answer_text;
pub(crate) mod call_reader;
pub(crate) mod context_length;
pub(crate) mod end_tokens;
pub(crate) mod load_template;
pub(crate) mod preparation;
pub(crate) mod prepared_request;
pub(crate) mod prompt_size;
pub(crate) mod schema;
pub(crate) mod source_path;
pub(crate) mod stop_texts;
pub(crate) mod template_args;
pub(crate) mod text_model;
pub(crate) mod token_ids;
pub(crate) mod token_sampler;
pub(crate) mod tools;
pub(crate) mod vocabulary;
