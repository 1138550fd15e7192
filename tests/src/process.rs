//! A process of the real binary.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;

use crate::{DEADLINE, flotilla};

/// A running process. Killed when dropped, so that a failing test leaves nothing behind.
pub struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
    /// Lines read so far, for a test that fails.
    seen: Vec<String>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts `flotilla` with `args` in `dir`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(dir: &Path, args: &[&str]) -> Self {
        Self::start_with(dir, args, &[])
    }

    /// The same with these variables in its environment.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start_with(dir: &Path, args: &[&str], variables: &[(String, String)]) -> Self {
        let mut command = Command::new(flotilla());
        command
            .args(args)
            .envs(variables.iter().cloned())
            .current_dir(dir)
            .env_remove("FLOTILLA_LOG");
        Self::spawn(command)
    }

    /// Starts any program.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let (sender, lines) = mpsc::channel();
        let out = child.stdout.take().expect("piped");
        let err = child.stderr.take().expect("piped");
        let errors = sender.clone();
        let readers = vec![
            std::thread::spawn(move || forward(out, &sender)),
            std::thread::spawn(move || forward(err, &errors)),
        ];
        Self {
            child,
            lines,
            seen: Vec::new(),
            readers,
        }
    }

    /// Lines read so far that hold `text`.
    #[must_use]
    pub fn seen_with(&self, text: &str) -> usize {
        let lines = self.seen.iter();
        lines.filter(|line| line.contains(text)).count()
    }

    /// Waits for a line of output that holds `text`, and returns it.
    ///
    /// # Panics
    /// When the process ends or the deadline passes before.
    pub fn line_with(&mut self, text: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(error) => panic!("no line with '{text}' ({error}):\n{}", self.seen.join("\n")),
            }
        }
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its id in the system.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        let id = i32::try_from(self.child.id()).expect("process ids are small");
        // SAFETY: kill only sends a signal; the child was not waited for, so its id is its own.
        unsafe {
            libc::kill(id, signal);
        }
    }

    /// Waits for the end and returns the status and all output.
    ///
    /// # Panics
    /// When it does not end before the deadline.
    pub fn wait(&mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + DEADLINE;
        // Output ends with the process: reading to its end is waiting for it.
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.seen.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    panic!("it did not end:\n{}", self.seen.join("\n"))
                }
            }
        }
        let status = self.child.wait().expect("a child can be waited for");
        for reader in self.readers.drain(..) {
            reader.join().expect("readers do not panic");
        }
        (status, self.seen.join("\n"))
    }

    /// Memory of the process that is in RAM, in bytes.
    ///
    /// # Panics
    /// When the process is gone.
    #[must_use]
    pub fn resident(&self) -> u64 {
        let file = format!("/proc/{}/statm", self.id());
        let text = std::fs::read_to_string(file).expect("the process lives");
        let pages: u64 = text
            .split(' ')
            .nth(1)
            .and_then(|p| p.parse().ok())
            .expect("a number");
        // SAFETY: sysconf reads a constant of the system.
        pages * u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).expect("positive")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that has ended already is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn forward(from: impl std::io::Read, to: &mpsc::Sender<String>) {
    for line in BufReader::new(from).lines().map_while(Result::ok) {
        // A test that does not listen any more does not need the rest.
        let _ = to.send(line);
    }
}

/// The address after `name=` in a log line.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn address(line: &str, name: &str) -> SocketAddr {
    let field = format!("{name}=");
    let value = line
        .split(&field)
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("no {name} in: {line}"))
}

/// Open files of a process.
///
/// # Panics
/// When the process is gone.
#[must_use]
pub fn open_files(id: u32) -> usize {
    std::fs::read_dir(format!("/proc/{id}/fd"))
        .expect("the process lives")
        .count()
}
