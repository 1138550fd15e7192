//! A process under test: the real binary, or a program that a test needs beside it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;

use crate::{DEADLINE, flotilla_binary, send_signal};

/// The first arguments of a controller that listens on ports of the system's choice.
pub const CONTROLLER_ON_FREE_PORTS: [&str; 5] = [
    "controller",
    "--http",
    "127.0.0.1:0",
    "--link",
    "127.0.0.1:0",
];

/// A running process. It is killed when dropped, so that a failing test leaves nothing behind.
pub struct Process {
    child: Child,
    /// Lines of standard output and standard error. Disconnected when the process has ended.
    lines: mpsc::Receiver<String>,
    /// Lines read so far, for the message of a failing test.
    output: Vec<String>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts `flotilla` with these arguments in the directory `dir`.
    ///
    /// # Panics
    /// Panics if it cannot be started.
    #[must_use]
    pub fn start(dir: &Path, args: &[&str]) -> Self {
        Self::start_with_env(dir, args, &[])
    }

    /// Starts `flotilla` as [`Process::start`] does, with variables in its environment.
    ///
    /// # Panics
    /// Panics if it cannot be started.
    #[must_use]
    pub fn start_with_env(dir: &Path, args: &[&str], env: &[(String, String)]) -> Self {
        let mut command = Command::new(flotilla_binary());
        command
            .args(args)
            .envs(env.iter().cloned())
            .current_dir(dir)
            .env_remove("FLOTILLA_LOG");
        Self::spawn(command)
    }

    /// Starts any program.
    ///
    /// # Panics
    /// Panics if it cannot be started.
    #[must_use]
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let (sender, lines) = mpsc::channel();
        let stdout = child.stdout.take().expect("it is piped");
        let stderr = child.stderr.take().expect("it is piped");
        let error_sender = sender.clone();
        let readers = vec![
            std::thread::spawn(move || forward_lines(stdout, &sender)),
            std::thread::spawn(move || forward_lines(stderr, &error_sender)),
        ];
        Self {
            child,
            lines,
            output: Vec::new(),
            readers,
        }
    }

    /// Returns how many of the lines read so far contain `text`.
    #[must_use]
    pub fn count_lines(&self, text: &str) -> usize {
        let lines = self.output.iter();
        lines.filter(|line| line.contains(text)).count()
    }

    /// Waits for a line of output that contains `text`, and returns it. Blocks the thread.
    ///
    /// # Panics
    /// Panics if the process ends or the deadline passes before.
    pub fn wait_for_line(&mut self, text: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let remaining = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(remaining) {
                Ok(line) => {
                    self.output.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(error) => {
                    panic!(
                        "no line with '{text}' ({error}):\n{}",
                        self.output.join("\n")
                    )
                }
            }
        }
    }

    /// Returns the last lines of output, this many at most.
    pub fn last_lines(&mut self, count: usize) -> String {
        self.output.extend(self.lines.try_iter());
        let first = self.output.len().saturating_sub(count);
        self.output[first..].join("\n")
    }

    /// Returns the process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, such as [`libc::SIGINT`].
    pub fn signal(&self, signal: i32) {
        send_signal(self.child.id(), signal);
    }

    /// Limits how many files the process may have open, and returns the limit before. Files that are open
    /// already stay so.
    ///
    /// # Panics
    /// Panics if the process has ended.
    pub fn limit_open_files(&self, limit: u64) -> u64 {
        let id = i32::try_from(self.child.id()).expect("process ids are small");
        let mut before = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: prlimit reads and writes only the two structures; the child was not waited for.
        let result =
            unsafe { libc::prlimit(id, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut before) };
        assert_eq!(result, 0, "the process runs");
        let new = libc::rlimit {
            rlim_cur: limit,
            ..before
        };
        // SAFETY: as above.
        let result = unsafe {
            libc::prlimit(
                id,
                libc::RLIMIT_NOFILE,
                &raw const new,
                std::ptr::null_mut(),
            )
        };
        assert_eq!(result, 0, "the process runs");
        before.rlim_cur
    }

    /// Waits for the process to end and returns its status and all its output. Blocks the thread.
    ///
    /// # Panics
    /// Panics if it does not end before the deadline.
    pub fn wait(&mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + DEADLINE;
        // The output ends with the process, so reading it to its end waits for the process.
        loop {
            let remaining = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(remaining) {
                Ok(line) => self.output.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    panic!("the process does not end:\n{}", self.output.join("\n"))
                }
            }
        }
        let status = self.child.wait().expect("a child can be waited for");
        for reader in self.readers.drain(..) {
            reader.join().expect("readers do not panic");
        }
        (status, self.output.join("\n"))
    }

    /// Stops the process as Ctrl-C does and waits for its end. Blocks the thread.
    ///
    /// # Panics
    /// Panics if it ends with an error or does not end before the deadline.
    pub fn stop(mut self) {
        self.signal(libc::SIGINT);
        let (status, output) = self.wait();
        assert!(status.success(), "{status}:\n{output}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails if the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn forward_lines(from: impl std::io::Read, to: &mpsc::Sender<String>) {
    for line in BufReader::new(from).lines().map_while(Result::ok) {
        // Fails if the test has dropped the process and needs no more lines.
        let _ = to.send(line);
    }
}

/// Returns the address after `field=` in a log line.
///
/// # Panics
/// Panics if there is none.
#[must_use]
pub fn address_in_line(line: &str, field: &str) -> SocketAddr {
    let value = line
        .split(&format!("{field}="))
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("no address {field}= in: {line}"))
}
