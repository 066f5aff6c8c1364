//! Registries: which to ask, with which credentials, and how.

mod config;
mod credentials;
mod endpoint;
mod error;
mod session;

pub use config::{Registries, RegistriesError, RegistryConfig};
pub use credentials::{Credentials, CredentialsError, Login};
pub use error::RegistryError;

pub(crate) use endpoint::Endpoint;
pub(crate) use session::{Chunk, Session};
