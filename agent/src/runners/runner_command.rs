//! How runners are started.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use flotilla_core::Bytes;
use flotilla_engine::ComputeDevice;

/// How often a thread of OpenMP looks whether it may go on before it sleeps. See `docs/performance.md`.
const SPIN_COUNT: &str = "300";

/// The environment variable that says which GPUs CUDA shows to a process.
pub(crate) const VISIBLE_DEVICES: &str = "CUDA_VISIBLE_DEVICES";

/// The environment variable that says where CUDA's driver keeps compiled kernels.
const KERNEL_CACHE: &str = "CUDA_CACHE_PATH";

/// The environment variables that runners inherit by their exact names. Nothing is inherited that is not in one
/// of the two lists: the agent's environment may have secrets.
const INHERITED_NAMES: &[&str] = &[
    "FLOTILLA_LIBRARY_DIR",
    "HOME",
    "LANG",
    "LANGUAGE",
    "PATH",
    "TEMP",
    "TMP",
    "TMPDIR",
    "TZ",
    "TZDIR",
];

/// Beginnings of the names of further variables that runners inherit: what libraries that compute, the loader
/// of shared libraries and the locale read.
const INHERITED_PREFIXES: &[&str] = &[
    "CUDA_",
    "DYLD_",
    "GGML_",
    "GOMP_",
    "GPU_",
    "HIP_",
    "KMP_",
    "LC_",
    "LD_",
    "MALLOC_",
    "METAL_",
    "MIMALLOC_",
    "MISTRALRS_",
    "MKL_",
    "NVIDIA_",
    "OMP_",
    "OPENBLAS_",
    "RAYON_",
    "ROCR_",
    "VK_",
    "XDG_",
];

/// Parts of the names of variables that hold secrets. Such a variable is never inherited.
const SECRET_PARTS: &[&str] = &["KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL"];

/// The command that starts a runner.
#[derive(Debug, Clone)]
pub struct RunnerCommand {
    /// The `flotilla` binary.
    program: PathBuf,
    /// The filter of the runners' logs, as of `--log`. Empty: their default.
    log_filter: String,
    /// Where CUDA's driver keeps the kernels that it has compiled. `None`: where it keeps them by itself.
    kernel_cache: Option<PathBuf>,
}

/// What one runner is started with.
#[derive(Debug, Clone)]
pub(super) struct RunnerSettings {
    /// The name of its model, for people who list processes.
    pub(super) model: String,
    /// The memory that it may take. `None`: no limit.
    pub(super) memory_limit: Option<Bytes>,
    /// The number of threads that compute.
    pub(super) threads: usize,
    /// What computes the model.
    pub(super) device: ComputeDevice,
}

impl RunnerCommand {
    /// Runners of the binary `program`, which has the subcommand `runner`.
    #[must_use]
    pub fn new(program: PathBuf) -> Self {
        Self {
            program,
            log_filter: String::new(),
            kernel_cache: None,
        }
    }

    /// Runners of the binary that runs now.
    ///
    /// # Errors
    /// When the system does not say which that is.
    pub fn of_this_program() -> std::io::Result<Self> {
        // This names the running binary also after an upgrade has replaced its file.
        let running = PathBuf::from("/proc/self/exe");
        if running.exists() {
            return Ok(Self::new(running));
        }
        std::env::current_exe().map(Self::new)
    }

    /// Sets the filter of the runners' logs, as of `--log`.
    #[must_use]
    pub fn with_log_filter(self, filter: &str) -> Self {
        Self {
            log_filter: filter.to_owned(),
            ..self
        }
    }

    /// Has CUDA's driver keep the kernels that it compiles in this directory: compiling them takes up to half a minute, and
    /// a service has no home directory where they would be kept.
    #[must_use]
    pub fn with_kernel_cache(self, directory: PathBuf) -> Self {
        Self {
            kernel_cache: Some(directory),
            ..self
        }
    }

    /// Returns the command of one runner, without its standard streams.
    pub(super) fn command(&self, settings: &RunnerSettings) -> Command {
        let mut command = Command::new(&self.program);
        command.arg0("flotilla").arg("runner");
        command.args(["--model", &settings.model]);
        if let Some(limit) = settings.memory_limit {
            command.args(["--memory-limit", &limit.0.to_string()]);
        }
        if !self.log_filter.is_empty() {
            command.args(["--log", &self.log_filter]);
        }
        // Signals of the terminal, such as Ctrl-C, are for the agent, which lets requests finish first.
        command.process_group(0);
        command.env_clear().envs(inherited(std::env::vars_os()));
        if let Some(directory) = &self.kernel_cache
            && std::env::var_os(KERNEL_CACHE).is_none()
        {
            command.env(KERNEL_CACHE, directory);
        }
        match &settings.device {
            ComputeDevice::Gpu(Some(uuid)) => {
                command.env(VISIBLE_DEVICES, uuid);
            }
            // What the agent itself is allowed.
            ComputeDevice::Gpu(None) => {}
            // Engines would open the GPUs they see, which takes memory there, and ask for what only they can.
            ComputeDevice::Processors => {
                command.env(VISIBLE_DEVICES, "");
            }
        }
        // The allocator reserves a gigabyte in advance, which a limit would count as taken.
        command.env("MIMALLOC_ARENA_EAGER_COMMIT", "0");
        command.env("RAYON_NUM_THREADS", settings.threads.to_string());
        command.env("OMP_NUM_THREADS", settings.threads.to_string());
        // Threads that wait for each other soon sleep: where another program has one of their cores, those that spin
        // for long keep it from the one that they wait for. Those that do not spin at all wake up too late each time.
        if std::env::var_os("GOMP_SPINCOUNT").is_none() {
            command.env("GOMP_SPINCOUNT", SPIN_COUNT);
        }
        command
    }
}

/// Returns the variables that runners inherit.
fn inherited(
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> impl Iterator<Item = (OsString, OsString)> {
    variables.filter(|(name, _)| name.to_str().is_some_and(is_inherited))
}

/// Whether runners inherit the variable of this name.
fn is_inherited(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    let is_listed = INHERITED_NAMES.contains(&name)
        || INHERITED_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix));
    is_listed && !SECRET_PARTS.iter().any(|part| upper.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runner_inherits_no_secrets() {
        let kept = [
            "PATH",
            "HOME",
            "LANG",
            "LC_ALL",
            "TZ",
            "TMPDIR",
            "CUDA_VISIBLE_DEVICES",
            "LD_LIBRARY_PATH",
        ];
        let dropped = [
            "OPENAI_API_KEY",
            "FLOTILLA_JOIN",
            "LANGCHAIN_API_KEY",
            "LANGUAGE_MODEL",
            "NVIDIA_API_KEY",
            "LLAMA_CLOUD_API_KEY",
            "HOMEBREW_GITHUB_API_TOKEN",
            "TZ_DATABASE",
            "PATH_TO_LICENCE",
            "XDG_SESSION_secret",
            "CUDA_REGISTRY_PASSWORD",
        ];
        let variables = kept
            .iter()
            .chain(&dropped)
            .map(|name| (OsString::from(name), OsString::from("x")));
        let inherited: Vec<_> = inherited(variables).map(|(name, _)| name).collect();
        assert_eq!(inherited, kept);
    }

    #[test]
    fn command_names_the_model_and_its_limits() {
        let settings = RunnerSettings {
            model: "intent".into(),
            memory_limit: Some(Bytes(5)),
            threads: 3,
            device: ComputeDevice::Processors,
        };
        let command = RunnerCommand::new("/bin/flotilla".into())
            .with_log_filter("debug")
            .command(&settings);
        let args: Vec<_> = command.get_args().collect();
        assert_eq!(
            args,
            [
                "runner",
                "--model",
                "intent",
                "--memory-limit",
                "5",
                "--log",
                "debug"
            ]
        );
    }

    #[test]
    fn runner_sees_the_gpu_of_its_model_alone() {
        let visible = |device| {
            let settings = RunnerSettings {
                model: "m".into(),
                memory_limit: None,
                threads: 1,
                device,
            };
            let command = RunnerCommand::new("/bin/flotilla".into()).command(&settings);
            let mut variables = command.get_envs();
            let found = variables.find(|(name, _)| *name == VISIBLE_DEVICES);
            found.and_then(|(_, value)| value?.to_str().map(str::to_owned))
        };
        let second = ComputeDevice::Gpu(Some("GPU-b".into()));
        assert_eq!(visible(second).as_deref(), Some("GPU-b"));
        assert_eq!(visible(ComputeDevice::Processors).as_deref(), Some(""));
    }
}
