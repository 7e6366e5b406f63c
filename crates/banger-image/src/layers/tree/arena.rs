//! Many short byte strings in few allocations.

use crate::layers::BaseError;

const CHUNK: usize = 1 << 20;

/// Where a string is in its arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    position: u32,
    length: u16,
}

impl Span {
    pub fn len(self) -> usize {
        usize::from(self.length)
    }
}

/// Strings of at most 4096 bytes, never taken out again; 4 GiB of them fit.
#[derive(Default)]
pub(crate) struct Arena {
    chunks: Vec<Vec<u8>>,
    bytes: u64,
}

impl Arena {
    pub fn add(&mut self, string: &[u8]) -> Result<Span, BaseError> {
        let full = self
            .chunks
            .last()
            .is_none_or(|chunk| chunk.len() + string.len() > CHUNK);
        if full {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let limit = BaseError::Limit {
            what: "bytes of names",
            max: u64::from(u32::MAX),
        };
        let index = self.chunks.len() - 1;
        let Some(chunk) = self.chunks.last_mut() else {
            return Err(limit);
        };
        let (Ok(position), Ok(length)) = (
            u32::try_from(index * CHUNK + chunk.len()),
            u16::try_from(string.len()),
        ) else {
            return Err(limit);
        };
        chunk.extend_from_slice(string);
        self.bytes += string.len() as u64;
        Ok(Span { position, length })
    }

    pub fn get(&self, span: Span) -> &[u8] {
        let position = span.position as usize;
        let start = position % CHUNK;
        self.chunks
            .get(position / CHUNK)
            .and_then(|chunk| chunk.get(start..start + span.len()))
            .unwrap_or_default()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_come_back_across_chunks() {
        let mut arena = Arena::default();
        let spans: Vec<_> = (0..2000_u32)
            .map(|n| {
                let string = n.to_le_bytes().repeat((n % 1000) as usize);
                (arena.add(&string).unwrap(), string)
            })
            .collect();
        assert!(arena.chunks.len() > 1);
        for (span, string) in spans {
            assert_eq!(arena.get(span), string);
        }
        let empty = arena.add(b"").unwrap();
        assert_eq!(arena.get(empty), b"");
    }
}
