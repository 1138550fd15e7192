//! `flotilla chat`.

use std::io::{IsTerminal, Read, Write};

use anyhow::{Context, bail};
use futures::StreamExt;
use reqwest::Response;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use serde_json::{Value, json};

use crate::args::ChatArgs;
use crate::client::Fleet;

/// Talks to a model: once, or until the user has enough.
pub(crate) async fn run(args: ChatArgs) -> anyhow::Result<()> {
    let fleet = Fleet::new(&args.endpoint)?;
    let model = match &args.model {
        Some(model) => model.clone(),
        None => first_model(&fleet).await?,
    };
    let mut chat = Chat {
        fleet,
        model,
        max_tokens: args.max_tokens,
        temperature: args.temperature,
        messages: Vec::new(),
    };
    if let Some(system) = &args.system {
        chat.messages
            .push(json!({"role": "system", "content": system}));
    }
    if !args.prompt.is_empty() {
        return chat.say(&args.prompt.join(" ")).await;
    }
    if !std::io::stdin().is_terminal() {
        let mut prompt = String::new();
        std::io::stdin()
            .read_to_string(&mut prompt)
            .context("cannot read standard input")?;
        if prompt.trim().is_empty() {
            bail!("there is nothing on standard input: give a prompt");
        }
        return chat.say(prompt.trim()).await;
    }
    chat.interactive().await
}

async fn first_model(fleet: &Fleet) -> anyhow::Result<String> {
    let models: Value = fleet.get(&["v1", "models"]).await?;
    match models["data"][0]["id"].as_str() {
        Some(model) => Ok(model.to_owned()),
        None => bail!("the fleet has no models: `flotilla apply -f FILE` adds one"),
    }
}

struct Chat {
    fleet: Fleet,
    model: String,
    max_tokens: Option<u32>,
    temperature: f64,
    messages: Vec<Value>,
}

impl Chat {
    async fn interactive(mut self) -> anyhow::Result<()> {
        println!(
            "Talking to {}. An empty line or Ctrl-D ends it.",
            self.model
        );
        let mut editor = DefaultEditor::new()?;
        loop {
            // Reading a line blocks; nothing else runs meanwhile.
            match editor.readline("> ") {
                Ok(line) if line.trim().is_empty() => return Ok(()),
                Ok(line) => {
                    // A line that cannot be remembered is said all the same.
                    let _ = editor.add_history_entry(&line);
                    if let Err(error) = self.say(&line).await {
                        eprintln!("{error:#}");
                        // It was not answered: it is not part of the conversation.
                        self.messages.pop();
                    }
                }
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Says something and prints the answer as it comes.
    async fn say(&mut self, text: &str) -> anyhow::Result<()> {
        self.messages.push(json!({"role": "user", "content": text}));
        let mut body = json!({
            "model": self.model,
            "messages": self.messages,
            "temperature": self.temperature,
            "stream": true,
        });
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

/// Prints an answer piece by piece and returns it.
async fn print_stream(response: Response) -> anyhow::Result<String> {
    let mut bytes = response.bytes_stream();
    let (mut buffer, mut answer) = (Vec::new(), String::new());
    let mut out = std::io::stdout();
    while let Some(piece) = bytes.next().await {
        buffer.extend_from_slice(&piece.context("the answer broke off")?);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let Some(data) = line.trim_end().strip_prefix("data: ") else {
                continue;
            };
            if data == "[DONE]" {
                writeln!(out)?;
                return Ok(answer);
            }
            let chunk: Value = serde_json::from_str(data).context("the answer makes no sense")?;
            if let Some(message) = chunk["error"]["message"].as_str() {
                writeln!(out)?;
                bail!("{message}");
            }
            if let Some(text) = chunk["choices"][0]["delta"]["content"].as_str() {
                write!(out, "{text}")?;
                out.flush()?;
                answer.push_str(text);
            }
        }
    }
    writeln!(out)?;
    bail!("the answer broke off")
}
