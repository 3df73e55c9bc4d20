//! A server holds a file descriptor for each connection; shells start programs with 1,024 of them.

use tracing::warn;

/// As [`raise_limit`]; gives what it was before, for programs that we start.
pub(crate) fn raise_limit_from() -> Option<u64> {
    let before = rlimit::Resource::NOFILE.get();
    raise_limit();
    before.ok().map(|(soft, _)| soft)
}

/// Raises the limit on open files to what this process may have without asking anybody (`ulimit -Hn`).
pub(crate) fn raise_limit() {
    if let Err(error) = rlimit::increase_nofile_limit(rlimit::INFINITY) {
        warn!(%error, "the limit on open files stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use rlimit::Resource;

    #[test]
    fn as_many_files_as_the_hard_limit_says() {
        let (_, hard) = Resource::NOFILE.get().unwrap();
        Resource::NOFILE.set(256.min(hard), hard).unwrap();
        super::raise_limit();
        assert_eq!(Resource::NOFILE.get().unwrap(), (hard, hard));
    }
}
