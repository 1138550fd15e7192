//! The thread that starts runners.
//!
//! A runner asks the kernel to end it together with its parent. The kernel takes the thread that started
//! it for the parent, so this must be a thread that lives as long as the process; those of the async
//! runtime may end earlier.

use std::io;
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// How long the start of a process may take. The drive of the program's file may hang.
const SPAWN_TIMEOUT: Duration = Duration::from_secs(30);

struct SpawnRequest {
    command: Command,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// Starts a process from the thread of runners.
pub(super) async fn spawn(command: Command) -> io::Result<Child> {
    let (reply, spawned) = oneshot::channel();
    let request = SpawnRequest {
        command,
        runtime: Handle::current(),
        reply,
    };
    let ended = || io::Error::other("the thread that starts processes has ended");
    spawner()?.send(request).map_err(|_| ended())?;
    let spawned = tokio::time::timeout(SPAWN_TIMEOUT, spawned).await;
    let spawned = spawned.map_err(|_| {
        let problem = format!(
            "the system did not start it within {} s",
            SPAWN_TIMEOUT.as_secs()
        );
        io::Error::new(io::ErrorKind::TimedOut, problem)
    });
    spawned?.map_err(|_| ended())?
}

fn spawner() -> io::Result<&'static mpsc::Sender<SpawnRequest>> {
    static SPAWNER: OnceLock<mpsc::Sender<SpawnRequest>> = OnceLock::new();
    if let Some(spawner) = SPAWNER.get() {
        return Ok(spawner);
    }
    let (sender, requests) = mpsc::channel::<SpawnRequest>();
    let run = move || {
        for mut request in requests {
            let _runtime = request.runtime.enter();
            // If nobody waits any more, the child is dropped, which ends it.
            let _ = request.reply.send(request.command.spawn());
        }
    };
    std::thread::Builder::new()
        .name("runner-spawner".into())
        .spawn(run)?;
    // If another thread was quicker, the one just started ends with its channel.
    Ok(SPAWNER.get_or_init(|| sender))
}
