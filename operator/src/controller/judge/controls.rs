//! Choice of the controls: pods of the same role on the proven revision, of the same zone where it has any.

use std::collections::BTreeMap;

use crate::controller::judge::track::Track;
use crate::controller::rollout::pods::Role;

/// Returns the names of the controls for pods of a zone and role, among pods that pass a filter. They are those of
/// other zones where the zone has none, and nobody where no pod is left on the proven revision.
#[must_use]
pub(crate) fn choose<'a>(
    tracks: &'a BTreeMap<String, Track>,
    zone: &str,
    role: Role,
    is_usable: impl Fn(&str, &Track) -> bool,
) -> Vec<(&'a str, &'a Track)> {
    let all = tracks.iter().map(|(name, track)| (name.as_str(), track));
    let controls: Vec<(&str, &Track)> =
        all.filter(|(name, track)| track.role == role && track.is_control && is_usable(name, track)).collect();
    let of_zone: Vec<(&str, &Track)> = controls.iter().copied().filter(|(_, track)| track.zone == zone).collect();
    if of_zone.is_empty() { controls } else { of_zone }
}
