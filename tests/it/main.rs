//! The one integration test binary: a module a topic.
mod http_client;
mod http_curl;
mod http_hostile;
mod http_lifecycle;
mod http_openapi;
mod http_support;
