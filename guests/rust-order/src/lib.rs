//! A function that knows what comes next: before it does its own work it announces the call that will follow.
//!
//! The environment variable `NEXT` names the function; the payload is the order, and the answer says what was announced. It
//! must announce before it works, so that the other function is warm by the time that this one is done.

use wasip2::cli::environment;

use crate::forewarm::function::pre_triggers::{PreTrigger, announce};

wit_bindgen::generate!({ path: "../../wit", world: "function" });

struct Order;

impl Guest for Order {
    fn init() -> Result<(), String> {
        Ok(())
    }

    fn handle(call: Invocation) -> Result<Vec<u8>, Error> {
        let next = environment::get_environment().into_iter().find(|(name, _)| name == "NEXT");
        let Some((_, function)) = next else {
            return Err(Error { code: "next".to_owned(), message: "set NEXT to the function that follows".to_owned() });
        };
        let notice = PreTrigger {
            function: function.clone(),
            expected_invocations: 1,
            confidence: 1.0,
            delay_ms: 0,
            window_ms: 10_000,
        };
        announce(&notice).map_err(|message| Error { code: "announce".to_owned(), message })?;
        let order = String::from_utf8_lossy(&call.payload);
        Ok(format!("order {order}: {function} is announced").into_bytes())
    }
}

export!(Order);
