//! VMs.

pub mod host;
pub mod main_process;
pub mod name_generator;
pub mod resources;
pub mod spec;
pub mod state;
pub mod template;
