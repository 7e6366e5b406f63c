//! Host networking: bridges, taps, the ruleset and names.
//!
//! VMs have no network device yet, so there is nothing here to configure; the crate marks the
//! one place that will need `CAP_NET_ADMIN`.
