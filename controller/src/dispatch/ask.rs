//! Asking replicas until one has begun to answer, a second one beside one that takes long where the
//! task says so.

use std::pin::pin;
use std::time::{Duration, Instant};

use flotilla_core::generate::RequestError;
use flotilla_proto::v1::GenerateRequest;

use super::relay::AnswerStream;
use super::tries::RetryState;
use crate::fleet::ReplicaView;

/// A replica and its answer, which has begun. `None`: it failed, which is noted.
type StartedAnswer = Option<(ReplicaView, AnswerStream)>;

impl RetryState<'_> {
    /// Asks replicas until one has begun to answer.
    ///
    /// # Errors
    /// What to tell the client where none does.
    pub(super) async fn ask(
        &mut self,
        request: &GenerateRequest,
    ) -> Result<(ReplicaView, AnswerStream), RequestError> {
        loop {
            let (replica, guard) = self.next().await?;
            let addressed = self.address(request);
            let first = self.attempt(&replica, guard);
            let first = first.generate(addressed, self.patience());
            let begun = match self.plan.hedge() {
                None => {
                    let answer = first.await;
                    self.begun(&replica, answer)?
                }
                Some(after) => self.race(&replica, first, after, request).await?,
            };
            if let Some(begun) = begun {
                return Ok(begun);
            }
        }
    }

    /// Waits for the `first` replica's answer to begin; when it has not done so `after` a while, a
    /// spare replica is asked beside it, and the one that has not begun first is cancelled.
    async fn race(
        &mut self,
        replica: &ReplicaView,
        first: impl Future<Output = Result<AnswerStream, RequestError>>,
        after: Duration,
        request: &GenerateRequest,
    ) -> Result<StartedAnswer, RequestError> {
        let asked = Instant::now();
        let mut first = pin!(first);
        if let Ok(answer) = tokio::time::timeout(after, &mut first).await {
            return self.begun(replica, answer);
        }
        let Some(spare) = self.spare(&replica.node) else {
            let answer = first.await;
            return self.begun(replica, answer);
        };
        self.hedged(&replica.node, &spare.node, asked.elapsed());
        let guard = self.count(&spare, self.plan.work.prompt_bytes);
        let addressed = self.address(request);
        let second = self.attempt(&spare, guard);
        let mut second = pin!(second.generate(addressed, self.patience()));
        // Where one fails, the other one is all there is.
        tokio::select! {
            answer = &mut first => {
                if let Some(begun) = self.begun(replica, answer)? {
                    return Ok(Some(begun));
                }
            }
            answer = &mut second => {
                if let Some(begun) = self.begun(&spare, answer)? {
                    self.hedge_won();
                    return Ok(Some(begun));
                }
                let answer = first.await;
                return self.begun(replica, answer);
            }
        }
        let answer = second.await;
        let begun = self.begun(&spare, answer)?;
        if begun.is_some() {
            self.hedge_won();
        }
        Ok(begun)
    }

    /// Takes note of how a replica's answer began.
    fn begun(
        &mut self,
        replica: &ReplicaView,
        answer: Result<AnswerStream, RequestError>,
    ) -> Result<StartedAnswer, RequestError> {
        match answer {
            Ok(relay) => Ok(Some((replica.clone(), relay))),
            Err(error) => self.failed(replica, error).map(|()| None),
        }
    }
}
