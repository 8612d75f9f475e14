"""Edited checkpoints in other libraries: each gives the output of the model edited in memory, not the base's."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import (
    AutoModel,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    pipeline,
)

from sith_hf.checkpoint import save_edited
from sith_hf.edits import EditSpec, applied
from tests.support.checkpoints import MAKERS, Edited
from tests.support.raw import random_spec
from tests.support.tiny import VISION, image_processor, randomise

LABELS = ["a boat", "a red door", "zebra"]
PIXELS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
CLOSE, FAR = 1e-5, 1e-3


@pytest.fixture(scope="module")
def case(checkpoints):
    """Checkpoints with their edits, by class; the CLIPModel lies in several files."""
    return lambda kind: checkpoints.edited(kind, shards=kind == "CLIPModel")


@pytest.fixture(scope="module")
def image() -> Image.Image:
    """A picture of noise, larger than the model takes."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8))


def far(one: torch.Tensor, other: torch.Tensor) -> bool:
    return float((one - other).abs().max()) > FAR


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and float((one - other).abs().max()) < CLOSE


def check(run: Callable[[Any], torch.Tensor], edited: Any, base: Any, tower: Any, spec: EditSpec) -> None:
    """``run(edited)`` equals ``run(base)`` exactly while the part ``tower`` of the base is edited."""
    with torch.no_grad():
        found, before = run(edited), run(base)
        with applied(tower, spec):
            wanted = run(base)
        after = run(base)
    assert torch.isfinite(wanted).all()
    assert close(found, wanted)
    assert far(found, before)
    assert close(after, before)


class TestTransformers:
    @pytest.mark.parametrize(
        ("kind", "saved"),
        [
            ("CLIPModel", "CLIPModel"),
            ("CLIPVisionModel", "CLIPModel"),
            ("CLIPVisionModelWithProjection", "CLIPModel"),
            ("CLIPVisionModel", "CLIPVisionModel"),
            ("CLIPVisionModel", "CLIPVisionModelWithProjection"),
            ("CLIPVisionModelWithProjection", "CLIPVisionModelWithProjection"),
        ],
    )
    def test_every_class_loads_every_checkpoint_that_holds_it(self, case, kind, saved):
        base, spec, edited = case(saved)
        load = getattr(transformers, kind).from_pretrained
        model, report = load(edited, output_loading_info=True)
        assert not report["missing_keys"]
        assert not report["mismatched_keys"]
        if kind == saved:
            assert not report["unexpected_keys"]
        plain = load(base)

        def run(model: Any) -> torch.Tensor:
            if kind == "CLIPModel":
                return model.get_image_features(pixel_values=PIXELS).pooler_output
            out = model(PIXELS)
            return out.image_embeds if kind == "CLIPVisionModelWithProjection" else out.last_hidden_state

        check(run, model, plain, plain, spec)

    def test_logits_of_clip(self, case):
        base, spec, edited = case("CLIPModel")
        processor, plain = AutoProcessor.from_pretrained(edited), CLIPModel.from_pretrained(base)
        assert processor.tokenizer(LABELS).input_ids == AutoProcessor.from_pretrained(base).tokenizer(LABELS).input_ids
        texts = processor.tokenizer(LABELS, return_tensors="pt", padding=True)

        def run(model: Any) -> torch.Tensor:
            return model(pixel_values=PIXELS, **texts).logits_per_image

        check(run, CLIPModel.from_pretrained(edited), plain, plain, spec)

    @pytest.mark.parametrize("kind", list(MAKERS))
    def test_auto_model(self, case, kind):
        base, spec, edited = case(kind)
        model, plain = AutoModel.from_pretrained(edited), AutoModel.from_pretrained(base)
        # AutoModel knows one class for both kinds of vision tower.
        assert type(model).__name__ == ("CLIPModel" if kind == "CLIPModel" else "CLIPVisionModel")

        def run(model: Any) -> torch.Tensor:
            return getattr(model, "vision_model", model)(PIXELS).pooler_output

        check(run, model, plain, plain, spec)

    def test_auto_processor_and_auto_model_for_a_task(self, case, image):
        base, spec, edited = case("CLIPModel")
        inputs = AutoProcessor.from_pretrained(edited)(text=LABELS, images=image, return_tensors="pt", padding=True)
        load = AutoModelForZeroShotImageClassification.from_pretrained
        plain = load(base)
        check(lambda model: model(**inputs).logits_per_image, load(edited), plain, plain, spec)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_loaded_in_half_precision(self, case, dtype):
        base, spec, edited = case("CLIPVisionModel")
        half, plain = (CLIPVisionModel.from_pretrained(folder, dtype=dtype) for folder in (edited, base))
        whole = CLIPVisionModel.from_pretrained(base)
        with torch.no_grad(), applied(whole, spec):
            wanted = whole(PIXELS).pooler_output
            found, before = half(PIXELS.to(dtype)).pooler_output, plain(PIXELS.to(dtype)).pooler_output
        assert (found - wanted).abs().max() < 0.1 < (before - wanted).abs().max()


class TestPipelines:
    def test_zero_shot_image_classification(self, case, image):
        base, spec, edited = case("CLIPModel")
        users = [pipeline("zero-shot-image-classification", model=str(folder)) for folder in (edited, base)]

        def run(user: Any) -> torch.Tensor:
            answer = {row["label"]: row["score"] for row in user(image, candidate_labels=LABELS)}
            return torch.tensor([answer[label] for label in LABELS])

        check(run, *users, users[1].model, spec)

    @pytest.mark.parametrize("kind", ["CLIPVisionModel", "CLIPVisionModelWithProjection"])
    @pytest.mark.parametrize("pool", [False, True])
    def test_image_feature_extraction(self, case, image, kind, pool):
        base, spec, edited = case(kind)
        users = [pipeline("image-feature-extraction", model=str(folder), pool=pool) for folder in (edited, base)]
        check(lambda user: torch.tensor(user(image)), *users, users[1].model, spec)


@pytest.fixture(scope="module")
def llava(case, tmp_path_factory):
    """A tiny LLaVA that is built upon the vision tower of the base."""
    text = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION), text_config=text, image_token_index=60, image_seq_length=4
    )
    model = randomise(LlavaForConditionalGeneration(config), 3)
    model.model.vision_tower = CLIPVisionModel.from_pretrained(case("CLIPVisionModel").base)
    folder = tmp_path_factory.mktemp("llava")
    model.save_pretrained(folder)
    return folder


class TestLlava:
    IDS = torch.tensor([[1, 5, 60, 60, 60, 60, 7], [1, 60, 60, 60, 60, 9, 8]])

    def run(self, model: Any) -> torch.Tensor:
        return model(input_ids=self.IDS, pixel_values=PIXELS).logits

    @pytest.mark.parametrize("how", ["the tower", "its state", "the tower of a CLIPModel"])
    def test_our_tower_in_it(self, case, llava, how):
        plain, model = (LlavaForConditionalGeneration.from_pretrained(llava) for _ in range(2))
        base, spec, edited = case("CLIPModel" if how.endswith("CLIPModel") else "CLIPVisionModel")
        if how == "its state":
            model.model.vision_tower.load_state_dict(CLIPVisionModel.from_pretrained(edited).state_dict())
        else:
            model.model.vision_tower = CLIPVisionModel.from_pretrained(edited)
            plain.model.vision_tower = CLIPVisionModel.from_pretrained(base)
        check(self.run, model, plain, plain.model.vision_tower, spec)

    def test_saved_with_our_tower_in_it(self, case, llava, tmp_path):
        _, spec, edited = case("CLIPVisionModel")
        model, plain = (LlavaForConditionalGeneration.from_pretrained(llava) for _ in range(2))
        model.model.vision_tower = CLIPVisionModel.from_pretrained(edited)
        model.save_pretrained(tmp_path)
        again, report = LlavaForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
        assert not report["missing_keys"]
        check(self.run, again, plain, plain.model.vision_tower, spec)

    def test_it_writes_something_else(self, case, llava):
        model = LlavaForConditionalGeneration.from_pretrained(llava)
        spec = case("CLIPVisionModel").spec

        def write() -> list[list[int]]:
            return model.generate(
                input_ids=self.IDS, attention_mask=torch.ones_like(self.IDS), pixel_values=PIXELS, max_new_tokens=12,
                do_sample=False,
            ).tolist()  # fmt: skip

        before = write()
        with applied(model.model.vision_tower, spec):
            assert write() != before
        assert write() == before


def diffusion_parts() -> dict[str, Any]:
    """A tiny U-Net, autoencoder and scheduler."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    torch.manual_seed(5)
    blocks = {"block_out_channels": (32, 32), "norm_num_groups": 8}
    return {
        "unet": UNet2DConditionModel(
            sample_size=8,
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=VISION["projection_dim"],
            attention_head_dim=8,
            **blocks,
        ).eval(),
        "vae": AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **blocks
        ).eval(),
        "scheduler": DDIMScheduler(steps_offset=1, clip_sample=False),
        "safety_checker": None,
        "feature_extractor": image_processor(),
    }


class TestDiffusers:
    @pytest.fixture(scope="class")
    def diffusers(self):
        """Import late, because every process that collects this file would wait for it."""
        import diffusers

        return diffusers

    @pytest.fixture(scope="class")
    def saved(self, diffusers, case, tmp_path_factory):
        """An image variation pipeline on disk, and a copy of it with its image encoder edited where it lies."""
        folder = tmp_path_factory.mktemp("diffusers")
        encoder = CLIPVisionModelWithProjection.from_pretrained(case("CLIPVisionModelWithProjection").base)
        made = diffusers.StableDiffusionImageVariationPipeline(
            image_encoder=encoder, requires_safety_checker=False, **diffusion_parts()
        )
        made.save_pretrained(folder / "base")
        spec = random_spec(folder / "base" / "image_encoder")
        shutil.copytree(folder / "base", folder / "edited", ignore=shutil.ignore_patterns("image_encoder"))
        save_edited(folder / "base" / "image_encoder", spec, folder / "edited" / "image_encoder")
        return Edited(folder / "base", spec, folder / "edited")

    def test_a_pipeline_whose_image_encoder_was_edited(self, diffusers, saved, image):
        users = [diffusers.StableDiffusionImageVariationPipeline.from_pretrained(f) for f in (saved.edited, saved.base)]

        def run(user: Any) -> torch.Tensor:
            user.set_progress_bar_config(disable=True)
            out = user(
                image, height=16, width=16, num_inference_steps=2, guidance_scale=3.0, output_type="latent",
                generator=torch.Generator().manual_seed(0),
            )  # fmt: skip
            return out.images

        check(run, *users, users[1].image_encoder, saved.spec)

    @pytest.mark.parametrize("hidden", [False, True], ids=["IP-Adapter", "IP-Adapter Plus"])
    def test_as_the_image_encoder_of_an_ip_adapter(self, diffusers, saved, image, hidden):
        # As `from_pretrained("h94/IP-Adapter", subfolder="models/image_encoder")`, handed to a text-to-image pipeline.
        def user(folder: Path) -> Any:
            encoder, report = CLIPVisionModelWithProjection.from_pretrained(
                folder, subfolder="image_encoder", output_loading_info=True
            )
            assert not report["missing_keys"]
            return diffusers.StableDiffusionPipeline(
                image_encoder=encoder,
                text_encoder=None,
                tokenizer=None,
                requires_safety_checker=False,
                **diffusion_parts(),
            )

        def run(user: Any) -> torch.Tensor:
            return user.encode_image(image, "cpu", 2, hidden)[0]

        plain = user(saved.base)
        check(run, user(saved.edited), plain, plain.image_encoder, saved.spec)


def test_the_check_sees_what_is_wrong(case):
    base, spec, edited = case("CLIPVisionModel")
    model, plain = CLIPVisionModel.from_pretrained(edited), CLIPVisionModel.from_pretrained(base)

    def run(model: Any) -> torch.Tensor:
        return model(PIXELS).pooler_output

    check(run, model, plain, plain, spec)
    for wrong in (plain, copy.deepcopy(plain)):
        with pytest.raises(AssertionError):
            check(run, wrong, plain, plain, spec)
    with pytest.raises(AssertionError):
        check(run, model, plain, plain, spec * 0.9)
