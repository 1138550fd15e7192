//! Conversations as texts, and texts as answers, for engines that take and return tokens.
//!
//! Start reading at [`template`], which turns a conversation into a prompt. [`reasoning`] and
//! [`call_scanner`] divide the text of an answer.

mod call_formats;
pub(crate) mod call_scanner;
pub(crate) mod control_tokens;
mod json;
pub(crate) mod reasoning;
pub(crate) mod template;
pub(crate) mod tool_prompt;
