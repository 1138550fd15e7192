//! `flotilla chat`: sends prompts to a model and prints the answers as they are generated.

use std::io::{IsTerminal, Read, Write};

use anyhow::{Context, bail};
use eventsource_stream::Eventsource;
use futures::StreamExt;
use reqwest::Response;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use serde_json::{Value, json};

use crate::args::ChatArgs;
use crate::client::FleetClient;

const INTERRUPTED: &str = "the connection closed before the end of the answer";

/// Sends one prompt, or holds a conversation if there is neither a prompt nor piped input.
pub(crate) async fn run(args: ChatArgs) -> anyhow::Result<()> {
    let fleet = FleetClient::new(&args.endpoint)?;
    let model = match &args.model {
        Some(model) => model.clone(),
        None => first_model(&fleet).await?,
    };
    let mut conversation = Conversation {
        fleet,
        model,
        max_tokens: args.max_tokens,
        temperature: args.temperature,
        messages: Vec::new(),
    };
    if let Some(system) = &args.system {
        conversation
            .messages
            .push(json!({"role": "system", "content": system}));
    }
    if !args.prompt.is_empty() {
        return conversation.send(&args.prompt.join(" ")).await;
    }
    if !std::io::stdin().is_terminal() {
        let mut prompt = String::new();
        std::io::stdin()
            .read_to_string(&mut prompt)
            .context("cannot read standard input")?;
        if prompt.trim().is_empty() {
            bail!("standard input is empty: give a prompt as an argument or on standard input");
        }
        return conversation.send(prompt.trim()).await;
    }
    conversation.run_interactive().await
}

async fn first_model(fleet: &FleetClient) -> anyhow::Result<String> {
    let models: Value = fleet.get(&["v1", "models"]).await?;
    match models["data"][0]["id"].as_str() {
        Some(model) => Ok(model.to_owned()),
        None => bail!("the fleet has no models: add one with `flotilla apply -f FILE`"),
    }
}

/// A conversation with one model.
struct Conversation {
    fleet: FleetClient,
    model: String,
    max_tokens: Option<u32>,
    temperature: Option<f64>,
    /// All messages so far, as the API expects them.
    messages: Vec<Value>,
}

impl Conversation {
    /// Reads prompts from the terminal until the user ends the conversation.
    async fn run_interactive(mut self) -> anyhow::Result<()> {
        println!(
            "Conversation with {}. An empty line or Ctrl-D ends it.",
            self.model
        );
        let mut editor = DefaultEditor::new()?;
        loop {
            // Reading a line blocks the thread, which is fine: no other task runs now.
            match editor.readline("> ") {
                Ok(line) if line.trim().is_empty() => return Ok(()),
                Ok(line) => {
                    // A missing history entry is no reason to fail.
                    let _ = editor.add_history_entry(&line);
                    if let Err(error) = self.send(&line).await {
                        eprintln!("{error:#}");
                        // An unanswered prompt is not part of the conversation.
                        self.messages.pop();
                    }
                }
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends a prompt, prints the answer as it is generated and adds both to the conversation.
    async fn send(&mut self, text: &str) -> anyhow::Result<()> {
        self.messages.push(json!({"role": "user", "content": text}));
        let mut body = json!({
            "model": self.model,
            "messages": self.messages,
            "stream": true,
        });
        if let Some(temperature) = self.temperature {
            body["temperature"] = json!(temperature);
        }
        if let Some(tokens) = self.max_tokens {
            body["max_tokens"] = json!(tokens);
        }
        let response = self
            .fleet
            .post(&["v1", "chat", "completions"], &body)
            .await?;
        let answer = print_stream(response).await?;
        self.messages
            .push(json!({"role": "assistant", "content": answer}));
        Ok(())
    }
}

/// Returns the text that is printed after an answer that ended for this reason. `None` if it is complete.
fn why_incomplete(finish_reason: &str) -> Option<&'static str> {
    match finish_reason {
        "length" => {
            Some("[the answer was cut at the most tokens that it may have: see --max-tokens]")
        }
        "content_filter" => Some("[the server's content filter withheld the rest of the answer]"),
        _ => None,
    }
}

/// Prints the tokens of an answer as they arrive and returns the whole answer.
async fn print_stream(response: Response) -> anyhow::Result<String> {
    let mut events = response.bytes_stream().eventsource();
    let mut answer = String::new();
    let mut incomplete = None;
    let mut out = std::io::stdout();
    while let Some(event) = events.next().await {
        let event = event.context(INTERRUPTED)?;
        if event.data == "[DONE]" {
            writeln!(out)?;
            if let Some(reason) = &incomplete {
                eprintln!("{reason}");
            }
            return Ok(answer);
        }
        let chunk: Value =
            serde_json::from_str(&event.data).context("cannot parse a chunk of the answer")?;
        if let Some(message) = chunk["error"]["message"].as_str() {
            writeln!(out)?;
            bail!("{message}");
        }
        let choice = &chunk["choices"][0];
        if let Some(reason) = choice["finish_reason"].as_str() {
            incomplete = why_incomplete(reason);
        }
        // A refusal takes the place of an answer.
        let text = ["content", "refusal"].map(|field| choice["delta"][field].as_str());
        if let Some(text) = text.into_iter().flatten().next() {
            write!(out, "{text}")?;
            out.flush()?;
            answer.push_str(text);
        }
    }
    writeln!(out)?;
    bail!(INTERRUPTED)
}
