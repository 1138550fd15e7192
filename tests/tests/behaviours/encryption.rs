//! What is encrypted in a fleet with a certificate authority, and by which certificates.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use flotilla_tests::{Api, Etcd, Process, find_in_time, free_address};

use crate::protected_fleet::{
    ProtectedFleet, flotilla, serve, spawn_controller, text, wait_for_phase,
};

#[tokio::test(flavor = "multi_thread")]
async fn other_programs_check_both_ports_as_they_do_any_server() {
    let fleet = ProtectedFleet::start(None, 1);
    let controller = &fleet.controllers[0];
    let authority = fleet.authority();
    let url = format!("https://localhost:{}/readyz", controller.http.port());
    let curl = |args: &[&str]| {
        Command::new("curl")
            .args(["-sS", "-m", "20"])
            .args(args)
            .output()
            .unwrap()
    };
    let trusted = curl(&[
        "--cacert",
        authority.to_str().unwrap(),
        "-w",
        "%{http_version}",
        &url,
    ]);
    assert!(
        text(&trusted).contains("\"ready\":true"),
        "{}",
        text(&trusted)
    );
    assert!(
        text(&trusted).ends_with('2'),
        "HTTP/2 is chosen: {}",
        text(&trusted)
    );
    assert!(!curl(&[&url]).status.success(), "nobody else trusts it");
    for address in [controller.http, controller.link] {
        let plain = curl(&["-w", "%{http_code}", &format!("http://{address}/v1/models")]);
        let answer = text(&plain);
        assert!(
            answer.contains("HTTPS") && answer.ends_with("400"),
            "{answer}"
        );
    }
    let s_client = |address: SocketAddr, args: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &address.to_string(), "-CAfile"]);
        let output = command
            .arg(&authority)
            .args(args)
            .stdin(std::process::Stdio::null())
            .output();
        text(&output.unwrap())
    };
    let name = ["-verify_hostname", "controller.flotilla.invalid"];
    let link = s_client(
        controller.link,
        &[&name[..], &["-alpn", "flotilla-link/1"]].concat(),
    );
    assert!(link.contains("Verify return code: 0 (ok)"), "{link}");
    assert!(link.contains("ALPN protocol: flotilla-link/1"), "{link}");
    assert!(
        link.contains("Acceptable client certificate CA names"),
        "{link}"
    );
    let old = s_client(controller.http, &["-tls1_1"]);
    assert!(old.contains("no peer certificate available"), "{old}");
    let twelve = s_client(controller.http, &["-tls1_2"]);
    assert!(
        twelve.contains("TLSv1.2") && twelve.contains("Verify return code: 0"),
        "{twelve}"
    );
    // An agent that dials the wrong port.
    let token = fleet.token(&[]);
    let mut lost = fleet.agent_in("n1", "n1", controller.http, &token, &[]);
    lost.wait_for_line("this is the HTTPS port of a controller");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_with_another_secret_or_none_does_not_become_part_of_the_fleet() {
    let etcd = Etcd::start();
    let store = etcd.store().to_string();
    let fleet = ProtectedFleet::start(Some(etcd), 1);
    let created = flotilla(fleet.dir.path(), &["secret", "create", "other"], None);
    assert!(created.status.success());
    let data_dir = fleet.dir.path().join("wrong");
    let args = ["--secret-file", "other"];
    let (http, link) = (free_address(), free_address());
    let mut wrong = spawn_controller(fleet.dir.path(), &data_dir, http, link, Some(store), &args);
    let (status, output) = wrong.wait();
    assert!(!status.success());
    assert!(output.contains("made with another secret"), "{output}");
    // A file that others can read is refused.
    let secret = fleet.dir.path().join("other");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).unwrap();
    let data_dir = fleet.dir.path().join("open");
    let mut open = spawn_controller(fleet.dir.path(), &data_dir, http, link, None, &args);
    let (status, output) = open.wait();
    assert!(
        !status.success() && output.contains("chmod 600"),
        "{output}"
    );
    // A token of another fleet is for another authority.
    let other_fleet = ProtectedFleet::start(None, 1);
    let token = other_fleet.token(&[]);
    let mut agent = fleet.agent("n1", 0, &token, &[]);
    agent.wait_for_line("its certificate is of another authority");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_machines_reach_no_port_without_tls_unless_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let everywhere = SocketAddr::from(([0, 0, 0, 0], free_address().port()));
    let http = everywhere.to_string();
    let args = [
        "controller",
        "--http",
        &http,
        "--link",
        "127.0.0.1:0",
        "--data-dir",
        "c",
    ];
    let (status, output) = Process::start(dir.path(), &args).wait();
    assert!(!status.success());
    for part in ["flotilla secret create", "--secret-file", "--insecure"] {
        assert!(output.contains(part), "{output}");
    }
    let args = [
        "agent",
        "--join",
        "192.0.2.1:7070",
        "--name",
        "n1",
        "--data-dir",
        "n1",
        "--metrics",
        "off",
    ];
    let (status, output) = Process::start(dir.path(), &args).wait();
    assert!(!status.success());
    for part in ["flotilla token create", "--token-file", "--insecure"] {
        assert!(output.contains(part), "{output}");
    }
    let args = [
        "controller",
        "--http",
        &http,
        "--link",
        "127.0.0.1:0",
        "--data-dir",
        "c",
        "--insecure",
    ];
    let mut insecure = Process::start(dir.path(), &args);
    insecure.wait_for_line("INSECURE");
    insecure.wait_for_line("ready http=");
    let api = Api::new(SocketAddr::from(([127, 0, 0, 1], everywhere.port())));
    let (_, nodes) = api.get("api/v1/nodes").await;
    assert!(nodes["notes"].to_string().contains("INSECURE"), "{nodes}");
    insecure.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_without_cutting_links() {
    let mut fleet = ProtectedFleet::start(None, 0);
    fleet.add_controller(&["--certificate-life", "1m"]);
    let api = fleet.api(0);
    let serial = || {
        let address = fleet.controllers[0].http.to_string();
        let mut command = Command::new("sh");
        let shown = command.args(["-c", &format!(
            "openssl s_client -connect {address} </dev/null 2>/dev/null | openssl x509 -noout -serial"
        )]);
        text(&shown.output().unwrap())
    };
    let before = serial();
    let token = fleet.token(&[]);
    let mut agent = fleet.agent("n1", 0, &token, &[]);
    wait_for_phase(&api, "n1", "Ready").await;
    serve(&api, "m").await;
    agent.wait_for_line("the node's certificate is renewed");
    let renewed = find_in_time(async || (serial() != before).then_some(()));
    renewed
        .await
        .expect("the controller's certificate is renewed");
    assert_eq!(api.chat("m", "hi", false).await.status(), 200);
    assert_eq!(agent.count_lines("linked"), 1, "the link has not been cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_an_outside_pki_is_replaced_while_the_controller_runs() {
    let mut fleet = ProtectedFleet::start(None, 0);
    let dir = fleet.dir.path().to_owned();
    let make = |name: &str| {
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
            ])
            .args([
                "-days",
                "2",
                "-subj",
                &format!("/CN={name}"),
                "-addext",
                "subjectAltName=IP:127.0.0.1",
            ])
            .args(["-keyout", "new.key", "-out", "new.crt"])
            .current_dir(&dir)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", text(&made));
    };
    let install = || {
        for file in ["key", "crt"] {
            std::fs::rename(
                dir.join(format!("new.{file}")),
                dir.join(format!("tls.{file}")),
            )
            .unwrap();
        }
    };
    make("first");
    install();
    fleet.add_controller(&["--tls-cert", "tls.crt", "--tls-key", "tls.key"]);
    let subject = |fleet: &ProtectedFleet| {
        let address = fleet.controllers[0].http.to_string();
        let shown = Command::new("sh").args(["-c", &format!(
            "openssl s_client -connect {address} </dev/null 2>/dev/null | openssl x509 -noout -subject"
        )]).output();
        text(&shown.unwrap())
    };
    assert!(subject(&fleet).contains("first"), "{}", subject(&fleet));
    std::fs::write(dir.join("tls.key"), "broken").unwrap();
    fleet.controllers[0]
        .process
        .wait_for_line("the one before stays");
    assert!(subject(&fleet).contains("first"));
    make("second");
    install();
    let replaced = find_in_time(async || subject(&fleet).contains("second").then_some(()));
    replaced.await.expect("the new certificate is presented");
}
