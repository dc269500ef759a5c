//! The vendor's own name of a request, told by whoever reads its answer to whoever asked for the call.
//!
//! An error carries it; an answer that went well is the model's and has no place for it. So it goes past the layers
//! between, in the task that makes the call.

use std::cell::RefCell;

/// Longest name kept, in characters: vendors use 36.
const LEN_MAX: usize = 100;

tokio::task_local! {
    static RECEIPT: RefCell<Option<String>>;
}

/// Makes a call and keeps the name of its last request.
pub async fn kept<F: Future>(call: F) -> (F::Output, Option<String>) {
    RECEIPT
        .scope(RefCell::default(), async {
            let output = call.await;
            (output, RECEIPT.with(RefCell::take))
        })
        .await
}

/// Tells the name of the request that was answered; nothing happens when nobody asked.
pub(crate) fn note(id: Option<&str>) {
    let Some(id) = id else { return };
    let id = id.chars().filter(|c| !c.is_control()).take(LEN_MAX).collect();
    // An error means that nobody keeps it.
    let _ = RECEIPT.try_with(|receipt| receipt.replace(Some(id)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_name_told_within_the_call_is_kept() {
        note(Some("nobody"));
        let call = async {
            note(Some("r-1"));
            note(None);
            note(Some("r\n-2"));
            7
        };
        assert_eq!(kept(call).await, (7, Some("r-2".to_owned())));
        assert_eq!(kept(async {}).await, ((), None));
    }
}
