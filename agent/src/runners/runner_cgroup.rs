//! The cgroup of a runner, where the agent may create one: the kernel then keeps the runner's memory below its
//! limit, with the files that it reads, and says for certain whether it has ended the runner.
//!
//! The agent needs a cgroup of version 2 that is delegated to it, with the controller `memory`: that of a service of
//! systemd with `Delegate=yes`, or that of a container whose cgroup it may write. A cgroup with processes may not
//! divide its memory among others, so the agent first moves itself into a cgroup below.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use flotilla_core::Bytes;

use super::process_files::parse_counter;

/// The name of the agent's own cgroup below the delegated one.
const AGENT_CGROUP: &str = "flotilla-agent";
/// The beginning of the names of runners' cgroups.
const RUNNER_PREFIX: &str = "flotilla-runner-";
const MEMORY_CONTROLLER: &str = "memory";
/// The extended attributes with which systemd marks a cgroup as delegated.
const DELEGATION_ATTRIBUTES: [&str; 2] = ["user.delegate", "trusted.delegate"];

/// Why the kernel ended a runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OutOfMemory {
    /// The runner has reached its own limit.
    Runner,
    /// The machine, or a cgroup around the agent, had no memory left.
    Node,
}

/// The delegated cgroup, in which those of runners are created.
#[derive(Debug)]
pub(super) struct RunnerCgroups {
    delegated: PathBuf,
}

/// The cgroup of one runner. Dropping it removes it, once its process has ended.
#[derive(Debug)]
pub(super) struct RunnerCgroup {
    path: PathBuf,
}

impl RunnerCgroups {
    /// The delegated cgroup of this process. `None` where there is none, which is found out once.
    pub(super) fn of_this_process() -> Option<&'static Self> {
        static CGROUPS: OnceLock<Option<RunnerCgroups>> = OnceLock::new();
        let detect = || match find_delegated().and_then(Self::prepare_or_explain) {
            Ok(cgroups) => {
                let path = cgroups.delegated.display();
                tracing::info!("runners get cgroups of their own below {path}");
                Some(cgroups)
            }
            Err(reason) => {
                tracing::info!(
                    "runners get no cgroups, their memory is limited by RLIMIT_DATA: {reason}"
                );
                None
            }
        };
        CGROUPS.get_or_init(detect).as_ref()
    }

    /// Prepares a delegated cgroup, or says why it cannot be used.
    fn prepare_or_explain(delegated: PathBuf) -> Result<Self, String> {
        let shown = delegated.display().to_string();
        Self::prepare(delegated).map_err(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => {
                format!("{shown}: other processes are in it, the agent must be alone: {error}")
            }
            _ => format!("{shown}: {error}"),
        })
    }

    /// Moves this process into a cgroup below `delegated`, whose memory can then be divided.
    fn prepare(delegated: PathBuf) -> io::Result<Self> {
        let (own, pid) = (delegated.join(AGENT_CGROUP), std::process::id().to_string());
        if !own.is_dir() {
            std::fs::create_dir(&own)?;
        }
        if let Err(error) = std::fs::write(own.join("cgroup.procs"), &pid) {
            // It fails for one that another agent is in.
            let _ = std::fs::remove_dir(&own);
            return Err(error);
        }
        let enabled = format!("+{MEMORY_CONTROLLER}");
        if let Err(error) = std::fs::write(delegated.join("cgroup.subtree_control"), enabled) {
            // Other processes are in it.
            std::fs::write(delegated.join("cgroup.procs"), &pid)?;
            std::fs::remove_dir(&own)?;
            return Err(error);
        }
        let cgroups = Self { delegated };
        cgroups.remove_old();
        Ok(cgroups)
    }

    /// Removes the cgroups of runners of agents that were killed. Called before this process creates any. Those whose
    /// agent's process id is in use stay, whoever uses it: another agent may be about to start a process in one.
    fn remove_old(&self) {
        let entries = std::fs::read_dir(&self.delegated).into_iter().flatten();
        for entry in entries.flatten() {
            let agent = agent_of(&entry.file_name().to_string_lossy());
            if agent.is_some_and(is_earlier_agent) {
                // It fails for one that is in use.
                let _ = std::fs::remove_dir(entry.path());
            }
        }
    }

    #[cfg(test)]
    pub(super) fn below(path: &Path) -> Self {
        Self {
            delegated: path.to_owned(),
        }
    }

    /// Creates a cgroup whose processes may take so much memory, and are ended together.
    pub(super) fn create(&self, limit: Option<Bytes>) -> io::Result<RunnerCgroup> {
        let cgroup = self.create_empty()?;
        if let Some(limit) = limit {
            cgroup.write("memory.max", &limit.0.to_string())?;
            // Without swap accounting in the kernel there is no such file.
            let _ = cgroup.write("memory.swap.max", "0");
        }
        cgroup.write("memory.oom.group", "1")?;
        Ok(cgroup)
    }

    /// Creates a cgroup without limits.
    fn create_empty(&self) -> io::Result<RunnerCgroup> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("{RUNNER_PREFIX}{}-{number}", std::process::id());
            let path = self.delegated.join(name);
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(RunnerCgroup { path }),
                // That of an earlier agent with this process id, in which a process has not ended.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Returns the process id of the agent that has given this name to the cgroup of a runner.
fn agent_of(name: &str) -> Option<u32> {
    let (process, _) = name.strip_prefix(RUNNER_PREFIX)?.split_once('-')?;
    process.parse().ok()
}

/// Whether no other process has the id of this agent's process now. An earlier agent may have had that of this process.
fn is_earlier_agent(process: u32) -> bool {
    process == std::process::id() || !Path::new("/proc").join(process.to_string()).exists()
}

impl RunnerCgroup {
    /// Its folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Moves a process into the cgroup.
    pub(super) fn add(&self, process: u32) -> io::Result<()> {
        self.write("cgroup.procs", &process.to_string())
    }

    /// Why the kernel has ended a process of the cgroup. `None` if it has not.
    pub(super) fn out_of_memory(&self) -> Option<OutOfMemory> {
        let events = std::fs::read_to_string(self.path.join("memory.events")).ok()?;
        parse_events(&events)
    }

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        std::fs::write(self.path.join(file), value)
    }
}

impl Drop for RunnerCgroup {
    fn drop(&mut self) {
        // One whose process waits in the kernel stays until an agent starts here again.
        if let Err(error) = std::fs::remove_dir(&self.path) {
            tracing::debug!(%error, "the cgroup of a runner stays");
        }
    }
}

/// Reads a `memory.events`: `oom` counts how often the cgroup's own limit was reached in vain, `oom_kill` its
/// processes that the kernel has ended, for that or another reason.
fn parse_events(events: &str) -> Option<OutOfMemory> {
    let count = |name| parse_counter(events, name);
    match (count("oom_kill"), count("oom")) {
        (0, _) => None,
        (_, 0) => Some(OutOfMemory::Node),
        _ => Some(OutOfMemory::Runner),
    }
}

/// Finds the cgroup that is delegated to this process.
///
/// # Errors
/// Why there is none.
fn find_delegated() -> Result<PathBuf, String> {
    let read =
        |path: &str| std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
    let (membership, mounts) = (read("/proc/self/cgroup")?, read("/proc/self/mountinfo")?);
    let mount = cgroup_mount(&mounts).ok_or("no cgroups of version 2 are mounted")?;
    let own = own_cgroup(&membership).ok_or("this process is in no cgroup of version 2")?;
    let is_root_of_namespace = own == "/";
    let mut delegated = mount.join(own.trim_start_matches('/'));
    // After a start in the cgroup that an earlier agent has made, or DelegateSubgroup= of systemd.
    if delegated.ends_with(AGENT_CGROUP) {
        delegated.pop();
    }
    let shown = delegated.display();
    let controllers = std::fs::read_to_string(delegated.join("cgroup.controllers"));
    let controllers = controllers.map_err(|error| format!("{shown}: {error}"))?;
    if !controllers
        .split_whitespace()
        .any(|name| name == MEMORY_CONTROLLER)
    {
        return Err(format!("{shown} does not have the controller memory"));
    }
    // The machine's own root, which has no such file, is nobody's.
    let is_container = is_root_of_namespace && delegated.join("cgroup.type").exists();
    if !is_container && !is_marked_as_delegated(&delegated) {
        return Err(format!(
            "{shown} is not marked as delegated (systemd: Delegate=yes in a service of the system; those of \
             `systemctl --user` are never marked)"
        ));
    }
    Ok(delegated)
}

fn is_marked_as_delegated(cgroup: &Path) -> bool {
    DELEGATION_ATTRIBUTES.iter().any(|name| {
        let mut value = [0_u8; 1];
        let length = rustix::fs::getxattr(cgroup, *name, &mut value);
        length == Ok(1) && value == *b"1"
    })
}

/// The path of this process's cgroup of version 2, from `/proc/self/cgroup`.
fn own_cgroup(membership: &str) -> Option<&str> {
    membership.lines().find_map(|line| line.strip_prefix("0::"))
}

/// Where the cgroups of version 2 are mounted, from `/proc/self/mountinfo`.
fn cgroup_mount(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let is_cgroup2 = kind.split_whitespace().next() == Some("cgroup2");
        let mount_point = place.split_whitespace().nth(4)?;
        is_cgroup2.then(|| PathBuf::from(mount_point))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_cgroup_and_its_mount_are_found() {
        let membership = "4:memory:/a\n0::/system.slice/flotilla-agent.service\n";
        assert_eq!(
            own_cgroup(membership),
            Some("/system.slice/flotilla-agent.service")
        );
        assert_eq!(own_cgroup("4:memory:/a\n"), None);
        let mounts = "24 30 0:22 / /proc rw - proc proc rw\n\
                      30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(cgroup_mount(mounts), Some("/sys/fs/cgroup".into()));
        assert_eq!(cgroup_mount("24 30 0:22 / /proc rw - proc proc rw\n"), None);
    }

    #[test]
    fn events_tell_the_runners_limit_from_the_machines_end_of_memory() {
        let events = |oom, kills| format!("low 0\nhigh 0\nmax 9\noom {oom}\noom_kill {kills}\n");
        assert_eq!(parse_events(&events(0, 0)), None);
        assert_eq!(parse_events(&events(1, 1)), Some(OutOfMemory::Runner));
        assert_eq!(parse_events(&events(0, 1)), Some(OutOfMemory::Node));
        assert_eq!(
            parse_events(&events(1, 0)),
            None,
            "it got the memory after all"
        );
    }

    #[test]
    fn only_cgroups_of_agents_that_have_ended_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let name = |process| format!("{RUNNER_PREFIX}{process}-0");
        // The test's parent runs.
        let running = name(std::os::unix::process::parent_id());
        let others = [
            "flotilla-agent".to_owned(),
            "flotilla-runner-x-0".to_owned(),
        ];
        // No process has the largest number as its id.
        let (own, ended) = (name(std::process::id()), name(u32::MAX));
        for name in others.iter().chain([&running, &own, &ended]) {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        RunnerCgroups::below(dir.path()).remove_old();
        let is_there = |name: &String| dir.path().join(name).is_dir();
        assert!(is_there(&running) && others.iter().all(is_there));
        assert!(!is_there(&own) && !is_there(&ended));
    }

    #[test]
    fn name_of_a_cgroup_that_an_earlier_agent_has_left_is_not_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let cgroups = RunnerCgroups::below(dir.path());
        let number = |cgroup: &RunnerCgroup| {
            let name = cgroup.path.file_name().unwrap().to_str().unwrap();
            name.rsplit_once('-').unwrap().1.parse::<u64>().unwrap()
        };
        let first = cgroups.create(None).unwrap();
        // Other tests may count as well.
        let next = number(&first) + 1;
        for left in next..next + 50 {
            let name = format!("{RUNNER_PREFIX}{}-{left}", std::process::id());
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        assert!(number(&cgroups.create(None).unwrap()) >= next + 50);
    }

    #[test]
    fn cgroup_of_a_runner_has_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let cgroups = RunnerCgroups::below(dir.path());
        let cgroup = cgroups.create(Some(Bytes(5_000))).unwrap();
        cgroup.add(7).unwrap();
        let read = |file| std::fs::read_to_string(cgroup.path.join(file)).unwrap();
        assert_eq!(read("memory.max"), "5000");
        assert_eq!(read("memory.oom.group"), "1");
        assert_eq!(read("cgroup.procs"), "7");
        assert_eq!(cgroup.out_of_memory(), None);
    }

    /// Needs root and a machine whose cgroups of version 2 have the controller `memory`; says so elsewhere.
    #[test]
    fn kernel_ends_a_process_that_exceeds_the_limit_of_its_cgroup() {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let created = cgroup_mount(&mounts).ok_or("no cgroups of version 2 are mounted".to_owned());
        let created = created.and_then(|mount| {
            let cgroups = RunnerCgroups::below(&mount);
            let created = cgroups.create(Some(Bytes(32 << 20)));
            created.map_err(|error| error.to_string())
        });
        let cgroup = match created {
            Ok(cgroup) => cgroup,
            Err(reason) => {
                println!("skipped: this machine gives no cgroup with a limit of memory: {reason}");
                return;
            }
        };
        // It waits until it is in the cgroup. `tail` keeps what comes through a pipe in memory, 256 MiB.
        let mut process = std::process::Command::new("sh")
            .args([
                "-c",
                "read go; head -c 256M /dev/zero | tail -c 256M >/dev/null",
            ])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        cgroup.add(process.id()).unwrap();
        drop(process.stdin.take());
        assert!(!process.wait().unwrap().success());
        assert_eq!(cgroup.out_of_memory(), Some(OutOfMemory::Runner));
    }
}
