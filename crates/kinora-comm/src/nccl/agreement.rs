//! The call of the control transport that goes beside a device collective.

use crate::{Buffer, Call, Collective, CommError, DeviceBuffer, Element, Pending, Transport};

// Marks calls of the control transport that stand for a device collective.
const MARK: &str = "device: ";
const NUMBERS: usize = 4;

/// What one rank tells the others about its part of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    len: usize,
    to: Option<usize>,
    from: Option<usize>,
    expected: usize,
}

/// Whether the ranks mean the same.
pub(super) enum Agreement {
    /// They have not all been heard.
    Open(Box<dyn Pending>),
    /// Another thread is waiting for it.
    Taken,
    /// All of them, in order of rank.
    Known(Vec<View>),
}

/// Tells the others of a call.
///
/// # Errors
/// Those of [`Transport::start`].
pub(super) fn propose(
    control: &dyn Transport,
    call: &Call,
    input: &DeviceBuffer,
) -> Result<Agreement, CommError> {
    let (to, from, expected) = match call.collective {
        Collective::Exchange { to, from, len } => (to, from, len),
        _ => (None, None, 0),
    };
    let place = |peer: Option<usize>| peer.map_or(-1, |peer| peer as i64);
    let mine = vec![input.len as i64, place(to), place(from), expected as i64];
    let lens = vec![NUMBERS; control.size()];
    let label = format!("{MARK}{}", call.signature(input.dtype, input.len));
    let pending = control.start(
        Call::new(Collective::AllGather { lens }, label),
        mine.into(),
    );
    Ok(Agreement::Open(
        pending.map_err(|error| named(error, call))?,
    ))
}

/// Waits for what all have said, and checks it.
///
/// # Errors
/// Those of [`Pending::wait`], in terms of the device's call; and [`CommError::BadCall`] for an
/// exchange that does not fit, on all ranks.
pub(super) fn settle(
    pending: Box<dyn Pending>,
    call: &Call,
    members: &[usize],
) -> Result<Vec<View>, CommError> {
    let wrong = |what: String| CommError::BadCall {
        operation: call.to_string(),
        what,
    };
    let Buffer::Host(numbers) = pending.wait().map_err(|error| named(error, call))? else {
        return Err(wrong("host buffers came back on a device".to_string()));
    };
    let numbers = i64::take(numbers).ok_or_else(|| wrong("i64 came back otherwise".to_string()))?;
    let peer = |number: i64| usize::try_from(number).ok();
    let views: Vec<View> = numbers
        .chunks_exact(NUMBERS)
        .map(|numbers| View {
            len: numbers[0] as usize,
            to: peer(numbers[1]),
            from: peer(numbers[2]),
            expected: numbers[3] as usize,
        })
        .collect();
    if let Collective::Exchange { .. } = call.collective {
        check_exchange(&views, members).map_err(wrong)?;
    }
    Ok(views)
}

/// The length of a broadcast.
pub(super) fn root_len(views: &[View], root: usize) -> usize {
    views[root].len
}

fn check_exchange(views: &[View], members: &[usize]) -> Result<(), String> {
    let name = |peer: Option<usize>| match peer {
        Some(peer) => format!("rank {}", members[peer]),
        None => "nobody".to_string(),
    };
    for (rank, view) in views.iter().enumerate() {
        let me = members[rank];
        if let Some(to) = view.to
            && views[to].from != Some(rank)
        {
            let (to, expected) = (members[to], name(views[to].from));
            return Err(format!(
                "rank {me} sends to rank {to}, which receives from {expected}"
            ));
        }
        let Some(from) = view.from else { continue };
        if views[from].to != Some(rank) {
            let (from, meant) = (members[from], name(views[from].to));
            return Err(format!(
                "rank {me} receives from rank {from}, which sends to {meant}"
            ));
        }
        if views[from].len != view.expected {
            let (from, sent, expected) = (members[from], views[from].len, view.expected);
            return Err(format!(
                "rank {from} sends {sent} elements, but rank {me} expects {expected}"
            ));
        }
    }
    Ok(())
}

/// An error of the control transport in terms of the device's call, for which the caller knows it.
fn named(mut error: CommError, call: &Call) -> CommError {
    match &mut error {
        CommError::Mismatch {
            first_call: first,
            second_call: second,
            ..
        }
        | CommError::Deadlock {
            first_call: first,
            second_call: second,
            ..
        } => {
            *first = unmarked(first);
            *second = unmarked(second);
        }
        CommError::PeerLost { operation, .. } | CommError::Late { operation, .. } => {
            *operation = call.to_string();
        }
        _ => {}
    }
    error
}

/// The device's call instead of the control transport's that stands for it.
fn unmarked(text: &str) -> String {
    let marked = text.split_once(&format!("\"{MARK}"));
    match marked.and_then(|(_, rest)| rest.rsplit_once('"')) {
        Some((call, place)) => format!("{call} on a device{place}"),
        None => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_call_of_the_device() {
        let text = "all-gather of [4, 4] x I64 \"device: all-reduce Sum of 3 x F32 \"grads\"\"";
        let plain = "all-reduce Sum of 3 x F32 \"grads\" on a device";
        assert_eq!(unmarked(text), plain);
        assert_eq!(unmarked("barrier \"end\""), "barrier \"end\"");
    }

    #[test]
    fn exchanges_are_checked_as_all_ranks_see_them() {
        let view = |len, to, from, expected| View {
            len,
            to,
            from,
            expected,
        };
        let pair = [view(3, Some(1), None, 0), view(0, None, Some(0), 3)];
        assert_eq!(check_exchange(&pair, &[4, 7]), Ok(()));
        let short = [pair[0], view(0, None, Some(0), 2)];
        let text = "rank 4 sends 3 elements, but rank 7 expects 2";
        assert_eq!(check_exchange(&short, &[4, 7]), Err(text.to_string()));
        let deaf = [pair[0], view(0, None, None, 0)];
        let text = "rank 4 sends to rank 7, which receives from nobody";
        assert_eq!(check_exchange(&deaf, &[4, 7]), Err(text.to_string()));
    }
}
