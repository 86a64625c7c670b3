"""A schema registry of the Confluent kind in this process: looks ids up and registers, no more.

It must not judge compatibility.
"""

import json

import fastavro.schema
from http_server import Handler, Server


class SchemaRegistry(Server):
    """Serves on a port of its own until it is closed."""

    def __init__(self):
        self.schemas = []
        self.asked = 0
        registry = self

        class Schemas(Handler):
            content_type = "application/vnd.schemaregistry.v1+json"

            def do_GET(self):
                parts = self.path.split("?")[0].strip("/").split("/")
                if parts[:2] == ["schemas", "ids"] and parts[2].isdigit():
                    registry.asked += 1
                    schema_id = int(parts[2])
                    if 1 <= schema_id <= len(registry.schemas):
                        return self.answer(200, {"schema": registry.schemas[schema_id - 1]})
                    return self.answer(404, {"error_code": 40403, "message": "Schema not found"})
                return self.answer(404, {"error_code": 404, "message": "HTTP 404 Not Found"})

            def do_POST(self):
                body = json.loads(self.body())
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

        super().__init__(Schemas)

    def add(self, text):
        """The id of a schema, which is the same for the same schema."""
        known = [fastavro.schema.to_parsing_canonical_form(json.loads(schema)) for schema in self.schemas]
        canonical = fastavro.schema.to_parsing_canonical_form(json.loads(text))
        if canonical in known:
            return known.index(canonical) + 1
        self.schemas.append(text)
        return len(self.schemas)
