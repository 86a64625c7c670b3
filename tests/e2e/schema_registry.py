"""A schema registry of the Confluent kind in this process: looks ids and GUIDs up and registers, no more.

It must not judge compatibility.
"""

import json
import uuid

import fastavro.schema
from http_server import Handler, Server


class SchemaRegistry(Server):
    """Serves on a port of its own until it is closed; with TLS where there is a context for it.

    `authorization` is the header that it wants of every request. `fault` may be set to a status with which it answers everything.
    """

    def __init__(self, context=None, authorization=None):
        # Each a text, its type and its GUID.
        self.schemas = []
        self.asked = 0
        self.refused = 0
        self.fault = None
        self.authorization = authorization
        registry = self

        class Schemas(Handler):
            content_type = "application/vnd.schemaregistry.v1+json"

            def refuses(self):
                """Whether the request was answered with a refusal."""
                if registry.authorization and self.headers["authorization"] != registry.authorization:
                    registry.refused += 1
                    self.answer(401, {"error_code": 40101, "message": "Unauthorized"})
                    return True
                if registry.fault:
                    registry.refused += 1
                    self.answer(registry.fault, {"error_code": registry.fault, "message": "a fault of the test"})
                    return True
                return False

            def do_GET(self):
                if self.refuses():
                    return None
                parts = self.path.split("?")[0].strip("/").split("/")
                found = None
                if parts[:2] == ["schemas", "ids"] and parts[2].isdigit():
                    registry.asked += 1
                    found = registry.schemas[int(parts[2]) - 1 : int(parts[2])]
                elif parts[:2] == ["schemas", "guids"]:
                    registry.asked += 1
                    found = [schema for schema in registry.schemas if schema[2] == parts[2]]
                if found is None:
                    return self.answer(404, {"error_code": 404, "message": "HTTP 404 Not Found"})
                if not found:
                    return self.answer(404, {"error_code": 40403, "message": "Schema not found"})
                ((text, kind, guid),) = found
                # As the original: of Avro the type is not said.
                of_type = {} if kind == "AVRO" else {"schemaType": kind}
                return self.answer(200, {"schema": text, "guid": guid, **of_type})

            def do_POST(self):
                body = json.loads(self.body())
                if self.refuses():
                    return None
                parts = self.path.split("?")[0].strip("/").split("/")
                if parts[0] == "subjects":
                    answer = {
                        "subject": parts[1],
                        "id": registry.add(body["schema"]),
                        "version": 1,
                        "schema": body["schema"],
                    }
                    return self.answer(200, answer)
                return self.answer(404, {"error_code": 404, "message": "HTTP 404 Not Found"})

        super().__init__(Schemas, context)

    def add(self, text, kind="AVRO"):
        """The id of a schema, which is the same for the same schema."""
        for number, (known, known_kind, _) in enumerate(self.schemas):
            if kind == known_kind and canonical(text, kind) == canonical(known, kind):
                return number + 1
        self.schemas.append((text, kind, str(uuid.uuid4())))
        return len(self.schemas)

    def guid(self, schema_id):
        """The GUID of a schema that was added, as its 16 bytes."""
        return uuid.UUID(self.schemas[schema_id - 1][2]).bytes


def canonical(text, kind):
    return fastavro.schema.to_parsing_canonical_form(json.loads(text)) if kind == "AVRO" else text
