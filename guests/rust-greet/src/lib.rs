//! A friendly function to start from: reads JSON, greets, and shows what came with the call.
//!
//! It shows the two ways to answer: bytes, or an `error` that says no (the call then ends as `function_error`, which is
//! not a failure of the function and is not retried as one). It must not trap, whatever the payload.

use serde_json::{Value, json};

wit_bindgen::generate!({ path: "../../wit", world: "function" });

struct Greet;

impl Guest for Greet {
    fn init() -> Result<(), String> {
        Ok(())
    }

    fn handle(call: Invocation) -> Result<Vec<u8>, Error> {
        let name = name_in(&call.payload)?;
        let answer = json!({
            "greeting": format!("Hello, {name}!"),
            "id": call.id,
            "function": call.function,
            "tenant": call.tenant,
            "attempt": call.attempt,
            // Pairs, not an object: a caller may send the same key twice, and the order is theirs.
            "attributes": call.attributes,
        });
        Ok(answer.to_string().into_bytes())
    }
}

/// The name in `"Ada"` or `{"name": "Ada"}`; everything else is refused with the code `bad_input`.
fn name_in(payload: &[u8]) -> Result<String, Error> {
    if payload.is_empty() {
        return Err(bad_input("the payload is empty"));
    }
    let name = match serde_json::from_slice(payload) {
        Ok(Value::String(name)) => name,
        Ok(Value::Object(mut fields)) => match fields.remove("name") {
            Some(Value::String(name)) => name,
            Some(_) => return Err(bad_input("the field \"name\" is not a string")),
            None => return Err(bad_input("the field \"name\" is missing")),
        },
        Ok(_) => return Err(bad_input("the payload is neither a string nor an object")),
        Err(fault) => return Err(bad_input(&format!("the payload is not JSON: {fault}"))),
    };
    if name.trim().is_empty() {
        return Err(bad_input("the name is blank"));
    }
    Ok(name)
}

fn bad_input(what: &str) -> Error {
    Error {
        code: "bad_input".to_owned(),
        message: format!("{what}: send a JSON string, or an object such as {{\"name\": \"Ada\"}}"),
    }
}

export!(Greet);
