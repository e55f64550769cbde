//! Arguments that every process takes.

use std::net::SocketAddr;

/// Where health and metrics are served unless told otherwise: every address, MetalLB's metrics port of old.
pub const ADMIN_PORT: u16 = 7472;

/// Arguments that every process takes.
#[derive(clap::Args, Clone, Debug)]
pub struct Common {
    /// error, warn, info, debug or trace; or a tracing filter such as `info,controller=debug`.
    #[arg(long, env = "LBSTACK_LOG_LEVEL", default_value = "info")]
    pub log_level: String,

    /// How log lines look.
    #[arg(long, env = "LBSTACK_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,

    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, default_value_t = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 0], ADMIN_PORT)))]
    pub admin_address: SocketAddr,
}

/// How log lines look.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}
