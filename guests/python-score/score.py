"""A function in Python: scores a list of numbers against a model that `init` prepares.

In: {"values": [1.5, 2, ...]}. Out: the mean, and how many standard deviations it lies from the model's mean.
Answers `bad_input` where the payload is anything else; any other exception would be a trap.
"""

import json
import math
from dataclasses import dataclass

import wit_world
from componentize_py_types import Err
from wit_world.imports import types


@dataclass
class Model:
    mean: float
    deviation: float


# Here and not in an attribute of the class: componentize-py makes a new object for every call.
model: Model | None = None


class WitWorld(wit_world.WitWorld):  # componentize-py looks for this name
    def init(self) -> None:
        """Runs once per instance, before the first call: the place for loading models and building clients."""
        global model
        samples = [math.sin(step) for step in range(10_000)]
        mean = math.fsum(samples) / len(samples)
        variance = math.fsum((sample - mean) ** 2 for sample in samples) / len(samples)
        model = Model(mean, math.sqrt(variance))

    def handle(self, call: types.Invocation) -> bytes:
        values = read_values(call.payload)
        mean = math.fsum(values) / len(values)
        answer = {
            "mean": round(mean, 6),
            "deviations": round((mean - model.mean) / model.deviation, 6),
            "attributes": dict(call.attributes),
        }
        return json.dumps(answer, separators=(",", ":")).encode()


def read_values(payload: bytes) -> list[float]:
    try:
        values = json.loads(payload)["values"]
        numbers = [float(value) for value in values]
    except (ValueError, TypeError, KeyError, OverflowError) as fault:
        raise bad_input(f'the payload is not {{"values": [numbers]}}: {fault!r}') from fault
    if not numbers or not all(map(math.isfinite, numbers)):
        raise bad_input("the list of values is empty or has a number that is not finite")
    return numbers


def bad_input(message: str) -> Err:
    return Err(types.Error(code="bad_input", message=message))
