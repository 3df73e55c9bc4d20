//! Which endpoints a caller prefers for where it is: `localityLbSetting`.

use outrigger_policy::LoadBalancer;

/// Whether callers are told which share goes where.
pub(super) fn distributes(balancer: &LoadBalancer) -> bool {
    let setting = balancer.locality.as_ref();
    setting.is_some_and(|setting| setting.enabled && !setting.distribute.is_empty())
}
