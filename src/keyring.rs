//! The desktop's Secret Service.
#![forbid(unsafe_code)]
