//! How tasks are shared out among replicas.

use crate::mix::mix;

/// The member to whom a task belongs: the one whose hash with it is highest. When a member comes or goes, only its own
/// tasks move. None without members.
#[must_use]
pub fn preferred<'m>(task: &str, members: &'m [String]) -> Option<&'m str> {
    members.iter().map(String::as_str).max_by_key(|member| (mix(0, &[task, member]), *member))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(n: u32) -> Vec<String> {
        (0..n).map(|n| format!("gateway-{n}")).collect()
    }

    fn owners(n: u32) -> Vec<String> {
        let all = members(n);
        (0..300).filter_map(|t| preferred(&format!("task-{t}"), &all).map(str::to_owned)).collect()
    }

    #[test]
    fn tasks_are_shared_out_evenly_and_stay_where_they_are() {
        assert_eq!(preferred("t", &[]), None);
        let (three, four) = (owners(3), owners(4));
        for member in members(3) {
            let n = three.iter().filter(|o| **o == member).count();
            assert!((60..140).contains(&n), "{member} has {n} of 300");
        }
        for (before, after) in three.iter().zip(&four) {
            assert!(before == after || after == "gateway-3", "{before} gave a task to {after}");
        }
    }

    #[test]
    fn the_order_of_members_does_not_matter() {
        let (all, mut turned) = (members(5), members(5));
        turned.reverse();
        for task in ["a", "b", "c", "d"] {
            assert_eq!(preferred(task, &all), preferred(task, &turned));
        }
    }
}
