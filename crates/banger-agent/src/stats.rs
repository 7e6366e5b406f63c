//! How the guest is doing.

use banger_protocol::agent::Stats;

pub fn read() -> Stats {
    let info = rustix::system::sysinfo();
    let disk = rustix::fs::statvfs("/").ok();
    let kib = |blocks: u64, size: u64| blocks.saturating_mul(size) / 1024;
    let memory = |pages: u64| pages.saturating_mul(info.mem_unit.into()) / 1024;
    let available = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| available_kib(&text));
    Stats {
        uptime_ms: crate::clock::uptime_us() / 1000,
        memory_total_kib: memory(info.totalram),
        memory_available_kib: available.unwrap_or(memory(info.freeram)),
        disk_total_kib: disk
            .as_ref()
            .map_or(0, |disk| kib(disk.f_blocks, disk.f_frsize)),
        disk_available_kib: disk
            .as_ref()
            .map_or(0, |disk| kib(disk.f_bavail, disk.f_frsize)),
        // Fixed point with 16 bits of fraction.
        load_hundredths: info
            .loads
            .map(|load| u32::try_from((load * 100) >> 16).unwrap_or(u32::MAX)),
        processes: info.procs.into(),
    }
}

fn available_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_found() {
        let text = "MemTotal:  100 kB\nMemAvailable:      4711 kB\nBuffers: 3 kB\n";
        assert_eq!(available_kib(text), Some(4711));
        assert_eq!(available_kib("MemTotal: 1 kB\n"), None);
    }
}
