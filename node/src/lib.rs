#![doc = include_str!("../README.md")]

pub mod config;
pub mod drives;
pub mod groups;
pub mod inspect;
pub mod node;
pub mod operator;
pub mod recover;
pub mod settings;
pub mod status;

pub use crate::node::{Held, Node};
pub use crate::settings::Settings;
pub use repair::Sealed;
pub use storage::{List, Listed};
