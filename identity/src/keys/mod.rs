//! API keys of people and programs, their roles and scopes.
//!
//! A key is the text `flt_ID_SECRET`. The fleet stores only a SHA-256 digest of the secret: the secret is 256 random
//! bits, so that no guess of it is worth the try, and a slow hash would only slow requests down.

mod authenticate;
mod controller_token;
mod key_text;
mod new_key;
mod record;
mod role;
mod session;

pub use authenticate::{AuthError, KeyMap, Principal, Subject, authenticate};
pub use controller_token::{ControllerSecret, TokenUse};
pub use key_text::{KeyId, KeyIdError, KeyText};
pub use new_key::{KeyError, NewKey};
pub use record::{KeyRecord, SecretDigest};
pub use role::{Action, Forbidden, Role, authorize};
pub use session::Session;
