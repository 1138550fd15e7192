//! The time limits of a controller, which `up` has as well.

use std::time::Duration;

use flotilla_controller::ControllerConfig;

use super::values::seconds_between;

/// Time limits of requests and of nodes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct TimeLimitArgs {
    /// Maximum time until the first token of an answer exists, in seconds, with the time in queues: 2 to
    /// 86400. A node takes up to a second to report that an answer has begun.
    #[arg(long, env = "FLOTILLA_FIRST_TOKEN_TIMEOUT", value_name = "SECONDS",
        default_value = "300", value_parser = seconds_between(2.0, 86_400.0))]
    first_token_timeout: Duration,
    /// Maximum time from the arrival of a request to the end of its answer, in seconds: 2 to 86400.
    #[arg(long, env = "FLOTILLA_ANSWER_TIMEOUT", value_name = "SECONDS",
        default_value = "600", value_parser = seconds_between(2.0, 86_400.0))]
    answer_timeout: Duration,
    /// Time without a message from a node after which the node gets no more requests, in seconds: 1 to
    /// 3600.
    #[arg(long, env = "FLOTILLA_LINK_TIMEOUT", value_name = "SECONDS", default_value = "5",
        value_parser = seconds_between(1.0, 3_600.0))]
    link_timeout: Duration,
    /// Time that a node may be unreachable before its models are placed on other nodes, in seconds: 1 to
    /// 86400. An agent takes up to 10 seconds to return after its line does.
    #[arg(long, env = "FLOTILLA_NODE_GRACE_PERIOD", value_name = "SECONDS", default_value = "15",
        value_parser = seconds_between(1.0, 86_400.0))]
    node_grace_period: Duration,
}

impl TimeLimitArgs {
    /// Sets the time limits of a controller.
    pub(crate) fn apply(&self, config: ControllerConfig) -> ControllerConfig {
        ControllerConfig {
            first_token_timeout: self.first_token_timeout,
            answer_timeout: self.answer_timeout,
            link_timeout: self.link_timeout,
            node_grace: self.node_grace_period,
            ..config
        }
    }
}
