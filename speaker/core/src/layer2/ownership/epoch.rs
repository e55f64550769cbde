//! The range of epochs.

/// The highest valid epoch: more takeovers and handovers than a group can see. A higher one is treated as 0,
/// and never claimed: see [`sanitized_epoch`] and [`next_epoch`].
pub(super) const MAX_EPOCH: u64 = 1 << 48;
/// The same for an epoch in an annotation, which anybody with write access to the API may have changed. Far
/// below [`MAX_EPOCH`], so that there is room to count on from it.
pub(super) const MAX_STORED_EPOCH: u64 = MAX_EPOCH >> 8;

/// The epoch in a message, or 0 if it is higher than any sequence of takeovers can reach: nobody could make a
/// better claim than one that adopted it.
pub(super) fn sanitized_epoch(epoch: u64) -> u64 {
    if epoch > MAX_EPOCH { 0 } else { epoch }
}

/// The epoch of a claim that supersedes one with `epoch`.
pub(super) fn next_epoch(epoch: u64) -> u64 {
    epoch.saturating_add(1).min(MAX_EPOCH)
}

/// The same for an epoch that is stored in the API.
pub(super) fn sanitized_stored_epoch(epoch: u64) -> u64 {
    if epoch > MAX_STORED_EPOCH { 0 } else { epoch }
}
