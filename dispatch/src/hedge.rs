//! Attempts until one replica has begun to answer. If the task has a hedge, a second replica is tried
//! beside a slow one.

use std::pin::pin;
use std::time::{Duration, Instant};

use flotilla_core::generate::RequestError;
use flotilla_proto::v1::GenerateRequest;

use crate::ReplicaView;
use crate::answer_stream::AnswerStream;
use crate::attempt::AttemptError;
use crate::plan_execution::PlanExecution;

/// A replica and its answer, which has begun. `None` when the replica failed, which is recorded.
type StartedAnswer = Option<(ReplicaView, AnswerStream)>;

impl PlanExecution<'_> {
    /// Tries replicas until one has begun to answer.
    ///
    /// # Errors
    /// Why no replica answers.
    pub(crate) async fn start_answer(
        &mut self,
        request: &GenerateRequest,
    ) -> Result<(ReplicaView, AnswerStream), RequestError> {
        loop {
            let (replica, load) = self.next_replica().await?;
            let addressed = self.address(request);
            let attempt = self.attempt(&replica, load);
            let attempt = attempt.generate(addressed, self.attempt_limits());
            let started = match self.plan.hedge_after() {
                None => {
                    let answer = attempt.await;
                    self.record_start(&replica, answer)?
                }
                Some(after) => self.race(&replica, attempt, after, request).await?,
            };
            if let Some(started) = started {
                return Ok(started);
            }
        }
    }

    /// Waits for the answer of `replica` to begin. If it has not begun after the time `after`, a spare
    /// replica is tried too. The one that begins first answers, and the other is cancelled.
    async fn race(
        &mut self,
        replica: &ReplicaView,
        first: impl Future<Output = Result<AnswerStream, AttemptError>>,
        after: Duration,
        request: &GenerateRequest,
    ) -> Result<StartedAnswer, RequestError> {
        let began = Instant::now();
        let mut first = pin!(first);
        if let Ok(answer) = tokio::time::timeout(after, &mut first).await {
            return self.record_start(replica, answer);
        }
        let Some(spare) = self.select_spare(&replica.node) else {
            let answer = first.await;
            return self.record_start(replica, answer);
        };
        self.record_hedge(&replica.node, &spare.node, began.elapsed());
        let load = self.begin_request(&spare, self.plan.cost.prompt_bytes);
        let addressed = self.address(request);
        let second = self.attempt(&spare, load);
        let mut second = pin!(second.generate(addressed, self.attempt_limits()));
        // When one of the two fails, only the other is awaited.
        tokio::select! {
            answer = &mut first => {
                if let Some(started) = self.record_start(replica, answer)? {
                    return Ok(Some(started));
                }
            }
            answer = &mut second => {
                if let Some(started) = self.record_start(&spare, answer)? {
                    self.record_hedge_won();
                    return Ok(Some(started));
                }
                let answer = first.await;
                return self.record_start(replica, answer);
            }
        }
        let answer = second.await;
        let started = self.record_start(&spare, answer)?;
        if started.is_some() {
            self.record_hedge_won();
        }
        Ok(started)
    }

    /// Pairs a replica with its answer, or records that it failed.
    fn record_start(
        &mut self,
        replica: &ReplicaView,
        answer: Result<AnswerStream, AttemptError>,
    ) -> Result<StartedAnswer, RequestError> {
        match answer {
            Ok(answer) => {
                self.record_start_of_answer();
                Ok(Some((replica.clone(), answer)))
            }
            Err(failed) => self.record_failure(replica, failed).map(|()| None),
        }
    }
}
