//! Random ids.

use std::str::FromStr;

use rustix::rand::{GetRandomFlags, getrandom};

/// A name type made of 12 random hexadecimal digits: 48 bits, so that a thousand ids collide with
/// a probability of 1 in 500 million; where it matters the store refuses a duplicate.
pub fn hex12<T: FromStr>() -> T
where
    T::Err: std::fmt::Debug,
{
    loop {
        let mut bytes = [0u8; 6];
        // Six bytes are never cut short once the pool is initialised.
        if getrandom(&mut bytes, GetRandomFlags::empty()) != Ok(6) {
            continue;
        }
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        if let Ok(id) = text.parse() {
            return id;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_protocol::name::VmId;

    #[test]
    fn ids_differ() {
        let first: VmId = hex12();
        assert_ne!(first, hex12::<VmId>());
    }
}
