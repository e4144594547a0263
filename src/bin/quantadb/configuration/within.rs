//! A number that knows its bounds, so that a value outside of them is refused where it stands in the file.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number from `LEAST` to `MOST`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Within<const LEAST: u64, const MOST: u64>(pub u64);

impl<const LEAST: u64, const MOST: u64> Within<LEAST, MOST> {
    /// Checks the bounds; the error says what is allowed.
    pub fn new(value: u64) -> Result<Self, String> {
        if (LEAST..=MOST).contains(&value) {
            Ok(Within(value))
        } else {
            Err(format!("{value} is out of bounds: allowed are {LEAST} to {MOST}"))
        }
    }

    /// As a size in this machine's memory. On 32 bits what does not fit is as good as no bound.
    pub fn size(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<const LEAST: u64, const MOST: u64> Serialize for Within<LEAST, MOST> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de, const LEAST: u64, const MOST: u64> Deserialize<'de> for Within<LEAST, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(u64::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}
