//! TLS and what both sides of it need: whom to trust, what a certificate says, names of hosts,
//! and a small bounded client for an OpenID issuer and for the services that make keys.
//!
//! Must never speak plain HTTP to another machine, follow a redirect, or use cryptography that
//! was not named here: every configuration takes ring's provider explicitly.

pub mod certificate;
pub mod dial;
pub mod fetch;
pub mod handshake;
pub mod host;
pub mod pin;
mod prefixed;
pub mod trust;
pub mod url;
mod wiped;

pub use self::certificate::Certificate;
pub use self::fetch::{Asked, FetchError, Fetched, Fetcher, Form, Method, form};
pub use self::host::Host;
pub use self::pin::CertificatePin;
pub use self::prefixed::Prefixed;
pub use self::trust::{Trust, TrustError};
pub use self::url::{Url, UrlError};
pub use self::wiped::wiped;
