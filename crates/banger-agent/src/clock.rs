//! Clocks.

use std::io;

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

/// Microseconds since the kernel started.
pub fn uptime_us() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000) + nanoseconds / 1000
}

/// Sets the clock to nanoseconds since 1970.
pub fn set_realtime(nanoseconds: u64) -> io::Result<()> {
    let out_of_range = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let time = Timespec {
        tv_sec: i64::try_from(nanoseconds / 1_000_000_000).map_err(out_of_range)?,
        tv_nsec: i64::try_from(nanoseconds % 1_000_000_000).map_err(out_of_range)?,
    };
    Ok(clock_settime(ClockId::Realtime, time)?)
}
