//! The fleet's certificate authority and the certificates that it issues.
