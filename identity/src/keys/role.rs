//! Roles, and which actions each of them allows.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Principal;

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Requests to models: answers, the list of models, dry runs and feedback.
    Inference,
    /// Reads of the fleet's state, and the page.
    Viewer,
    /// What viewers and programs may do, and changes of models, tasks, the router, nodes, artifacts and datasets.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 4] = [Self::Inference, Self::Viewer, Self::Operator, Self::Admin];

    /// The role as text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inference => "inference",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// Whether the role may perform an action.
    #[must_use]
    pub fn allows(self, action: Action) -> bool {
        match action {
            Action::Public | Action::Identified => true,
            Action::Infer => matches!(self, Self::Inference | Self::Operator | Self::Admin),
            Action::Read => matches!(self, Self::Viewer | Self::Operator | Self::Admin),
            Action::Operate => matches!(self, Self::Operator | Self::Admin),
            Action::Administer => self == Self::Admin,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A kind of requests that need the same permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Needs no key: whether the process lives, and the files of the page.
    Public,
    /// Needs any valid key.
    Identified,
    /// Uses models.
    Infer,
    /// Reads the state of the fleet.
    Read,
    /// Changes models, tasks, the router, nodes, artifacts or datasets, or reads what datasets have kept of prompts.
    Operate,
    /// Manages keys and the identity of the fleet.
    Administer,
}

impl Action {
    /// All actions.
    pub const ALL: [Self; 6] = [
        Self::Public,
        Self::Identified,
        Self::Infer,
        Self::Read,
        Self::Operate,
        Self::Administer,
    ];
}

/// The error for a principal whose role does not allow an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the role {role} does not allow this: it needs {}", Self::needed(*.action))]
pub struct Forbidden {
    /// The role of the principal.
    pub role: Role,
    /// The action that it does not allow.
    pub action: Action,
}

impl Forbidden {
    /// The roles that allow an action, as text.
    fn needed(action: Action) -> String {
        let roles = Role::ALL.into_iter().filter(|role| role.allows(action));
        let roles: Vec<_> = roles.map(Role::as_str).collect();
        roles.join(" or ")
    }
}

/// Decides whether a principal may perform an action.
///
/// # Errors
/// [`Forbidden`] if not.
pub fn authorize(principal: &Principal, action: Action) -> Result<(), Forbidden> {
    let role = principal.role;
    match role.allows(action) {
        true => Ok(()),
        false => Err(Forbidden { role, action }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_allows_its_actions_and_no_others() {
        use Action::{Identified, Infer, Operate, Public, Read};
        for (role, allowed) in [
            (Role::Inference, &[Public, Identified, Infer][..]),
            (Role::Viewer, &[Public, Identified, Read]),
            (Role::Operator, &[Public, Identified, Infer, Read, Operate]),
            (Role::Admin, &Action::ALL),
        ] {
            for action in Action::ALL {
                assert_eq!(
                    role.allows(action),
                    allowed.contains(&action),
                    "{role} {action:?}"
                );
            }
        }
    }

    #[test]
    fn a_refusal_names_the_roles_that_would_do() {
        let forbidden = Forbidden {
            role: Role::Viewer,
            action: Action::Operate,
        };
        let text = forbidden.to_string();
        assert!(text.ends_with("it needs operator or admin"), "{text}");
    }
}
