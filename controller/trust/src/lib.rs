//! What the controller and the proxy have in common wherever they use TLS: `files` reads
//! certificates, keys and other secrets, `belief` judges whom a client believes, and `trouble` says
//! why a handshake failed.
//!
//! No network, and no configuration: a file, and whatever is wrong with it, goes by the `key` that
//! names it to whoever reads the words.

#![forbid(unsafe_code)]

mod belief;
mod files;
mod trouble;

pub use belief::Belief;
pub use files::{
    FileError, Mark, certificates, mark, pem, private_key, private_text, roots, secret,
};
pub use trouble::{Keys, words};
