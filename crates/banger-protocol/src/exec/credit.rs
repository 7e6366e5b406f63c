//! Credit of one channel, at its sender and at its receiver.

use super::INITIAL_CREDIT;

/// The other end sent more than it may, or gave more credit than there can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("exec credit was exceeded")]
pub struct CreditError;

/// What may still be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendCredit(u32);

impl Default for SendCredit {
    fn default() -> Self {
        SendCredit(INITIAL_CREDIT)
    }
}

impl SendCredit {
    pub fn available(self) -> usize {
        self.0 as usize
    }

    /// Takes credit for `bytes`, which are at most [`Self::available`].
    pub fn spend(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.0 = self.0.saturating_sub(bytes);
    }

    pub fn add(&mut self, bytes: u32) -> Result<(), CreditError> {
        self.0 = self.0.checked_add(bytes).ok_or(CreditError)?;
        Ok(())
    }
}

/// What the sender may still send, and what is to be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveCredit {
    allowed: u32,
    consumed: u32,
}

impl Default for ReceiveCredit {
    fn default() -> Self {
        ReceiveCredit {
            allowed: INITIAL_CREDIT,
            consumed: 0,
        }
    }
}

impl ReceiveCredit {
    pub fn receive(&mut self, bytes: usize) -> Result<(), CreditError> {
        let bytes = u32::try_from(bytes).map_err(|_| CreditError)?;
        self.allowed = self.allowed.checked_sub(bytes).ok_or(CreditError)?;
        Ok(())
    }

    /// Notes that received bytes were consumed. Returns credit to send once it is worth a frame.
    pub fn consume(&mut self, bytes: usize) -> Option<u32> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.consumed = self.consumed.saturating_add(bytes).min(INITIAL_CREDIT);
        if self.consumed < INITIAL_CREDIT / 2 {
            return None;
        }
        let grant = std::mem::take(&mut self.consumed);
        self.allowed = self.allowed.saturating_add(grant);
        Some(grant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A sender that keeps to its credit is never refused, and never starves while its
        /// receiver consumes all that comes.
        #[test]
        fn both_ends_agree(steps in proptest::collection::vec((1usize..70_000, any::<bool>()), 1..200)) {
            let mut send = SendCredit::default();
            let mut receive = ReceiveCredit::default();
            let mut held = 0;
            for (bytes, consume) in steps {
                let bytes = bytes.min(send.available());
                send.spend(bytes);
                prop_assert_eq!(receive.receive(bytes), Ok(()));
                held += bytes;
                if consume && held > 0 {
                    if let Some(grant) = receive.consume(std::mem::take(&mut held)) {
                        prop_assert_eq!(send.add(grant), Ok(()));
                    }
                    prop_assert!(send.available() > INITIAL_CREDIT as usize / 2);
                }
            }
        }
    }

    #[test]
    fn more_than_the_credit_is_refused() {
        let mut receive = ReceiveCredit::default();
        assert_eq!(receive.receive(INITIAL_CREDIT as usize), Ok(()));
        assert_eq!(receive.receive(1), Err(CreditError));
        let mut send = SendCredit::default();
        assert_eq!(send.add(u32::MAX), Err(CreditError));
    }
}
