"""Evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Put models into evaluation mode; on exit every module in them returns to its own mode."""
    training = [module for model in models for module in model.modules() if module.training]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module in training:
            module.training = True
