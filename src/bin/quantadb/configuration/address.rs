//! Addresses to listen on.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{
    borrow::Cow,
    net::{Ipv4Addr, SocketAddr},
    str::FromStr,
};

/// An IP address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub SocketAddr);

impl Address {
    /// On this machine alone.
    pub fn loopback(port: u16) -> Address {
        Address(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }
}

impl FromStr for Address {
    type Err = String;
    fn from_str(text: &str) -> Result<Address, String> {
        let wrong = |_| format!("`{text}` is no address: allowed is IP:PORT, such as 127.0.0.1:7420 or [::1]:7420");
        text.parse().map(Address).map_err(wrong)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
        let text: Cow<'_, str> = Cow::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Where something is served, if anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionalAddress {
    Nowhere,
    At(Address),
}

impl OptionalAddress {
    pub fn address(self) -> Option<Address> {
        match self {
            OptionalAddress::Nowhere => None,
            OptionalAddress::At(address) => Some(address),
        }
    }
}

impl FromStr for OptionalAddress {
    type Err = String;
    fn from_str(text: &str) -> Result<OptionalAddress, String> {
        match text {
            "none" => Ok(OptionalAddress::Nowhere),
            _ => text.parse().map(OptionalAddress::At).map_err(|wrong: String| format!("{wrong}, or none")),
        }
    }
}

impl Serialize for OptionalAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            OptionalAddress::Nowhere => serializer.serialize_str("none"),
            OptionalAddress::At(address) => address.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for OptionalAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OptionalAddress, D::Error> {
        let text: Cow<'_, str> = Cow::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}
