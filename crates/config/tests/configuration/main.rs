//! The configuration as its callers see it. One program, so that it is linked once.

#![allow(clippy::unwrap_used, reason = "a test program")]

mod annotations;
mod files;
mod show;
mod support;
