//! Measures how fast a node without an accelerator reads and writes, all in one run on one machine, load generator
//! included: llama.cpp alone in a bare loop, which is the limit; the engine `llama` over the agent's gRPC, and over
//! HTTP through the controller; the engine `mistral` over HTTP on the same file. Then what a common beginning of
//! prompts saves, and how long streams pause while a long prompt is read.
//!
//! `cargo run --release --workspace --bin engine_speed [MODEL [FORMAT]]`, where MODEL is a GGUF file of a Llama, by
//! default the chat model that `make chat-model` fetches. It is quantised anew to Q8_0 and Q4_0, or to one FORMAT.

mod bare_loop;
mod fleet;
mod wave;

use std::path::{Path, PathBuf};

use flotilla_core::spec::EngineKind;
use flotilla_tests::repository;

use self::fleet::{Fleet, Way};
use self::wave::Wave;

/// How many requests are sent at once.
const AT_ONCE: [usize; 4] = [1, 4, 8, 16];
/// The same for the engine that computes them one after the other.
const ONE_BY_ONE: [usize; 2] = [1, 8];
/// The tokens of a prompt and of its answer.
const PROMPT: usize = 400;
const ANSWER: usize = 64;

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let path = args.next().map(PathBuf::from);
    let format = args.next();
    let chat_model = "models/chat/SmolLM2-135M-Instruct.Q4_1.gguf";
    let path = path.unwrap_or_else(|| repository().join(chat_model));
    let dir = tempfile::tempdir().expect("a temporary directory can be created");
    for (name, kind) in bare_loop::FORMATS {
        if format.as_ref().is_some_and(|format| format != name) {
            continue;
        }
        let file = dir.path().join(format!("{name}.gguf"));
        bare_loop::quantise(&path, &file, kind);
        compare(name, &file).await;
        common_beginning(name, &file).await;
        long_prompt(name, &file).await;
    }
}

/// Prompts of 400 tokens that have nothing in common, and answers of 64.
async fn compare(name: &str, file: &Path) {
    println!(
        "\n{:<44}{:>8}{:>18}{:>14}{:>14}",
        format!("{name}: {PROMPT} tokens in, {ANSWER} out"),
        "at once",
        "first token, ms",
        "tokens/s",
        "J/request"
    );
    let print = |way: &str, at_once: usize, wave: &Wave| {
        let joules = wave.joules.map_or("-".to_owned(), |j| format!("{j:.1}"));
        println!(
            "{way:<44}{at_once:>8}{:>18.0}{:>14.1}{joules:>14}",
            wave.first_token_ms(),
            wave.tokens_per_second()
        );
    };
    for at_once in AT_ONCE {
        let path = file.to_owned();
        let bare = move || bare_loop::run(&path, at_once, PROMPT, ANSWER);
        let wave = tokio::task::spawn_blocking(bare).await.expect("it ends");
        print("llama.cpp alone", at_once, &wave);
    }
    for (engine, ways, counts) in [
        (EngineKind::Llama, &[Way::Grpc, Way::Http][..], &AT_ONCE[..]),
        (EngineKind::Mistral, &[Way::Http], &ONE_BY_ONE),
    ] {
        let fleet = Fleet::start(file, engine).await;
        for way in ways {
            for at_once in counts {
                let prompts = (0..*at_once).map(|_| fleet.prompt(PROMPT, 0)).collect();
                let wave = fleet.wave(*way, prompts, ANSWER).await;
                print(&format!("{engine}, {way}"), *at_once, &wave);
            }
        }
        fleet.stop().await;
    }
}

/// Eight prompts that begin with the same 300 tokens, and eight that do not.
async fn common_beginning(name: &str, file: &Path) {
    const COMMON: usize = 300;
    const OWN: usize = 30;
    let fleet = Fleet::start(file, EngineKind::Llama).await;
    let mut times = Vec::new();
    for common in [0, COMMON] {
        let prompts = (0..8).map(|_| fleet.prompt(COMMON + OWN, common)).collect();
        let wave = fleet.wave(Way::Http, prompts, ANSWER).await;
        times.push(wave.first_token_ms());
    }
    println!(
        "\n{name}: 8 prompts of {} tokens, first token: {:.0} ms; with {COMMON} in common: {:.0} ms ({:.2})",
        COMMON + OWN,
        times[0],
        times[1],
        times[1] / times[0]
    );
    fleet.stop().await;
}

/// A prompt of 2,000 tokens alone, and beside eight streams.
async fn long_prompt(name: &str, file: &Path) {
    const LONG: usize = 2_000;
    let fleet = Fleet::start(file, EngineKind::Llama).await;
    let alone = fleet.wave(Way::Http, vec![fleet.prompt(LONG, 0)], 1).await;
    let streams = (0..8).map(|_| fleet.prompt(20, 0)).collect();
    let (streams, beside) = tokio::join!(fleet.wave(Way::HttpTokens, streams, 400), async {
        fleet.first_tokens(8).await;
        fleet.wave(Way::Http, vec![fleet.prompt(LONG, 0)], 1).await
    });
    let speed = |wave: &Wave| LONG as f64 / wave.first_token_ms() * 1e3;
    println!(
        "{name}: a prompt of {LONG} tokens is read at {:.0} tokens/s alone, at {:.0} ({:.2}) beside 8 streams, \
         whose longest pause is {:.0} ms",
        speed(&alone),
        speed(&beside),
        speed(&beside) / speed(&alone),
        streams.longest_pause_ms()
    );
    fleet.stop().await;
}
