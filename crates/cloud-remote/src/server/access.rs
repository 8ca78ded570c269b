//! Access rules: allow and deny lists of address ranges, which can change while running.
//!
//! The relay sends the client's address. Before version 2, the tunnel's protocol carries only IPv4
//! addresses, so the address of an IPv6 client is unknown; [`UnknownCallers`] determines how the
//! rules apply to it.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use cloud_net::{LogThrottle, warn_throttled};
use ipnet::{IpNet, Ipv4Net};

/// The maximum length of a list: each connection is compared with all entries. With longer lists,
/// [`AccessRules::new`] refuses all callers.
pub const MAX_RULES: usize = 1_024;

/// The treatment of callers with an unknown address.
///
/// Before version 2, the tunnel's protocol carries no IPv6 addresses, so every IPv6 caller is
/// unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UnknownCallers {
    /// The caller is refused if a rule could refuse it: if a deny range is of IPv6 addresses or
    /// contains `0.0.0.0` (the address that the protocol sends instead), or if there is an allow
    /// list that does not cover all addresses of both families (`0.0.0.0/0` and `::/0`).
    #[default]
    ByRules,
    /// The caller may connect regardless of the lists, unless the rules refuse all callers.
    Allow,
    /// The caller may not connect.
    Deny,
}

/// An allow list and a deny list. The default allows all callers.
///
/// - A caller on the deny list is refused, even if it is also on the allow list.
/// - If the allow list is not empty, a caller that is not on it is refused.
/// - A caller whose address is unknown is refused as soon as a rule could concern it; see
///   [`UnknownCallers`].
///
/// ```
/// use cloud_remote::{AccessRules, UnknownCallers};
///
/// let rules = AccessRules::new(["192.0.2.0/24".parse()?], ["192.0.2.66/32".parse()?]);
/// assert!(rules.permits(Some("192.0.2.1".parse()?)));
/// assert!(!rules.permits(Some("192.0.2.66".parse()?)));
/// assert!(!rules.permits(None));
/// assert!(rules.unknown_callers(UnknownCallers::Allow).permits(None));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessRules {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
    unknown: UnknownCallers,
}

impl AccessRules {
    /// Creates rules from two lists. Overlapping ranges are merged, and a range within
    /// `::ffff:0:0/96` becomes the IPv4 range that it represents. If a list then has more than
    /// [`MAX_RULES`] ranges, the rules refuse all callers rather than allow one that was meant to
    /// be refused.
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
                "too many access rules: all callers are refused"
            );
            return Self::deny_all();
        }
        Self {
            allow,
            deny,
            unknown: UnknownCallers::default(),
        }
    }

    /// Creates rules that refuse all callers.
    #[must_use]
    pub fn deny_all() -> Self {
        Self {
            deny: all_addresses(),
            ..Self::default()
        }
    }

    /// Sets the treatment of callers with an unknown address. Default: [`UnknownCallers::ByRules`].
    #[must_use]
    pub fn unknown_callers(mut self, unknown: UnknownCallers) -> Self {
        self.unknown = unknown;
        self
    }

    /// Returns the allowed ranges, merged; all addresses if there are none.
    #[must_use]
    pub fn allowed(&self) -> &[IpNet] {
        &self.allow
    }

    /// Returns the denied ranges, merged.
    #[must_use]
    pub fn denied(&self) -> &[IpNet] {
        &self.deny
    }

    /// Returns the treatment of callers with an unknown address.
    #[must_use]
    pub fn unknown(&self) -> UnknownCallers {
        self.unknown
    }

    /// Returns whether a caller with this address, or with an unknown one, may connect. An
    /// unspecified address (`0.0.0.0`, `::`) counts as unknown.
    #[must_use]
    pub fn permits(&self, address: Option<IpAddr>) -> bool {
        let Some(address) = known(address) else {
            return match self.unknown {
                UnknownCallers::Allow => self.deny != all_addresses(),
                UnknownCallers::Deny => false,
                UnknownCallers::ByRules => !self.could_refuse_unknown(),
            };
        };
        let on = |list: &[IpNet]| list.iter().any(|range| range.contains(&address));
        !on(&self.deny) && (self.allow.is_empty() || on(&self.allow))
    }

    /// Returns whether the rules refuse an address that an unknown caller may have. IPv4 addresses
    /// are always sent, so a deny range of IPv4 addresses does not matter.
    fn could_refuse_unknown(&self) -> bool {
        let denied = self.deny.iter().any(|range| match range {
            IpNet::V6(_) => true,
            IpNet::V4(range) => range.contains(&std::net::Ipv4Addr::UNSPECIFIED),
        });
        denied || !(self.allow.is_empty() || self.allow == all_addresses())
    }

    /// Returns whether the lists refuse unknown callers although they allow some IPv6 caller, so
    /// that one may be refused by mistake.
    fn may_refuse_by_mistake(&self) -> bool {
        let is_ipv6 = |range: &IpNet| matches!(range, IpNet::V6(_));
        let all_ipv6 = IpNet::new_assert(IpAddr::from([0; 16]), 0);
        self.unknown == UnknownCallers::ByRules
            && self.could_refuse_unknown()
            && (self.allow.is_empty() || self.allow.iter().any(is_ipv6))
            && !self.deny.contains(&all_ipv6)
    }
}

/// Returns all addresses of both families, in the order of [`IpNet::aggregate`].
fn all_addresses() -> Vec<IpNet> {
    vec![
        IpNet::new_assert(IpAddr::from([0; 4]), 0),
        IpNet::new_assert(IpAddr::from([0; 16]), 0),
    ]
}

/// Returns the address in the form that rules compare; `None` if the relay does not know it.
pub(crate) fn known(address: Option<IpAddr>) -> Option<IpAddr> {
    address
        .map(|address| address.to_canonical())
        .filter(|address| !address.is_unspecified())
}

/// Returns the range in the form that rules compare: IPv4-mapped ranges as IPv4.
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

/// The current rules. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedAccess(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    rules: RwLock<AccessRules>,
    unknown_refused: LogThrottle,
}

impl SharedAccess {
    pub(crate) fn new(rules: AccessRules) -> Self {
        let shared = Self::default();
        shared.set(rules);
        shared
    }

    pub(crate) fn set(&self, rules: AccessRules) {
        let mut current = self.0.rules.write().unwrap_or_else(PoisonError::into_inner);
        let changed = *current != rules;
        let warn = changed && rules.may_refuse_by_mistake();
        *current = rules;
        drop(current);
        if warn {
            tracing::warn!(
                "the access rules refuse callers whose address is unknown, which before version 2 of the tunnel's \
                 protocol is every caller over IPv6; the setting unknown-callers (allow or deny) decides otherwise or \
                 silences this warning"
            );
        }
    }

    pub(crate) fn get(&self) -> AccessRules {
        let rules = self.0.rules.read().unwrap_or_else(PoisonError::into_inner);
        rules.clone()
    }

    pub(crate) fn permits(&self, address: Option<IpAddr>) -> bool {
        let rules = self.0.rules.read().unwrap_or_else(PoisonError::into_inner);
        let permitted = rules.permits(address);
        if !permitted && known(address).is_none() && rules.may_refuse_by_mistake() {
            warn_throttled!(
                self.0.unknown_refused,
                "a caller was refused: its address is unknown (it probably uses IPv6, and the tunnel's protocol is older \
                 than version 2), and an access rule could concern it; the setting unknown-callers lets it in (allow) or \
                 silences this warning (deny)"
            );
        }
        permitted
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().unwrap()).collect()
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn default_allows_all() {
        let rules = AccessRules::default();
        assert!(
            rules.permits(ip("203.0.113.9"))
                && rules.permits(ip("2001:db8::1"))
                && rules.permits(None)
        );
    }

    #[test]
    fn deny_list_alone_refuses_only_listed() {
        let rules = AccessRules::new([], nets(&["203.0.113.0/24", "2001:db8::/32"]));
        assert!(!rules.permits(ip("203.0.113.9")) && !rules.permits(ip("2001:db8::1")));
        assert!(rules.permits(ip("198.51.100.1")) && rules.permits(ip("2001:db9::1")));
    }

    /// Before version 2 of the tunnel's protocol a caller over IPv6 has an unknown address.
    #[test]
    fn unknown_caller_follows_rules_that_could_concern_it() {
        let all = ["0.0.0.0/0", "::/0"];
        for (allow, deny, permitted) in [
            (&[][..], &[][..], true),
            (&[], &["203.0.113.0/24"], true),
            (&[], &["::ffff:203.0.113.0/120"], true),
            (&[], &["2001:db8::/32"], false),
            (&[], &["203.0.113.0/24", "2001:db8::1/128"], false),
            (&[], &["::/0"], false),
            (&[], &["::/128"], false),
            (&[], &["0.0.0.0/32"], false),
            (&[], &["0.0.0.0/0"], false),
            (&[], &["::ffff:0:0/96"], false),
            (&["192.0.2.0/24"], &[], false),
            (&["2001:db8::/32"], &[], false),
            (&["::/0"], &[], false),
            (&all, &[], true),
            (&all, &["203.0.113.0/24"], true),
            (&all, &["2001:db8::/32"], false),
        ] {
            let rules = AccessRules::new(nets(allow), nets(deny));
            for unknown in [None, ip("0.0.0.0"), ip("::"), ip("::ffff:0.0.0.0")] {
                assert_eq!(rules.permits(unknown), permitted, "{allow:?} {deny:?}");
            }
            let set = |unknown| rules.clone().unknown_callers(unknown);
            assert!(set(UnknownCallers::Allow).permits(None));
            assert!(!set(UnknownCallers::Deny).permits(None));
            // It does not affect other callers.
            for known in [ip("203.0.113.9"), ip("192.0.2.1"), ip("2001:db8::1")] {
                for unknown in [UnknownCallers::Allow, UnknownCallers::Deny] {
                    assert_eq!(set(unknown).permits(known), rules.permits(known));
                }
            }
        }
    }

    #[test]
    fn ipv4_mapped_address_is_denied() {
        let rules = AccessRules::new([], nets(&["203.0.113.0/24"]));
        assert!(!rules.permits(ip("::ffff:203.0.113.9")));
    }

    #[test]
    fn ipv4_mapped_range_is_an_ipv4_range() {
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
    fn deny_all_refuses_every_address() {
        let rules = AccessRules::deny_all();
        assert!(
            !rules.permits(ip("127.0.0.1")) && !rules.permits(ip("::1")) && !rules.permits(None)
        );
        let rules = rules.unknown_callers(UnknownCallers::Allow);
        assert!(!rules.permits(None));
    }

    #[test]
    fn too_many_rules_deny_all() {
        let many = (0..=u32::try_from(MAX_RULES).unwrap())
            .map(|n| IpNet::new((n * 2).to_be_bytes().into(), 32).unwrap());
        assert_eq!(AccessRules::new([], many), AccessRules::deny_all());
    }

    #[test]
    fn unknown_caller_refusals_are_log_throttled() {
        let lines_of = |rules: AccessRules| {
            let mut log = tempfile::tempfile().unwrap();
            let subscriber = tracing_subscriber::fmt()
                .with_writer(Arc::new(log.try_clone().unwrap()))
                .finish();
            tracing::subscriber::with_default(subscriber, || {
                let shared = SharedAccess::new(rules.clone());
                shared.set(rules);
                for _ in 0..1_000 {
                    assert!(!shared.permits(None));
                }
            });
            log.rewind().unwrap();
            let mut lines = String::new();
            log.read_to_string(&mut lines).unwrap();
            let count = |text: &str| lines.matches(text).count();
            (
                count("the access rules refuse callers"),
                count("a caller was refused"),
            )
        };
        let rules = AccessRules::new([], nets(&["2001:db8::/32"]));
        assert_eq!(lines_of(rules.clone()), (1, 5));
        let explicit = rules.unknown_callers(UnknownCallers::Deny);
        assert_eq!(lines_of(explicit), (0, 0));
        let allowed = |range| AccessRules::new(nets(&[range]), []);
        assert_eq!(lines_of(allowed("2001:db8::/32")), (1, 5));
        // No IPv6 caller is allowed anyway.
        assert_eq!(lines_of(allowed("192.0.2.0/24")), (0, 0));
        assert_eq!(lines_of(AccessRules::new([], nets(&["::/0"]))), (0, 0));
        assert_eq!(lines_of(AccessRules::deny_all()), (0, 0));
    }

    #[test]
    fn rules_change_while_shared() {
        let shared = SharedAccess::default();
        let other = shared.clone();
        assert!(other.permits(ip("127.0.0.1")));
        shared.set(AccessRules::deny_all());
        assert!(!other.permits(ip("127.0.0.1")));
    }
}
