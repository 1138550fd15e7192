//! Join tokens in the admin API: what new nodes enrol with.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use flotilla_core::spec::Sha256Digest;
use flotilla_core::{HumanDuration, NodeName, ZoneName};
use flotilla_gateway::{ApiError, ApiPath, ApiQuery, read_json};
use flotilla_identity::authority::tls;
use flotilla_identity::enrolment::{JoinToken, JoinTokenRecord, TokenState};
use flotilla_telemetry::clock::unix_seconds;
use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::desired_state::DesiredStateWriter;
use super::errors::{not_found, store_failure};
use super::resources::{MAX_RESOURCE, ResourceList};
use super::state::AdminState;
use super::watch::{self, WatchQuery, wait_until_synced};
use crate::fleet::FleetView;
use crate::fleet::records::encode;
use crate::store::{StoreError, StoreRevision, StoreWrite, keys};

/// The longest life of a token.
const MAX_LIFE: Duration = Duration::from_secs(365 * 24 * 3_600);
/// The most nodes of one token.
const MAX_USES: u32 = 100_000;
/// The most zones or labels of a token.
const MAX_PARTS: usize = 64;
/// The longest key or value of a label, in bytes.
const MAX_LABEL: usize = 256;
/// The most tokens of a fleet.
const MAX_TOKENS: usize = 1_000;
/// How long a token is kept after it has expired, so that nodes that come too late learn why, in seconds.
const KEPT_EXPIRED: u64 = 7 * 24 * 3_600;

/// A join token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinTokenResource {
    /// The id, which is no secret.
    pub id: String,
    /// `Valid`, `Expired` or `UsedUp`.
    pub state: String,
    /// The name of the node that the token is made for. Missing: any name that no other node has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// The privacy zones of the nodes that enrol with the token.
    #[serde(default)]
    pub zones: BTreeSet<ZoneName>,
    /// The protected labels of the nodes that enrol with the token.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// When the token was created, in seconds since 1970.
    pub created: u64,
    /// Until when nodes can enrol with it, in seconds since 1970.
    pub expires: u64,
    /// How many nodes can enrol with it.
    pub uses: u32,
    /// How many nodes have enrolled with it.
    pub used: u32,
}

/// What a new token grants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewJoinToken {
    /// The name of the node that the token is for, which may replace the machine that has it. Missing: any name that
    /// no other node has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// The privacy zones of the nodes that enrol with the token.
    #[serde(default)]
    pub zones: BTreeSet<ZoneName>,
    /// The protected labels of the nodes that enrol with the token.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// How long nodes can enrol with the token.
    #[serde(default = "default_life")]
    pub ttl: HumanDuration,
    /// How many nodes can enrol with the token.
    #[serde(default = "one")]
    pub uses: u32,
}

/// A token that was created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreatedJoinToken {
    /// The id, which is no secret.
    pub id: String,
    /// The whole token, which is shown only now.
    pub token: String,
    /// Until when nodes can enrol with it, in seconds since 1970.
    pub expires: u64,
}

fn default_life() -> HumanDuration {
    HumanDuration(Duration::from_secs(3_600))
}

fn one() -> u32 {
    1
}

impl Default for NewJoinToken {
    fn default() -> Self {
        Self {
            node: None,
            zones: BTreeSet::new(),
            labels: BTreeMap::new(),
            ttl: default_life(),
            uses: one(),
        }
    }
}

impl NewJoinToken {
    /// Checks the limits.
    ///
    /// # Errors
    /// The field, and what is wrong with it.
    fn check(&self) -> Result<(), (&'static str, String)> {
        let seconds = self.ttl.0.as_secs();
        if seconds == 0 || self.ttl.0 > MAX_LIFE {
            return Err(("ttl", "It must be between 1s and 365d.".into()));
        }
        if self.uses == 0 || self.uses > MAX_USES {
            return Err(("uses", format!("It must be between 1 and {MAX_USES}.")));
        }
        if self.zones.len() > MAX_PARTS || self.labels.len() > MAX_PARTS {
            return Err((
                "labels",
                format!("There may be {MAX_PARTS} zones and labels."),
            ));
        }
        let mut texts = self.labels.iter().flat_map(|(key, value)| [key, value]);
        if texts.any(|text| text.len() > MAX_LABEL) {
            return Err(("labels", format!("A label has {MAX_LABEL} bytes at most.")));
        }
        Ok(())
    }
}

impl JoinTokenResource {
    fn new(id: &str, record: &JoinTokenRecord, now: u64) -> Self {
        let state = match record.state(now) {
            TokenState::Valid => "Valid",
            TokenState::Expired => "Expired",
            TokenState::UsedUp => "UsedUp",
        };
        Self {
            id: id.to_owned(),
            state: state.to_owned(),
            node: record.node.clone(),
            zones: record.zones.clone(),
            labels: record.labels.clone(),
            created: record.created,
            expires: record.expires,
            uses: record.uses,
            used: record.used,
        }
    }
}

impl DesiredStateWriter {
    /// Creates a join token for the fleet whose authority has this fingerprint. Returns it with the revision that has
    /// it. Removes tokens of the view that have been of no use for a while.
    ///
    /// # Errors
    /// Those of the store, and [`StoreError::Failed`] without randomness.
    pub async fn create_join_token(
        &self,
        view: &FleetView,
        authority: Sha256Digest,
        new: &NewJoinToken,
    ) -> Result<(JoinToken, JoinTokenRecord, StoreRevision), StoreError> {
        let now = unix_seconds();
        let (mut id, mut secret) = ([0; 5], [0; 32]);
        getrandom::fill(&mut id)
            .and_then(|()| getrandom::fill(&mut secret))
            .map_err(|error| StoreError::Failed(error.to_string()))?;
        let token = JoinToken::new(authority, id, secret);
        let expires = now.saturating_add(new.ttl.0.as_secs());
        let record = JoinTokenRecord {
            node: new.node.clone(),
            zones: new.zones.clone(),
            labels: new.labels.clone(),
            ..token.record(now, expires, new.uses)
        };
        let useless = view.join_tokens.iter();
        let useless = useless.filter(|(_, token)| token.expires.saturating_add(KEPT_EXPIRED) < now);
        let deletes = useless.map(|(id, _)| StoreWrite::Delete {
            key: keys::join_token(id),
        });
        // Few enough for one transaction; the others go with the next token.
        let mut writes: Vec<_> = deletes.take(MAX_PARTS).collect();
        writes.push(StoreWrite::put(
            keys::join_token(&token.id),
            encode(&record),
        ));
        let revision = self.write(writes).await?;
        Ok((token, record, revision))
    }
}

/// The fingerprint of the fleet's authority. `None`: it has none.
#[must_use]
pub fn authority_fingerprint(view: &FleetView) -> Option<Sha256Digest> {
    let certificate = view.authority.as_ref()?.certificate_der()?;
    Some(tls::fingerprint(&certificate))
}

/// `GET /api/v1/tokens`.
pub(super) async fn list(
    State(state): State<AdminState>,
    ApiQuery(query): ApiQuery<WatchQuery>,
) -> Result<Response, ApiError> {
    watch::reply(state, &query, |view| {
        let now = unix_seconds();
        let tokens = view.join_tokens.iter();
        ResourceList::new(
            view,
            tokens.map(|(id, record)| JoinTokenResource::new(id, record, now)),
        )
    })
    .await
}

/// `POST /api/v1/tokens`. Replies 409 while the fleet has no authority.
pub(super) async fn post(
    State(state): State<AdminState>,
    body: Body,
) -> Result<Response, ApiError> {
    let new: NewJoinToken = read_json(body, MAX_RESOURCE).await?;
    new.check()
        .map_err(|(field, problem)| ApiError::invalid(Some(field.into()), problem))?;
    wait_until_synced(&state).await?;
    let view = state.fleet.view();
    let conflict = |code, problem: String| {
        ApiError::new(
            StatusCode::CONFLICT,
            "invalid_request_error",
            Some(code),
            problem,
        )
    };
    let authority = authority_fingerprint(&view).ok_or_else(|| {
        conflict(
            "no_authority",
            "The fleet has no certificate authority: start its controllers with --secret-file (`flotilla secret create FILE` makes the file)."
                .into(),
        )
    })?;
    if view.join_tokens.len() >= MAX_TOKENS {
        let problem = format!(
            "The fleet has {MAX_TOKENS} join tokens: delete some with `flotilla token delete ID`."
        );
        return Err(conflict("too_many_tokens", problem));
    }
    let created = state
        .desired
        .create_join_token(&view, authority, &new)
        .await;
    let (token, record, revision) = created.map_err(store_failure)?;
    state.finish(Ok(revision)).await?;
    let reply = CreatedJoinToken {
        id: token.id.clone(),
        token: token.to_string(),
        expires: record.expires,
    };
    Ok((StatusCode::CREATED, Json(reply)).into_response())
}

/// `DELETE /api/v1/tokens/{id}`.
pub(super) async fn delete(
    State(state): State<AdminState>,
    ApiPath(id): ApiPath<String>,
) -> Result<StatusCode, ApiError> {
    wait_until_synced(&state).await?;
    if !state.fleet.view().join_tokens.contains_key(&id) {
        return Err(not_found("join token", &id));
    }
    let key = keys::join_token(&id);
    let written = state.desired.write(vec![StoreWrite::Delete { key }]).await;
    state.finish(written).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_a_new_token_are_checked() {
        assert_eq!(NewJoinToken::default().check(), Ok(()));
        let field = |new: NewJoinToken| new.check().unwrap_err().0;
        let ttl = |seconds| HumanDuration(Duration::from_secs(seconds));
        let default = NewJoinToken::default;
        assert_eq!(
            field(NewJoinToken {
                ttl: ttl(0),
                ..default()
            }),
            "ttl"
        );
        assert_eq!(
            field(NewJoinToken {
                ttl: ttl(400 * 86_400),
                ..default()
            }),
            "ttl"
        );
        assert_eq!(
            field(NewJoinToken {
                uses: 0,
                ..default()
            }),
            "uses"
        );
        let long = [("k".to_owned(), "v".repeat(MAX_LABEL + 1))].into();
        assert_eq!(
            field(NewJoinToken {
                labels: long,
                ..default()
            }),
            "labels"
        );
        let json = serde_json::json!({"ttl": "1h", "uses": 3, "zones": ["clinic"]});
        let parsed: NewJoinToken = serde_json::from_value(json).unwrap();
        assert_eq!(parsed.uses, 3);
    }
}
