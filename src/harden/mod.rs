//! The kernel's protections; the only unsafe code.
