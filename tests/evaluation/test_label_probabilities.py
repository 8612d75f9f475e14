"""Probabilities of labels, against the models of transformers themselves."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import Aimv2Config, SiglipModel

from sith_hf.evaluation.label_probabilities import CLIP_SCALE, Temperature
from tests.support.siglip import siglip

IMAGES = np.eye(3)[:2]
LABELS = np.array([[1.0, 0, 0], [0.6, 0.8, 0]])


def test_a_model_with_a_bias_judges_each_label_by_itself():
    model = siglip()
    assert isinstance(model, SiglipModel)
    with torch.no_grad():
        model.logit_scale.fill_(1.5)
        model.logit_bias.fill_(-2.0)
    found = Temperature.of(model)
    wanted = torch.sigmoid(torch.tensor(IMAGES @ LABELS.T) * math.exp(1.5) - 2)
    assert found.probabilities(IMAGES, LABELS) == pytest.approx(wanted.numpy(), abs=1e-6)
    assert found.bias == -2.0


def test_a_model_without_a_bias_chooses_one_label():
    model = SimpleNamespace(logit_scale=torch.tensor(math.log(20.0)), config=SimpleNamespace())
    found = Temperature.of(model)
    assert found.scale == pytest.approx(20)
    wanted = torch.softmax(torch.tensor(IMAGES @ LABELS.T) * 20, dim=-1)
    assert found.probabilities(IMAGES, LABELS) == pytest.approx(wanted.numpy(), abs=1e-6)


def test_the_scale_of_aimv2_has_a_limit_and_a_model_without_one_gets_that_of_clip():
    model = SimpleNamespace(logit_scale=torch.tensor(9.0), config=Aimv2Config(max_logit_scale=50.0))
    assert Temperature.of(model).scale == pytest.approx(50)
    unknown = Temperature.of(SimpleNamespace(config=SimpleNamespace()))
    assert (unknown.scale, unknown.known) == (CLIP_SCALE, False)


def test_large_logits_do_not_overflow():
    for bias in (None, 0.0):
        found = Temperature(1e4, bias).probabilities(np.array([[1.0], [-1.0]]), np.array([[1.0], [-1.0]]))
        assert found == pytest.approx(np.eye(2))
