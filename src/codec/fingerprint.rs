//! CRC-64-AVRO fingerprints of schemas (Avro specification 1.12, "Parsing Canonical Form" and "Schema Fingerprints").
//!
//! Why our own: `apache-avro` 0.22 leaves a logical type as `{"type":"long"}` in the canonical form, where the
//! specification, and with it every other implementation, wants `"long"`. Its fingerprint of a schema with a timestamp is
//! therefore one that nobody else computes.

use apache_avro::Schema;

/// The fingerprint of no bytes, which is also the polynomial.
const EMPTY: u64 = 0xc15d_213a_a4d7_a795;

const PRIMITIVES: [&str; 8] = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"];

/// The fingerprint of a schema. On the wire its bytes stand in little-endian order.
pub(super) fn of(schema: &Schema) -> u64 {
    // Text is enough: in a canonical form braces and quotes stand for structure only, never inside a name.
    let canonical = PRIMITIVES.iter().fold(schema.canonical_form(), |text, primitive| {
        text.replace(&format!("{{\"type\":\"{primitive}\"}}"), &format!("\"{primitive}\""))
    });
    crc_64(canonical.as_bytes())
}

/// The fingerprint that `apache-avro` computes; the same wherever a schema has no logical types.
pub(super) fn as_apache_avro(schema: &Schema) -> u64 {
    crc_64(schema.canonical_form().as_bytes())
}

fn crc_64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(EMPTY, |sum, byte| {
        (0..8).fold(sum ^ u64::from(*byte), |sum, _| (sum >> 1) ^ (EMPTY & (sum & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use apache_avro::rabin::Rabin;

    use super::*;

    fn parsed(json: &str) -> Schema {
        Schema::parse_str(json).unwrap()
    }

    #[test]
    fn fingerprints_are_those_of_the_specification() {
        // From the Avro project's own test data, share/test/data/schema-tests.txt.
        assert_eq!(of(&parsed(r#""null""#)), 7_195_948_357_588_979_594);
        assert_eq!(of(&parsed(r#"{"type": "int"}"#)), 8_247_732_601_305_521_295);
    }

    #[test]
    fn a_logical_type_does_not_change_a_fingerprint() {
        let field = |ty: &str| {
            parsed(&format!(r#"{{"type": "record", "name": "R", "fields": [{{"name": "at", "type": {ty}}}]}}"#))
        };
        let time = field(r#"["null", {"type": "long", "logicalType": "timestamp-millis"}]"#);
        assert_eq!(of(&time), of(&field(r#"["null", "long"]"#)));
    }

    #[test]
    fn the_other_fingerprint_is_what_apache_avro_computes() {
        let time = parsed(r#"{"type": "long", "logicalType": "timestamp-millis"}"#);
        assert_eq!(as_apache_avro(&time).to_le_bytes(), time.fingerprint::<Rabin>().bytes[..]);
    }
}
