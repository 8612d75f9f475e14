"""Write checkpoints with the present code, load them in an older transformers, and compare the outputs.

python -m tests.compat .venv-compat/bin/python
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from safetensors.torch import load_file, save_file

from sith_hf import ConceptDictionary, SithEditor
from sith_hf.checkpoint import revert, save_edited
from sith_hf.pursuit import Pursuit
from tests.compat.older import outputs, read
from tests.support.both import make_both, save_text
from tests.support.families import CLASSES, save
from tests.support.raw import random_spec, read_raw, weight_files
from tests.support.siglip import save as save_siglip
from tests.support.tiny import clip_model, projected_vision_model, vision_model

CLOSE, FAR = 1e-5, 1e-3
OLDER = Path(__file__).with_name("older.py")
DEMO_TERMS = ((0, 0, 0, 0.0), (1, 1, 2, -1.0), (1, 2, 0, 2.0))


class Job(NamedTuple):
    """A checkpoint to load in both versions.

    Attributes:
        name: what to call it in the report.
        folder, kind: what is loaded, as which class.
        size: the side of its pictures.
        base: the checkpoint before the edit.
        sound: whether the older version is expected to load it whole.
        words: texts for its processor, where it has one that both versions are to read alike.
    """

    name: str
    folder: Path
    kind: str
    size: int
    base: Path
    sound: bool = True
    words: tuple[str, ...] = ()


def siglip(kind: str, folder: Path) -> Path:
    """Save a SigLIP model."""
    return save_siglip(folder, kind)


def write(work: Path) -> Iterator[Job]:
    """Write the checkpoints."""
    makers: dict[str, Callable[[], Any]] = {
        "CLIPModel": clip_model,
        "CLIPVisionModel": vision_model,
        "CLIPVisionModelWithProjection": projected_vision_model,
    }
    for kind, make in makers.items():
        for form, dtype, options in (
            ("single", torch.float32, {}),
            ("sharded", torch.float32, {"max_shard_size": "20KB"}),
            ("bfloat16", torch.bfloat16, {}),
            ("float16 sharded", torch.float16, {"max_shard_size": "20KB"}),
        ):
            folder = work / f"{kind}-{form.replace(' ', '-')}"
            make().to(dtype).save_pretrained(folder / "base", **options)
            assert (len(weight_files(folder / "base")) > 1) == ("sharded" in form)
            save_edited(folder / "base", random_spec(folder / "base"), folder / "edited")
            yield Job(f"{kind}, {form}", folder / "edited", kind, 16, folder / "base")
            if kind == "CLIPModel" and form == "single":
                for other in ("CLIPVisionModel", "CLIPVisionModelWithProjection"):
                    yield Job(f"{kind}, {form}, as {other}", folder / "edited", other, 16, folder / "base")
            if form == "sharded":
                revert(folder / "edited", folder / "reverted")
                yield Job(f"{kind}, {form}, reverted", folder / "reverted", kind, 16, folder / "edited")
    fresh = work / "CLIPVisionModel-single"
    keys = [key for path in weight_files(fresh / "base") for key in read_raw(path)[0]]
    assert not any(key.startswith("vision_model.") for key in keys), "transformers 5 wrote the prefix after all"
    yield Job(
        "control: what transformers 5 wrote without us", fresh / "base", "CLIPVisionModel", 16, fresh / "edited", False
    )

    makes = {kind: partial(save, family) for family, names in CLASSES.items() for kind in names}
    others = [*CLASSES.values(), ("SiglipModel", "SiglipVisionModel")]
    for names in others:
        for kind in (name for name in names if "Text" not in name):
            folder = work / kind
            make_folder = makes.get(kind, siglip)
            make_folder(kind, folder / "base")
            whole = make_folder(names[0], folder / "whole") if "VisionModel" in kind else None
            editor = SithEditor.from_pretrained(folder / "base", text_model=whole, tower="vision")
            editor.decompose(ConceptDictionary.from_texts(["dog", "red boat"]), pursuit=Pursuit(sparsity=1))
            editor.save_pretrained(folder / "edited", editor.edit().vectors(-1.0, heads=[0, 1]).spec)
            yield Job(kind, folder / "edited", kind, 16, folder / "base")

    both = make_both(work / "both")
    combined = both.of_vision.compose(both.of_text)
    save_edited(both.base, combined, work / "both" / "edited")
    yield Job("CLIPModel, both towers edited", work / "both" / "edited", "CLIPModel", 16, both.base)
    revert(work / "both" / "edited", work / "both" / "reverted")
    yield Job("CLIPModel, both towers reverted", work / "both" / "reverted", "CLIPModel", 16, work / "both" / "edited")
    for kind in ("CLIPTextModel", "CLIPTextModelWithProjection"):
        folder = save_text(work / kind / "base", getattr(transformers, kind), clip_model())
        save_edited(folder, both.of_text, work / kind / "edited")
        yield Job(kind, work / kind / "edited", kind, 16, folder)

    demo = Path(str(resources.files("sith_hf.demo") / "checkpoint"))
    vision = json.loads((demo / "config.json").read_text())["vision_config"]
    head_size = vision["hidden_size"] // vision["num_attention_heads"]
    save_edited(demo, random_spec(demo, DEMO_TERMS, head_size=head_size), work / "demo")
    for kind in makers:
        yield Job(
            f"embedded checkpoint, as {kind}", work / "demo", kind, vision["image_size"], demo,
            words=("a red boat", "Zebra, 2 beaches") if kind == "CLIPModel" else (),
        )  # fmt: skip


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference of an output, relative to the largest entry of that output."""
    assert one.keys() == other.keys()
    return max(float((one[key] - other[key]).abs().max() / other[key].abs().max().clamp(min=1)) for key in other)


def main(python: str) -> int:
    """Run everything, print a table, and return the number of problems."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    problems = []
    with tempfile.TemporaryDirectory(prefix="sith-hf-compat.") as name:
        work = Path(name)
        jobs = list(write(work))
        for size in {job.size for job in jobs}:
            pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
            save_file({"pixels": pixels}, work / f"pixels{size}.safetensors")
        listed = [{**job._asdict(), "pixels": work / f"pixels{job.size}.safetensors"} for job in jobs]
        (work / "jobs.json").write_text(json.dumps(listed, default=str))
        subprocess.run([python, str(OLDER), str(work / "jobs.json"), name], check=True, cwd=work)
        report, theirs = json.loads((work / "report.json").read_text()), load_file(work / "outputs.safetensors")
        print(f"written by transformers {transformers.__version__}, loaded by {report['versions']}")
        if not report["versions"]["transformers"].startswith("4.57."):
            problems.append("the older environment has another transformers than 4.57")
        print(f"{'missing':>8} {'difference':>11} {'of the edit':>12}  checkpoint")
        for job in jobs:
            pixels = load_file(work / f"pixels{job.size}.safetensors")["pixels"]
            load = getattr(transformers, job.kind).from_pretrained
            ours, before = (outputs(load(f, dtype=torch.float32).eval(), pixels) for f in (job.folder, job.base))
            if job.words:
                ours |= read(str(job.folder), list(job.words))
                before |= read(str(job.base), list(job.words))
            found = {key: theirs[f"{job.name}/{key}"] for key in ours}
            missing = report["loaded"][job.name]["missing_keys"]
            apart, edit = distance(found, ours), distance(ours, before)
            fine = (not missing and apart < CLOSE < FAR < edit) if job.sound else (bool(missing) and apart > FAR)
            print(f"{len(missing):>8} {apart:>11.2g} {edit:>12.2g}  {job.name}{'' if fine else '  <- WRONG'}")
            problems += [] if fine else [f"{job.name}: {len(missing)} tensors missing, outputs {apart:.2g} apart"]
    print("\n".join(problems) or f"all {len(jobs)} as they should be")
    return len(problems)


if __name__ == "__main__":
    sys.exit(min(main(str(Path(sys.argv[1]).absolute())), 1))
