//! Why an advert is not heard: one variant for each check, to be counted and said.

use std::net::IpAddr;
use std::time::Duration;

/// A check that an advert has failed. The sections are those of RFC 9568, unless another is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Discard {
    /// Section 7.1: "Verify that the IPv4 TTL / IPv6 Hop Limit is 255."
    #[error("TTL or hop limit is {ttl} and not 255: it comes from another network")]
    Ttl {
        /// What it is.
        ttl: u8,
    },
    /// Section 7.1: the version must be one that is understood; version 2 is IPv4 only (RFC 3768 section 5.2).
    #[error("version {version} is not understood here")]
    Version {
        /// What it is.
        version: u8,
    },
    /// Section 7.1: "Verify that the VRRP packet type is 1 (ADVERTISEMENT)."
    #[error("type {kind} is no advert")]
    Type {
        /// What it is.
        kind: u8,
    },
    /// Section 7.1: "Verify that the received packet contains the complete VRRP packet"; nor may it have more.
    #[error("it has {there} bytes instead of {wanted}")]
    Length {
        /// Bytes received.
        there: usize,
        /// Bytes that its count of addresses asks for.
        wanted: usize,
    },
    /// Section 7.1: "Verify the VRRP checksum", in either of the forms in use.
    #[error("the checksum is wrong")]
    Checksum,
    /// Section 7.1 and erratum 8299: at least one address.
    #[error("it names no address")]
    NoAddress,
    /// Section 7.1 and erratum 8301: an interval of zero would be a storm.
    #[error("its interval is zero")]
    ZeroInterval,
    /// RFC 3768 section 5.3.6: authentication of version 2, which says nothing about who has sent it.
    #[error("authentication type {kind} is not configured here")]
    Authentication {
        /// What it is: 1 a password in the clear, 2 IP authentication header.
        kind: u8,
    },
    /// Section 7.1: "Verify that the VRID is configured on the receiving interface"; 0 is none.
    #[error("virtual router {vrid} is not configured here")]
    UnknownVrid {
        /// What it is.
        vrid: u8,
    },
    /// The other version is configured for this virtual router (section 8.4.1: both at once only while migrating).
    #[error("version {version} is not the one that is configured")]
    OtherVersion {
        /// What it is.
        version: u8,
    },
    /// Section 5.2.9 and erratum 8300: the first IPv6 address is the link-local one.
    #[error("its first address is {address} and not a link-local one")]
    NotLinkLocal {
        /// What it is.
        address: IpAddr,
    },
    /// From our own address: a loop in the network, or another node with the same address.
    #[error("it comes from this node's own address: a loop in the network, or an address that two nodes have")]
    OwnAddress,
    /// With unicast peers, only they are heard.
    #[error("it comes from nobody who is configured as a peer")]
    UnknownSource,
    /// RFC 3768 section 7.1: in version 2 the interval must be the configured one.
    #[error("its interval is {heard:?} and not {own:?} as configured here, which version 2 does not allow")]
    Interval {
        /// What it is.
        heard: Duration,
        /// What it should be.
        own: Duration,
    },
    /// RFC 3768 section 7.1: in version 2 the addresses must be the configured ones, unless an owner speaks.
    #[error("its addresses are not those that are configured here, which version 2 does not allow")]
    Addresses,
}

impl Discard {
    /// How many kinds there are.
    pub const KINDS: usize = 15;

    /// What SHOW HA calls them, by [`Discard::kind`].
    pub const NAMES: [&str; Self::KINDS] = [
        "ttl",
        "version",
        "type",
        "length",
        "checksum",
        "no_address",
        "zero_interval",
        "authentication",
        "unknown_vrid",
        "other_version",
        "not_link_local",
        "own_address",
        "unknown_source",
        "interval",
        "addresses",
    ];

    /// Its number among the kinds, for counters.
    #[must_use]
    pub fn kind(self) -> usize {
        match self {
            Self::Ttl { .. } => 0,
            Self::Version { .. } => 1,
            Self::Type { .. } => 2,
            Self::Length { .. } => 3,
            Self::Checksum => 4,
            Self::NoAddress => 5,
            Self::ZeroInterval => 6,
            Self::Authentication { .. } => 7,
            Self::UnknownVrid { .. } => 8,
            Self::OtherVersion { .. } => 9,
            Self::NotLinkLocal { .. } => 10,
            Self::OwnAddress => 11,
            Self::UnknownSource => 12,
            Self::Interval { .. } => 13,
            Self::Addresses => 14,
        }
    }
}
