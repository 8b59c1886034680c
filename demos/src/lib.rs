//! How an embedder puts it together.
#![no_std]
