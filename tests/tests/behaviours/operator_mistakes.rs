//! Mistakes of operators: what a program prints names the cause and what to do.

use flotilla_tests::{
    CONTROLLER_ON_FREE_PORTS, Cluster, FileServer, Mode, Process, free_address, simulated_model,
};
use serde_json::json;

use crate::fixtures::serve;

/// Runs `flotilla` with these arguments, which must fail with this exit code, and returns its output.
fn fail(cluster: &Cluster, args: &[&str], code: i32) -> String {
    let (status, output) = Process::start(cluster.dir(), args).wait();
    assert_eq!(status.code(), Some(code), "{args:?}: {output}");
    output
}

/// Starts an agent that is to join at `address`.
fn agent(cluster: &Cluster, address: &str) -> Process {
    let args = [
        "agent",
        "--join",
        address,
        "--name",
        "n1",
        "--data-dir",
        "n1",
    ];
    let log = [
        "--insecure",
        "--metrics",
        "off",
        "--log",
        "info,flotilla_agent::link=debug",
    ];
    Process::start(cluster.dir(), &[&args[..], &log].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_names_what_answers_where_no_link_port_is_and_says_it_once() {
    let cluster = Cluster::builder().mode(Mode::Processes).start().await;
    let web = FileServer::start(cluster.dir().to_owned(), None).await;
    let (tls, _) = FileServer::start_with_tls(cluster.dir().to_owned()).await;
    let http = cluster.http_address().to_string();
    let unused = free_address().to_string();
    let (web, tls) = (web.address().to_string(), tls.address().to_string());
    for (address, cause) in [
        (
            http.as_str(),
            "this is the HTTP port of a controller: --join takes its link port",
        ),
        (
            web.as_str(),
            "a web server answers there, and no controller",
        ),
        (
            tls.as_str(),
            "a server with TLS answers there, and links have no TLS",
        ),
        (&unused, "nothing listens there: is the controller running"),
        ("no-such-host.invalid:7070", "its name cannot be looked up"),
    ] {
        let mut agent = agent(&cluster, address);
        let line = agent.wait_for_line(cause);
        assert!(!line.contains("DEBUG"), "{line}");
        // It tries again, and the log of others than developers has no second line.
        let line = agent.wait_for_line(cause);
        assert!(line.contains("DEBUG"), "{line}");
        agent.stop();
    }
    for address in ["", "127.0.0.1", "http://127.0.0.1:7070"] {
        let args = ["agent", "--name", "n1", "--join", address];
        let output = fail(&cluster, &args, 2);
        assert!(
            output.contains("give HOST:PORT of a controller's --link"),
            "{output}"
        );
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn command_names_why_what_it_talks_to_is_no_fleet() {
    let cluster = Cluster::builder().mode(Mode::Processes).start().await;
    let web = FileServer::start(cluster.dir().to_owned(), None).await;
    let (tls, _) = FileServer::start_with_tls(cluster.dir().to_owned()).await;
    let (http, link) = (cluster.http_address(), cluster.link_address());
    for (url, cause) in [
        (
            format!("https://{http}"),
            format!("{http} has no TLS: use http://{http}"),
        ),
        (
            format!("http://{link}"),
            format!("{link} does not answer in HTTP: give the address of a controller's --http"),
        ),
        (
            format!("http://{}", tls.address()),
            "https:// where a proxy adds TLS".into(),
        ),
        (
            tls.url(),
            "no authority that this machine trusts has signed it".into(),
        ),
        (web.url(), "which is not the answer of a fleet".into()),
        (format!("ftp://{http}"), "give http://HOST:PORT".into()),
        (http.to_string(), "give http://HOST:PORT".into()),
    ] {
        for command in [&["get", "nodes"][..], &["chat", "m", "hi"], &["backup"]] {
            let args = [command, &["--url", &url]].concat();
            let output = fail(&cluster, &args, 1);
            assert!(output.contains(&cause), "{args:?}: {output}");
            assert_eq!(output.lines().count(), 1, "{args:?}: {output}");
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn second_controller_on_the_same_data_directory_is_refused() {
    let cluster = Cluster::builder().mode(Mode::Processes).start().await;
    // Its store is another one, as etcd is, and does not tell the two apart.
    let dirs = ["--store", "embedded:other", "--data-dir", "files"];
    let output = fail(
        &cluster,
        &[&CONTROLLER_ON_FREE_PORTS[..], &dirs].concat(),
        1,
    );
    assert!(
        output.contains("files is in use by another process"),
        "{output}"
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_name_nothing_to_apply_are_an_error() {
    let cluster = Cluster::builder().mode(Mode::Processes).start().await;
    let url = cluster.url();
    for (content, cause) in [
        ("", "there are no resources in m.yaml"),
        ("---\n# nothing\n", "there are no resources in m.yaml"),
        ("kind: Fleet\n", "flotilla restore"),
    ] {
        std::fs::write(cluster.dir().join("m.yaml"), content).unwrap();
        for command in ["apply", "delete"] {
            let output = fail(&cluster, &[command, "-f", "m.yaml", "--url", &url], 1);
            assert!(output.contains(cause), "{command}: {output}");
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_node_is_noted_where_nodes_are_concerned_and_nowhere_else() {
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1", "n2"])
        .start()
        .await;
    let api = cluster.api();
    serve(&cluster, &api, "m", &json!({})).await;
    let args = [
        "agent",
        "--name",
        "n1",
        "--data-dir",
        "other",
        "--metrics",
        "off",
    ];
    let link = cluster.link_address().to_string();
    let mut other = Process::start(cluster.dir(), &[&args[..], &["--join", &link]].concat());
    other.wait_for_line("another node named 'n1'");
    let url = cluster.url();
    let model = cluster.dir().join("m.yaml").display().to_string();
    std::fs::write(&model, simulated_model("m", 1, &json!({})).to_string()).unwrap();
    for (command, is_noted) in [
        (&["get", "nodes"][..], true),
        (&["apply", "-f", &model], true),
        (&["drain", "n2"], true),
        (&["get", "models"], false),
        (&["get", "tasks"], false),
        (&["chat", "m", "hi"], false),
        (&["route", "hi"], false),
        (&["top", "--once"], false),
        (&["backup"], false),
    ] {
        let args = [command, &["--url", &url]].concat();
        let (status, output) = Process::start(cluster.dir(), &args).wait();
        assert!(status.success(), "{args:?}: {output}");
        let notes = output.matches("was refused").count();
        assert_eq!(notes, usize::from(is_noted), "{args:?}: {output}");
    }
    other.stop();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_are_no_resources_are_refused_with_what_to_use() {
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;
    let api = cluster.api();
    serve(&cluster, &api, "m", &json!({})).await;
    let url = cluster.url();
    for (kind, remedy) in [
        ("nodes", "use `flotilla cordon`"),
        ("assignments", "change the model's replicas"),
        ("controllers", "use `flotilla controller`"),
    ] {
        let args = ["get", kind, "-o", "yaml", "--url", &url];
        let (_, list) = Process::start(cluster.dir(), &args).wait();
        let file = cluster.dir().join("list.yaml").display().to_string();
        std::fs::write(&file, list).unwrap();
        let output = fail(&cluster, &["apply", "-f", &file, "--url", &url], 1);
        assert!(output.contains(remedy), "{kind}: {output}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_does_not_start_with_a_proxy_through_which_no_link_goes() {
    let dir = tempfile::tempdir().unwrap();
    let args = [
        "agent",
        "--name",
        "n1",
        "--join",
        "controller.example:7070",
        "--data-dir",
        "n1",
    ];
    let proxy = (
        "HTTPS_PROXY".to_owned(),
        "https://user:secret@proxy.example:3128".to_owned(),
    );
    let (status, output) = Process::start_with_env(dir.path(), &args, &[proxy]).wait();
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(
        output.contains("links cannot go through the proxy https://proxy.example:3128"),
        "{output}"
    );
    assert!(!output.contains("secret"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn controller_does_not_start_with_files_that_hold_no_certificate() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("text"), "no certificate").unwrap();
    for flags in [
        &["--ca-file", "text"][..],
        &["--store", "etcd://127.0.0.1:1", "--etcd-ca", "text"],
    ] {
        let args = [&CONTROLLER_ON_FREE_PORTS[..], &["--data-dir", "c"], flags].concat();
        let (status, output) = Process::start(dir.path(), &args).wait();
        assert_eq!(status.code(), Some(1), "{output}");
        let last = output.lines().last().unwrap_or_default();
        assert!(last.contains("it has no certificate"), "{output}");
        assert!(last.contains("PEM"), "{output}");
    }
}
