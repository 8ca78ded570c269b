//! Who may connect: allow and deny lists of address ranges, changeable while running.
//!
//! The address is the one that the relay tells. Before version 2 the tunnel's protocol tells only IPv4 addresses; a caller
//! whose address is not told is unknown.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use ipnet::{IpNet, Ipv4Net};

/// With longer lists [`AccessRules::new`] refuses everybody: they are walked for each connection.
pub const MAX_RULES: usize = 1_024;

/// An allow list and a deny list. The default lets everybody in.
///
/// - A caller on the deny list is refused, even if it is on the allow list too.
/// - If the allow list is not empty, a caller who is not on it is refused, and so is a caller whose address is unknown.
///
/// ```
/// use cloud_remote::AccessRules;
///
/// let rules = AccessRules::new(["192.0.2.0/24".parse()?], ["192.0.2.66/32".parse()?]);
/// assert!(rules.permits(Some("192.0.2.1".parse()?)));
/// assert!(!rules.permits(Some("192.0.2.66".parse()?)));
/// assert!(!rules.permits(None));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessRules {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
}

impl AccessRules {
    /// Makes rules of two lists. Ranges that contain each other are merged, and one within `::ffff:0:0/96` is the range of
    /// IPv4 addresses that it stands for. If there are more than [`MAX_RULES`] of a
    /// kind after that, the rules refuse everybody rather than let in someone who was meant to be kept out.
    #[must_use]
    pub fn new(
        allow: impl IntoIterator<Item = IpNet>,
        deny: impl IntoIterator<Item = IpNet>,
    ) -> Self {
        let allow = IpNet::aggregate(&allow.into_iter().map(canonical).collect());
        let deny = IpNet::aggregate(&deny.into_iter().map(canonical).collect());
        if allow.len() > MAX_RULES || deny.len() > MAX_RULES {
            tracing::warn!(
                allow = allow.len(),
                deny = deny.len(),
                limit = MAX_RULES,
                "too many access rules: nobody is let in"
            );
            return Self::nobody();
        }
        Self { allow, deny }
    }

    /// Rules that refuse everybody.
    #[must_use]
    pub fn nobody() -> Self {
        let everybody = vec![
            IpNet::new_assert(IpAddr::from([0; 4]), 0),
            IpNet::new_assert(IpAddr::from([0; 16]), 0),
        ];
        // An allow list that no known address can be on, for the unknown ones.
        Self {
            allow: everybody.clone(),
            deny: everybody,
        }
    }

    /// Whether a caller with this address, or with an unknown one, may connect.
    #[must_use]
    pub fn permits(&self, address: Option<IpAddr>) -> bool {
        let Some(address) = address else {
            return self.allow.is_empty();
        };
        let address = address.to_canonical();
        let on = |list: &[IpNet]| list.iter().any(|range| range.contains(&address));
        !on(&self.deny) && (self.allow.is_empty() || on(&self.allow))
    }
}

/// As callers' addresses are compared: IPv4 as such.
fn canonical(range: IpNet) -> IpNet {
    let IpAddr::V6(address) = range.addr() else {
        return range;
    };
    let mapped = address
        .to_ipv4_mapped()
        .zip(range.prefix_len().checked_sub(96))
        .and_then(|(address, length)| Ipv4Net::new(address, length).ok());
    mapped.map_or(range, IpNet::V4)
}

/// The rules in force, shared by whoever changes them and whoever asks.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedAccess(Arc<RwLock<AccessRules>>);

impl SharedAccess {
    pub(crate) fn new(rules: AccessRules) -> Self {
        Self(Arc::new(RwLock::new(rules)))
    }

    pub(crate) fn set(&self, rules: AccessRules) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    pub(crate) fn permits(&self, address: Option<IpAddr>) -> bool {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .permits(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().unwrap()).collect()
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn the_default_lets_everybody_in() {
        let rules = AccessRules::default();
        assert!(
            rules.permits(ip("203.0.113.9"))
                && rules.permits(ip("2001:db8::1"))
                && rules.permits(None)
        );
    }

    #[test]
    fn a_deny_list_alone_keeps_out_only_those_on_it() {
        let rules = AccessRules::new([], nets(&["203.0.113.0/24", "2001:db8::/32"]));
        assert!(!rules.permits(ip("203.0.113.9")) && !rules.permits(ip("2001:db8::1")));
        assert!(rules.permits(ip("198.51.100.1")) && rules.permits(None));
    }

    #[test]
    fn an_ipv4_address_in_ipv6_clothes_is_still_denied() {
        let rules = AccessRules::new([], nets(&["203.0.113.0/24"]));
        assert!(!rules.permits(ip("::ffff:203.0.113.9")));
    }

    #[test]
    fn a_range_of_ipv4_addresses_in_ipv6_clothes_is_one_of_ipv4() {
        let rules = AccessRules::new(
            nets(&["::ffff:192.0.2.0/120", "2001:db8::/32"]),
            nets(&["::ffff:192.0.2.9/128"]),
        );
        assert!(rules.permits(ip("192.0.2.1")) && rules.permits(ip("2001:db8::1")));
        assert!(!rules.permits(ip("192.0.2.9")) && !rules.permits(ip("192.0.3.1")));
        let all = AccessRules::new([], nets(&["::ffff:0:0/96"]));
        assert!(!all.permits(ip("203.0.113.9")) && all.permits(ip("2001:db8::1")));
        let wider = AccessRules::new([], nets(&["::/0"]));
        assert!(wider.permits(ip("203.0.113.9")) && !wider.permits(ip("2001:db8::1")));
    }

    #[test]
    fn nobody_means_nobody() {
        let rules = AccessRules::nobody();
        assert!(
            !rules.permits(ip("127.0.0.1")) && !rules.permits(ip("::1")) && !rules.permits(None)
        );
    }

    #[test]
    fn too_many_rules_close_the_door() {
        let many = (0..=u32::try_from(MAX_RULES).unwrap())
            .map(|n| IpNet::new((n * 2).to_be_bytes().into(), 32).unwrap());
        assert_eq!(AccessRules::new([], many), AccessRules::nobody());
    }

    #[test]
    fn rules_change_while_shared() {
        let shared = SharedAccess::default();
        let other = shared.clone();
        assert!(other.permits(ip("127.0.0.1")));
        shared.set(AccessRules::nobody());
        assert!(!other.permits(ip("127.0.0.1")));
    }
}
