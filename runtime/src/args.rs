//! Arguments of every process.

use std::net::SocketAddr;

/// Default port of health and metrics: MetalLB's metrics port.
pub const ADMIN_PORT: u16 = 7472;

/// Arguments of every process.
#[derive(clap::Args, Clone, Debug)]
pub struct Common {
    /// error, warn, info, debug or trace; or a tracing filter such as `info,controller=debug`.
    #[arg(long, env = "LBSTACK_LOG_LEVEL", default_value = "info")]
    pub log_level: String,

    /// Format of log lines.
    #[arg(long, env = "LBSTACK_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,

    /// Address on which /healthz, /readyz and /metrics are served.
    #[arg(long, default_value_t = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 0], ADMIN_PORT)))]
    pub admin_address: SocketAddr,
}

/// Format of log lines.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Human-readable text.
    Text,
}
