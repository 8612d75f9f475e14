"""The mean image embedding: its value, its fingerprint of weights, resuming, and refusals."""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sith_hf.cli import main
from sith_hf.concepts.dictionary import ConceptDictionary
from sith_hf.decomposition.decomposition import Decomposition
from sith_hf.editor import SithEditor
from sith_hf.errors import ArtifactError, BaseMismatch, InputError
from sith_hf.files.resumable import SUFFIX, ResumableJob
from sith_hf.images import Columns, DatasetSettings
from sith_hf.images import mean as averaging
from sith_hf.images.comparison import model_variants
from sith_hf.images.datasets import open_dataset
from sith_hf.images.embed import embed_rows
from sith_hf.images.mean import estimated_mean, mean_of_images
from sith_hf.towers.image_mean import IMAGE_MEAN_LAYOUT, ImageMean, image_mean_file, read_image_mean
from sith_hf.towers.tower import check_mean
from sith_hf.world.embedded import embedded_checkpoint
from tests.support import tiny
from tests.support.evaluating import dataset
from tests.support.made import tiny_editor
from tests.support.tiny import image_processor

REDS = [*range(0, 220, 10), None, b"no picture"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "pictures"
    dataset(REDS).save_to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def mean(editor, pictures):
    return averaged(editor, DatasetSettings(dataset=str(pictures)))


def averaged(editor, data, **options) -> ImageMean:
    return mean_of_images(editor, data, processor=image_processor(), **options)


def test_it_is_the_mean_of_what_an_evaluation_embeds(editor, pictures, mean):
    embedded = embed_rows(
        model_variants(editor, {"base": None}, processor=image_processor()),
        open_dataset(DatasetSettings(dataset=str(pictures))),
        ["image"],
        [],
    )
    rows = torch.from_numpy(embedded.images["image"][0]).double()
    torch.testing.assert_close(mean.image_mean, rows.mean(dim=0), atol=1e-12, rtol=0)
    assert (mean.image_mean - rows[1:].mean(dim=0)).abs().max() > 1e-6  # the control
    assert mean.image_mean.dtype == torch.float64
    assert mean.count == 22
    assert dict(mean.skipped) == dict(embedded.skipped)
    assert sum(mean.skipped.values()) == 2


def test_cutting_a_dataset_changes_nothing_but_rounding(editor, pictures, mean, monkeypatch):
    whole = DatasetSettings(dataset=str(pictures))
    stream = averaged(editor, whole.model_copy(update={"streaming": True}))
    monkeypatch.setattr(averaging, "BATCHES", 1)
    for other in (stream, averaged(editor, whole, batch_size=3), averaged(editor, whole, batch_size=1)):
        torch.testing.assert_close(other.image_mean, mean.image_mean, atol=1e-6, rtol=0)
        assert (other.count, other.skipped) == (mean.count, mean.skipped)
        assert other.images_sha256 == mean.images_sha256


@pytest.mark.parametrize("streaming", [False, True])
def test_a_limit_takes_the_first_rows(editor, pictures, mean, tmp_path, streaming):
    dataset(REDS[:5]).save_to_disk(tmp_path / "five")
    five = averaged(editor, DatasetSettings(dataset=str(tmp_path / "five")))
    limited = averaged(editor, DatasetSettings(dataset=str(pictures), limit=5, streaming=streaming))
    assert torch.equal(limited.image_mean, five.image_mean)
    assert limited.images_sha256 == five.images_sha256 != mean.images_sha256


def test_a_condition_takes_some_rows(editor, tmp_path):
    dataset(range(0, 60, 10), kind=["a", "b"] * 3).save_to_disk(tmp_path / "both")
    dataset(range(0, 60, 20)).save_to_disk(tmp_path / "half")
    half = averaged(editor, DatasetSettings(dataset=str(tmp_path / "half")))
    chosen = averaged(editor, DatasetSettings(dataset=str(tmp_path / "both"), where={"kind": "a"}))
    torch.testing.assert_close(chosen.image_mean, half.image_mean, atol=1e-7, rtol=0)
    assert chosen.count == 3


def test_the_same_images_have_one_fingerprint_whatever_their_order(editor, tmp_path):
    prints = []
    for number, reds in enumerate(([1, 2, 3], [3, 1, 2], [1, 2, 2])):
        dataset(reds).save_to_disk(tmp_path / str(number))
        prints.append(averaged(editor, DatasetSettings(dataset=str(tmp_path / str(number)))).images_sha256)
    assert prints[0] == prints[1] != prints[2]


def test_files_in_a_folder_are_read_as_bytes_are(editor, tmp_path):
    from tests.support.evaluating import png

    (tmp_path / "folder" / "a").mkdir(parents=True)
    for red in (10, 20):
        (tmp_path / "folder" / "a" / f"{red}.png").write_bytes(png(red))
    dataset([10, 20]).save_to_disk(tmp_path / "saved")
    one, other = (averaged(editor, DatasetSettings(dataset=str(tmp_path / name))) for name in ("folder", "saved"))
    assert torch.equal(one.image_mean, other.image_mean)
    assert one.images_sha256 == other.images_sha256


@pytest.mark.parametrize("reds", [[], [None, b"no picture"]])
def test_no_image_is_refused(editor, tmp_path, reds):
    dataset(reds).save_to_disk(tmp_path / "none")
    with pytest.raises(InputError, match="no row" if reds else "no rows|could be opened"):
        averaged(editor, DatasetSettings(dataset=str(tmp_path / "none")))


def test_a_column_that_is_not_there_is_refused(editor, pictures):
    with pytest.raises(InputError, match="no column photo"):
        averaged(editor, DatasetSettings(dataset=str(pictures), columns=Columns(image="photo")))


def test_weights_that_give_no_numbers_are_refused(pictures, tmp_path):
    broken = tiny_editor(tmp_path)
    with torch.no_grad():
        broken.model.vision_model.pre_layrnorm.weight[0] = torch.nan
    with pytest.raises(InputError, match="not finite"):
        averaged(broken, DatasetSettings(dataset=str(pictures)))


def test_saved_and_read_again(editor, mean, tmp_path):
    path = mean.save_pretrained(tmp_path / "mean")
    again = ImageMean.from_pretrained(tmp_path / "mean")
    assert torch.equal(again.image_mean, mean.image_mean)
    for name in ("count", "skipped", "base", "source", "images_sha256"):
        assert getattr(again, name) == getattr(mean, name)
    assert again.save_pretrained(tmp_path / "again").read_bytes() == path.read_bytes()
    for place in (path, tmp_path / "mean"):
        assert torch.equal(read_image_mean(place), mean.image_mean)
        assert torch.equal(read_image_mean(place, editor.tower), mean.image_mean)
        assert image_mean_file(place) == path
    assert "/" not in json.dumps(dict(mean.source))


def test_it_goes_with_its_weights(editor, mean, tmp_path):
    mean.save_pretrained(tmp_path)
    read_image_mean(tmp_path, editor.tower)  # the control
    with pytest.raises(BaseMismatch, match="other values"):
        read_image_mean(tmp_path, tiny_editor(tmp_path / "stranger", seed=3).tower)
    assert torch.equal(read_image_mean(tmp_path), mean.image_mean)
    # Everything that embeds an image counts, not only what a decomposition reads.
    assert "vision_model.embeddings.patch_embedding.weight" in mean.base.sha256
    assert "visual_projection.weight" in mean.base.sha256


def test_a_damaged_format_does_not_skip_the_checks(mean, tmp_path):
    """Such a file is no file of another program, which has no fingerprint of its model."""
    path = mean.save_pretrained(tmp_path)
    read_image_mean(path)  # the control
    for old, new in ((b'"format"', b'"dormat"'), (b"sith-hf/image-mean", b"sith-hf/image-mead")):
        content = path.read_bytes()
        assert content.count(old) == 1
        path.write_bytes(content.replace(old, new))
        with pytest.raises(ArtifactError, match="is not a file of format"):
            read_image_mean(path)
        path.write_bytes(content)


def test_a_file_of_somebody_elses_is_read(editor, tmp_path):
    save_file({"image_mean": torch.full((24,), 0.1)}, tmp_path / "theirs.safetensors")
    assert torch.equal(read_image_mean(tmp_path / "theirs.safetensors", editor.tower), torch.full((24,), 0.1))


class Payload:
    """An object whose unpickling writes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("name", ["image_mean.pt", "cc12m.pth", "mean.bin", "image_mean.safetensors"])
@pytest.mark.parametrize("kind", ["vector", "row", "half", "view", "parameter"])
def test_a_torch_file_is_read_whatever_its_name(editor, tmp_path, name, kind):
    """``torch.save(mean)``, as the paper's authors publish theirs."""
    mean = torch.linspace(-0.1, 0.1, 24)
    made = {
        "vector": mean,
        "row": mean[None],
        "half": mean.half(),
        "view": torch.stack([mean, mean + 1])[0],
        "parameter": torch.nn.Parameter(mean),
    }
    torch.save(made[kind], tmp_path / name)
    found = read_image_mean(tmp_path / name, editor.tower)
    torch.testing.assert_close(found, mean, atol=1e-4 if kind == "half" else 0, rtol=0)
    assert not found.requires_grad
    check_mean(found, editor.tower.joint_size)


def test_a_folder_may_hold_the_authors_file(tmp_path):
    torch.save(torch.full((24,), 0.1), tmp_path / "image_mean.pt")
    assert image_mean_file(tmp_path).name == "image_mean.pt"
    assert torch.equal(read_image_mean(tmp_path), torch.full((24,), 0.1))
    # Ours comes first.
    save_file({"image_mean": torch.full((24,), 0.2)}, tmp_path / "image_mean.safetensors")
    assert torch.equal(read_image_mean(tmp_path), torch.full((24,), 0.2))


def test_hostile_torch_files_end_in_one_line(tmp_path):
    path, mark = tmp_path / "image_mean.pt", tmp_path / "mark"
    for content, reason in (
        (Payload(mark), "would run code"),
        ({"mean": torch.zeros(24)}, "must be a plain tensor"),
        ([torch.zeros(24)], "must be a plain tensor"),
        (torch.zeros(1).expand(24), "more than the file holds"),
        (torch.zeros(2, 12), "one vector"),
        (torch.zeros(()), "one vector"),
        (torch.zeros(24, dtype=torch.int64), "floating-point"),
        (torch.full((24,), torch.nan), "NaN"),
        (torch.zeros(24).to_sparse(), "must be a plain tensor"),
    ):
        torch.save(content, path)
        with pytest.raises(InputError, match=reason) as refused:
            read_image_mean(path)
        assert "\n" not in str(refused.value)
    assert not mark.exists()
    torch.save(torch.zeros(24), path)
    whole = path.read_bytes()
    for part in (whole[:100], whole[:-30], b"", b"version https://git-lfs.github.com/spec/v1\n"):
        path.write_bytes(part)
        with pytest.raises(InputError, match="git lfs pull" if b"lfs" in part else "torch"):
            read_image_mean(path)
    torch.save(torch.zeros(24), path, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"torch 1\.6"):
        read_image_mean(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="not a regular file"):
        read_image_mean(path)
    os.rename(path, tmp_path / "pipe.safetensors")
    with pytest.raises(InputError, match="not a regular file"):
        read_image_mean(tmp_path / "pipe.safetensors")


def test_a_torch_file_beyond_the_limit_is_refused(tmp_path, monkeypatch):
    torch.save(torch.zeros(24), tmp_path / "image_mean.pt")
    read_image_mean(tmp_path)  # the control
    monkeypatch.setattr("sith_hf.towers.image_mean.MAX_BYTES", 1000)
    with pytest.raises(InputError, match="at most 1,000 bytes"):
        read_image_mean(tmp_path)


def test_what_is_no_mean_is_refused(mean, tmp_path):
    (tmp_path / "text").write_text("no tensors")
    save_file({"other": torch.zeros(24)}, tmp_path / "other.safetensors")
    for name in ("none", "text", "other.safetensors", "."):
        with pytest.raises(InputError, match="image_mean"):
            read_image_mean(tmp_path / name)
    long = ImageMean(mean.image_mean * 100, mean.count, mean.skipped, mean.base, mean.source, mean.images_sha256)
    long.save_pretrained(tmp_path / "long")
    with pytest.raises(ArtifactError, match="not a mean"):
        read_image_mean(tmp_path / "long")


def test_an_estimate_without_images_is_nearer_the_true_mean_than_none(tmp_path):
    """On the embedded checkpoint, by the concepts of explanations; a mean of the opposite sign is the control."""
    editor = SithEditor.from_pretrained(embedded_checkpoint())
    concepts = editor.encode(ConceptDictionary.builtin())
    estimate = estimated_mean(editor)
    assert float(estimate.image_mean.norm()) == pytest.approx(averaging.LENGTH)
    true = mean_of_images(editor, DatasetSettings(world="balanced", seed=5000, pictures=200)).image_mean

    def explained(mean):
        found = editor.decompose(concepts, layers=[-1], image_mean=mean)
        return [{found.texts[i] for i in row if i >= 0} for row in found.concept.flatten(0, 3).tolist()]

    wanted = explained(true)
    shared = [
        sum(len(one & other) for one, other in zip(wanted, explained(mean), strict=True)) / len(wanted)
        for mean in (estimate.image_mean, None, -estimate.image_mean)
    ]
    assert shared[0] > shared[1] + 0.5
    assert shared[1] > shared[2]
    estimate.save_pretrained(tmp_path)
    assert torch.equal(read_image_mean(tmp_path, editor.tower), estimate.image_mean)
    for length in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError, match="length"):
            estimated_mean(editor, length)


class Stop(Exception):
    """The run ends here."""


@pytest.mark.parametrize("streaming", [False, True])
def test_other_images_than_before_the_interruption_are_refused(editor, pictures, tmp_path, monkeypatch, streaming):
    import shutil

    monkeypatch.setattr(averaging, "BATCHES", 1)
    folder, output = tmp_path / "pictures", tmp_path / "out"
    shutil.copytree(pictures, folder)
    data = DatasetSettings(dataset=str(folder), streaming=streaming)
    real, calls = averaging.embed_batch, []

    def stops(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise Stop
        return real(*arguments)

    def run():
        with ResumableJob.beside(output) as job:
            averaged(editor, data, batch_size=4, job=job).save_pretrained(output)

    with monkeypatch.context() as patch:
        patch.setattr(averaging, "embed_batch", stops)
        with pytest.raises(Stop):
            run()
    assert len(list((tmp_path / "out.work").rglob(f"*{SUFFIX}"))) == 3
    shutil.rmtree(folder)
    dataset([*REDS[:2], 255, *REDS[3:]]).save_to_disk(folder)
    with pytest.raises(InputError, match=r"differ from those before|differs in images"):
        run()
    shutil.rmtree(folder)
    shutil.copytree(pictures, folder)
    run()  # the control
    assert read_image_mean(output).equal(averaged(editor, data, batch_size=4).image_mean)


def sith(*arguments: object) -> tuple[int, str, str]:
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["sith-hf", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stopped:
            main()
    finally:
        sys.argv = before
    return stopped.value.code or 0, out.getvalue(), err.getvalue()


def test_on_the_command_line(pictures, tmp_path):
    tiny.save_clip(tmp_path / "clip")
    tiny.save_clip(tmp_path / "other", seed=2)
    image_processor().save_pretrained(tmp_path / "clip")
    (tmp_path / "concepts.txt").write_text("sea\nbird\nroad\nred\nblue\nnight\n")
    made = ("image-mean", tmp_path / "clip", "--data", pictures, "-o", tmp_path / "mean")
    code, out, err = sith(*made, "--json")
    assert code == 0, err
    assert json.loads(out)["count"] == 22
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip", "concepts.txt", "mean", "other"]
    assert [path.name for path in (tmp_path / "mean").iterdir()] == [IMAGE_MEAN_LAYOUT.filename]
    code, out, err = sith(*made)
    assert "mean of 22 images" in out

    code, out, err = sith("image-mean", tmp_path / "clip", "--estimate", "-o", tmp_path / "guess")
    assert code == 0, err
    assert "without images" in out
    assert ImageMean.from_pretrained(tmp_path / "guess").count == 0

    explain = ("--concepts", tmp_path / "concepts.txt", "-o", tmp_path / "d", "--image-mean", tmp_path / "mean")
    code, _, err = sith("decompose", tmp_path / "clip", *explain)
    assert code == 0, err
    found = Decomposition.from_pretrained(tmp_path / "d")
    assert found.settings["image_mean"]
    torch.testing.assert_close(found.image_mean, read_image_mean(tmp_path / "mean").float())
    code, _, err = sith("decompose", tmp_path / "other", *explain[:3], tmp_path / "d2", *explain[4:])
    assert code == 2
    assert "other values" in err
    assert not (tmp_path / "d2").exists()
    wrongs = (
        ("--limit", "0"),
        ("--column", "photo"),
        ("--batch-size", "0"),
        ("--estimate",),
        ("--data", tmp_path / "nowhere"),
    )
    for wrong in wrongs:
        code, _, err = sith(*made[:2], "-o", tmp_path / "no", *(() if wrong[0] == "--data" else made[2:4]), *wrong)
        assert code == 2, err
        assert err.count("Error: ") == 1
        assert not list(tmp_path.glob("no*"))


def test_a_large_file_is_no_image_mean(tmp_path):
    """A file of any size would be mapped into memory."""
    with (tmp_path / "image_mean.safetensors").open("wb") as file:
        file.truncate(5 * 2**30)
    with pytest.raises(InputError, match=r"\(more than 67,108,864 bytes\)"):
        read_image_mean(tmp_path)
