"""The only source of randomness: a named stream, a seed and a purpose give one generator, whatever was drawn before."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np


def generator(stream: str, seed: int, *purpose: str | int) -> np.random.Generator:
    """Return the generator of one draw, a pure function of its arguments.

    The Philox key is 128 bits of a SHA-256 over all arguments, so that no two (stream, seed, purpose) share a
    sequence; torch's own CPU generator keeps only 32 bits of its seed.
    """
    name = json.dumps([stream, int(seed), *purpose]).encode()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(hashlib.sha256(name).digest()[:16], "little")))


@dataclass(frozen=True)
class Streams:
    """Give every stream of one run its seed: `init`, data `order`, `augment`, `mask` and `noise` move independently."""

    init: int
    order: int
    augment: int
    mask: int
    noise: int

    @classmethod
    def of(cls, seed: int, pinned: dict[str, int | None]) -> Streams:
        """Fill every stream that is not pinned to a number with the run's seed."""
        return cls(**{name: seed if value is None else value for name, value in pinned.items()})

    @staticmethod
    def other(seed: int) -> int:
        """Return a seed that no run has and no other seed maps to: another draw of the same stream."""
        return -1 - seed

    def torch_seed(self, stream: str, *purpose: str | int) -> int:
        """Return the seed of torch's own generators for one purpose: 63 bits of this stream's."""
        return int(self.generator(stream, *purpose).integers(2**63))

    def generator(self, stream: str, *purpose: str | int) -> np.random.Generator:
        """Return the generator of `purpose` in one of the five streams."""
        return generator(stream, asdict(self)[stream], *purpose)
