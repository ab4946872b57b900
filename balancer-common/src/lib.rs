//! Types, layouts and pure choice functions that the kernel programs and the agent share.
//!
//! This crate stands apart so that host tests, property tests and fuzzers run the very code that
//! the verifier sees. Everything here is `no_std`, free of IO and of `unsafe`.
#![cfg_attr(not(any(test, feature = "std")), no_std)]
#![forbid(unsafe_code)]

pub mod abi;
pub mod address;
pub mod backend;
pub mod flow;
pub mod frontend;
pub mod hierarchy;
pub mod http2;
pub mod pick;
pub mod pod;
pub mod reason;
pub mod service;
pub mod settings;
pub mod trace;
