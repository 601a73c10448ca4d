//! The kernel's protections; the only unsafe code.

pub mod durability;
