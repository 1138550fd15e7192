//! The text that `up` prints once the fleet has started.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use flotilla_controller::admin::NodeResource;
use flotilla_controller::fleet::{FleetHandle, FleetView};

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
    let example = "I still have not received my new card";
    println!("Try it:");
    println!(
        "  curl -s {url}/v1/chat/completions -H 'content-type: application/json' -d '{{\"model\": \"support-intent\", \"messages\": [{{\"role\": \"user\", \"content\": \"{example}\"}}]}}'"
    );
    println!(
        "  python3 -c \"from openai import OpenAI; print(OpenAI(base_url='{url}/v1', api_key='none').chat.completions.create(model='support-intent', messages=[{{'role': 'user', 'content': '{example}'}}]).choices[0].message.content)\""
    );
    println!("\nCtrl-C stops everything.");
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
            "flotilla agent --join {link} --name NAME (on this machine; on others with --link 0.0.0.0:{})",
            link.port()
        ),
        _ => "start with --link 0.0.0.0:7070 to let other machines join".into(),
    }
}

/// Returns the address for this machine: the loopback address of a listener on all addresses.
pub(super) fn client_address(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    address
}
