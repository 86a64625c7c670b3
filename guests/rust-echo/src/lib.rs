//! The smallest useful function: answers every call with its own payload.
//!
//! Its duty is to cost nothing, so that what remains when it is measured is the host. It must not import anything.

wit_bindgen::generate!({ path: "../../wit", world: "function" });

struct Echo;

impl Guest for Echo {
    fn init() -> Result<(), String> {
        Ok(())
    }

    fn handle(call: Invocation) -> Result<Vec<u8>, Error> {
        Ok(call.payload)
    }
}

export!(Echo);
