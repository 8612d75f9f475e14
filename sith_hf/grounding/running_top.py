"""``RunningTop``: of all images seen so far, those that drive vectors most, and a uniform random sample."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sith_hf.core.short_repr import short_repr

# Behind every key.
_NONE = 2**63 - 1


@short_repr
@dataclass(frozen=True, eq=False)
class SeenImage:
    """What is kept of an image.

    Attributes:
        coefficients: ``[N]``, of the vectors.
        embedding: ``[P]``, its normalised embedding; P is 0 if it has none.
        picture: what the model sees of it, as a PNG file.
        file: the name of its file, empty if it has none.
    """

    coefficients: Tensor
    embedding: Tensor
    picture: bytes
    file: str = ""


@dataclass(eq=False)
class RunningTop:
    """The images with the k largest and the k smallest of each of N coefficients, and m random ones.

    The result does not depend on the order in which images come, or on how they are cut into parts: ties go to the
    smaller key, and the random images are those with the smallest hashes of their keys.

    Attributes:
        vectors: N.
        top: k.
        sample: m.
        images: key to image, of all that are kept: at most 2 N k + m.
    """

    vectors: int
    top: int
    sample: int
    images: dict[int, SeenImage] = field(default_factory=dict)
    _values: Tensor = field(init=False, repr=False)
    _keys: Tensor = field(init=False, repr=False)
    _random: tuple[int, ...] = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        self._values = torch.full((2, self.vectors, self.top), -torch.inf)
        self._keys = torch.full((2, self.vectors, self.top), _NONE)

    def wanted(self, keys: Collection[int], coefficients: Tensor) -> list[int]:
        """Return which of M images would be kept now, by their numbers; what is not, will never be.

        Args:
            keys: M, of the images, each different from all others.
            coefficients: ``[M, N]``.
        """
        _, tops = self._with(keys, coefficients)
        kept = {*tops.flatten().tolist(), *self._sampled(keys)}
        return [number for number, key in enumerate(keys) if key in kept]

    def add(self, images: Mapping[int, SeenImage]) -> None:
        """Add images by their keys. Only those that :meth:`wanted` returns, of all images, need be added."""
        if not images:
            return
        coefficients = torch.stack([image.coefficients for image in images.values()])
        self._values, self._keys = self._with(images, coefficients)
        self._random = self._sampled(images)
        kept = {*self._keys.flatten().tolist(), *self._random}
        self.images = {key: image for key, image in {**self.images, **images}.items() if key in kept}

    def strongest(self, vector: int, pole: str) -> tuple[int, ...]:
        """Return the keys of the at most k images that drive a pole most, strongest first."""
        found = self._keys[0 if pole == "+" else 1, vector].tolist()
        return tuple(key for key in found if key != _NONE)

    @property
    def random(self) -> tuple[int, ...]:
        """The keys of the random images, in random order."""
        return self._random

    def _with(self, keys: Collection[int], coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Return the k largest values ``[2, N, k]`` for both poles with M more images, and their keys."""
        more = coefficients.T.float()
        new = torch.tensor(list(keys), dtype=torch.int64).expand(2, self.vectors, -1)
        keys_of = torch.cat([self._keys, new], dim=-1)
        values = torch.cat([self._values, torch.stack([more, -more])], dim=-1)
        # By key first, so that a stable sort by value leaves ties in the order of rows.
        order = keys_of.argsort(dim=-1, stable=True)
        values, keys_of = values.gather(-1, order), keys_of.gather(-1, order)
        order = values.argsort(dim=-1, descending=True, stable=True)[..., : self.top]
        return values.gather(-1, order), keys_of.gather(-1, order)

    def _sampled(self, keys: Collection[int]) -> tuple[int, ...]:
        merged = np.array([*self._random, *keys], dtype=np.uint64)
        order = np.argsort(_hashed(merged))[: self.sample]
        return tuple(int(key) for key in merged[order])


def _hashed(keys: NDArray[np.uint64]) -> NDArray[Any]:
    """Return one of the 2^64 numbers for each key, no two alike (the finalizer of splitmix64; Steele et al., 2014)."""
    with np.errstate(over="ignore"):
        mixed = keys + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
