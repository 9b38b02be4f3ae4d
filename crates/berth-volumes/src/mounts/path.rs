//! Paths inside a container, cleaned as Go's `path.Clean` does: nothing is looked up.

/// The shortest equal path, by text alone.
pub(super) fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                if parts.last().is_some_and(|last| *last != "..") {
                    parts.pop();
                } else if !absolute {
                    parts.push("..");
                }
            }
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (absolute, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// Whether a path stays below where it starts, by text alone (Go's `filepath.IsLocal`).
pub(super) fn is_local(path: &str) -> bool {
    let cleaned = clean(path);
    !path.is_empty() && !path.starts_with('/') && cleaned != ".." && !cleaned.starts_with("../")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_go_cleans_them() {
        #[rustfmt::skip]
        let table = [
            ("/",        "/",    false), ("//a//b/",  "/a/b", false), ("/a/./b/..", "/a",   false),
            ("/../a",    "/a",   false), ("",         ".",    false), ("a/..",      ".",    true),
            ("../a",     "../a", false), ("a/../../b", "../b", false), ("a/b/",     "a/b",  true),
        ];
        for (path, cleaned, local) in table {
            assert_eq!((clean(path).as_str(), is_local(path)), (cleaned, local), "{path:?}");
        }
    }
}
