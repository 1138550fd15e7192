//! The text that `up` prints once the fleet has started.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use flotilla_controller::admin::NodeResource;
use flotilla_controller::fleet::{FleetHandle, FleetView};
use flotilla_core::spec::{Model, Pipeline};

use super::progress::count_replicas;
use crate::resource_text::counted;
use crate::{get, output};

/// Prints the nodes and models of the fleet and how to use it.
pub(super) fn print(
    fleet: &FleetHandle,
    http: SocketAddr,
    link: Option<SocketAddr>,
    data_dir: &Path,
    start_time: Duration,
) {
    let view = fleet.view();
    let (ready, desired) = count_replicas(&view);
    let nodes: Vec<_> = view
        .nodes
        .values()
        .map(|node| NodeResource::new(node))
        .collect();
    let models = view.models.values().map(|model| {
        let nodes: Vec<_> = model
            .endpoints
            .replicas()
            .iter()
            .map(|r| r.node.as_str())
            .collect();
        let problem = model.failures.values().next().map(|f| f.error.clone());
        vec![
            model.endpoints.model.name().to_string(),
            if nodes.is_empty() {
                "-".to_owned()
            } else {
                nodes.join(", ")
            },
            problem.unwrap_or_else(|| model.endpoints.model.spec.description.clone()),
        ]
    });
    let scheme = if view.authority.is_some() {
        "https"
    } else {
        "http"
    };
    let url = format!("{scheme}://{}", client_address(http));
    println!(
        "Flotilla is up after {:.1} s: {}, {}, {ready} of {desired} replicas ready.\n",
        start_time.as_secs_f64(),
        counted(nodes.len(), "node"),
        counted(view.models.len(), "model"),
    );
    println!("{}", get::nodes(&nodes));
    println!(
        "{}",
        output::table(&["MODEL", "NODES", "DESCRIPTION OR PROBLEM"], models)
    );
    println!("API   {url}/v1");
    println!("Page  {url}/ (in a terminal: flotilla top)");
    println!("Data  {}", data_dir.display());
    println!("Join  {}\n", join_text(&view, link));
    let models = view.models.values().map(|model| &model.endpoints.model);
    if let Some(examples) = examples(models, &url) {
        println!("{examples}\n");
    }
    println!("Ctrl-C stops everything.");
}

/// The demo model that the examples prefer.
const DEMO_MODEL: &str = "support-intent";

/// Returns commands that send a request to one of the models. `None` without models.
fn examples<'a>(models: impl Iterator<Item = &'a Model> + Clone, url: &str) -> Option<String> {
    let demo = models
        .clone()
        .find(|model| model.name().as_str() == DEMO_MODEL);
    let answers = |model: &&Model| model.spec.options.pipeline != Some(Pipeline::Embedding);
    let text = if demo.is_some() {
        "I still have not received my new card"
    } else {
        "Hello"
    };
    let Some(model) = demo.or_else(|| models.clone().find(answers)) else {
        let model = models.into_iter().next()?.name();
        return Some(format!(
            "Try it:
  curl -s {url}/v1/embeddings -H 'content-type: application/json' -d '{{\"model\": \"{model}\", \"input\": \"{text}\"}}'
  python3 -c \"from openai import OpenAI; print(OpenAI(base_url='{url}/v1', api_key='none').embeddings.create(model='{model}', input='{text}').data[0].embedding)\""
        ));
    };
    let model = model.name();
    Some(format!(
        "Try it:
  curl -s {url}/v1/chat/completions -H 'content-type: application/json' -d '{{\"model\": \"{model}\", \"messages\": [{{\"role\": \"user\", \"content\": \"{text}\"}}]}}'
  python3 -c \"from openai import OpenAI; print(OpenAI(base_url='{url}/v1', api_key='none').chat.completions.create(model='{model}', messages=[{{'role': 'user', 'content': '{text}'}}]).choices[0].message.content)\""
    ))
}

/// Returns how another agent joins the fleet.
fn join_text(view: &FleetView, link: Option<SocketAddr>) -> String {
    let advertised = view.controllers.values().next();
    match (link, advertised) {
        (Some(link), Some(controller)) if !link.ip().is_loopback() => format!(
            "flotilla agent --join {} --name NAME {} (on another machine)",
            controller.link,
            match view.authority {
                Some(_) => "--token-file FILE, with a token of `flotilla token create`",
                None => "--insecure",
            },
        ),
        (Some(link), _) if link.port() != 0 => format!(
            "flotilla agent --join {link} --name NAME (on this machine; on others with --link 0.0.0.0:{} --secret-file FILE)",
            link.port()
        ),
        _ => "start with --link 0.0.0.0:7070 --secret-file FILE to let other machines join (`flotilla secret create FILE`)".into(),
    }
}

/// Returns the address for this machine: the loopback address of a listener on all addresses.
pub(super) fn client_address(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::ModelName;
    use flotilla_core::spec::ModelSpec;

    #[test]
    fn example_names_a_model_that_is_there() {
        let model = |name: &str, pipeline| {
            let mut spec = ModelSpec::default();
            spec.options.pipeline = pipeline;
            Model::new(ModelName::new(name).unwrap(), spec)
        };
        let embedding = model("a-embedding", Some(Pipeline::Embedding));
        let (chat, demo) = (model("chat", None), model(DEMO_MODEL, None));
        let example = |models: &[&Model]| examples(models.iter().copied(), "http://h");
        let all = example(&[&embedding, &chat, &demo]).unwrap();
        assert!(all.contains("\"support-intent\""), "{all}");
        let without_demo = example(&[&embedding, &chat]).unwrap();
        assert!(without_demo.contains("\"chat\""), "{without_demo}");
        let only = example(&[&embedding]).unwrap();
        assert!(
            only.contains("/v1/embeddings") && only.contains("\"a-embedding\""),
            "{only}"
        );
        assert_eq!(example(&[]), None);
    }
}
