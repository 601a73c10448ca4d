//! "Did you mean": names that differ from a given one by a slip of the fingers.

/// How many letters must be changed, added, left out or swapped with their neighbour to turn
/// `a` into `b` (the optimal string alignment distance).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let changed = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + changed);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = last;
        last = row;
    }
    last[b.len()]
}

/// Longest name that is compared; the work grows with the square of it.
const MOST: usize = 64;

/// The names that are nearest to `given` and near enough to have been meant, at most three.
pub fn near<'a>(given: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let given = given.to_ascii_lowercase();
    let length = given.chars().count();
    if length == 0 || length > MOST {
        return Vec::new();
    }
    let mut found: Vec<(usize, &str)> = names
        .into_iter()
        .filter(|name| name.len() <= MOST * 4)
        .filter_map(|name| {
            let folded = name.to_ascii_lowercase();
            let far = distance(&given, &folded);
            // A word that was cut short is as near as one slip.
            let far = if length >= 3 && folded.starts_with(&given) { far.min(1) } else { far };
            (far <= 1 + length / 4 && far < length).then_some((far, name))
        })
        .collect();
    found.sort();
    let nearest = found.first().map_or(0, |(far, _)| *far);
    found.retain(|(far, _)| *far == nearest);
    found.truncate(3);
    found.into_iter().map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_fingers_finds_the_name() {
        let names = ["store", "read", "run", "revoke", "reinstate", "teardown", "my-agent"];
        assert_eq!(near("stroe", names), ["store"]);
        assert_eq!(near("sotre", names), ["store"]);
        assert_eq!(near("revok", names), ["revoke"]);
        assert_eq!(near("tear", names), ["teardown"]);
        assert_eq!(near("My-Agnet", names), ["my-agent"]);
        assert_eq!(near("frobnicate", names), [""; 0]);
        assert_eq!(near("", names), [""; 0]);
    }

    #[test]
    fn the_distance_is_symmetric_and_zero_only_for_equals() {
        fn holds(a: String, b: String) -> bool {
            let a: String = a.chars().take(12).collect();
            let b: String = b.chars().take(12).collect();
            distance(&a, &b) == distance(&b, &a) && (distance(&a, &b) == 0) == (a == b)
        }
        quickcheck::quickcheck(holds as fn(String, String) -> bool);
    }

    #[test]
    fn an_endless_name_costs_nothing() {
        assert!(near(&"x".repeat(1 << 20), ["x"]).is_empty());
    }
}
