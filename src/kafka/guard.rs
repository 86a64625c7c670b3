//! A panic on a thread that others wait for is told to them, so that the process ends instead of standing still.
//!
//! Must not: catch it.

/// Calls what it holds where the thread that drops it panics; what that answers is of no use to anybody.
pub struct PanicGuard<R, F: FnMut() -> R>(pub F);

impl<R, F: FnMut() -> R> Drop for PanicGuard<R, F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            (self.0)();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_panic_is_told() {
        let (mut told, mut quiet) = (0, 0);
        let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _guard = PanicGuard(|| told += 1);
            std::panic::resume_unwind(Box::new(()));
        }));
        drop(PanicGuard(|| quiet += 1));
        assert!(panics.is_err());
        assert_eq!((told, quiet), (1, 0));
    }
}
