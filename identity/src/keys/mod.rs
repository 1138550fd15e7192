//! API keys of people and programs, their roles and scopes.
