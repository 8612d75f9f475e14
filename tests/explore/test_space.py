"""``sith-hf explore --space``: the Space and the dataset on the test Hub, and the Space as the Hub runs it."""

from __future__ import annotations

import json
from importlib.metadata import version

import pytest
import yaml

from sith_hf.decomposition import Decomposition
from tests.support.hub import run_client
from tests.support.pushing import state, writes
from tests.support.served import free_port

pytest_plugins = ["tests.support.push_fixtures"]
pytest.importorskip("gradio")

# Runs a Space, asks for its page under the name that the Hub gives it, and stops it.
VISIT = """
import runpy, urllib.request
from sith_hf.explore import Served

def visit(page):
    asked = urllib.request.Request(page.url, headers={"Host": "me-inside.hf.space"})
    print(page.host)
    print(urllib.request.urlopen(asked).read().decode())

Served.wait = visit
runpy.run_path("app.py", run_name="__main__")
"""


@pytest.fixture
def hub(place):
    place.forget()
    yield place
    place.heal()
    place.store.repos.clear()


@pytest.fixture
def explore(hub, worker, made):
    """Run ``sith-hf explore`` on the made decomposition with more words; its code, stdout and stderr."""

    def call(*words, token=None, explained=None):
        named = [str(explained or made.root / "decomposition"), *words]
        return worker.do("out = cli('explore', *words)", token or hub.token, words=named)

    return call


def metadata(repo):
    card = repo.files()["README.md"].decode()
    return yaml.safe_load(card.split("---\n")[1])


class TestPush:
    def test_a_space_and_its_dataset_come_in_one_commit_each(self, hub, explore, made):
        ran = explore("--space", "me/inside")
        assert ran["code"] == 0, ran["err"]
        assert ran["out"].startswith(f"{hub.url}/spaces/me/inside: sent\n")
        space, dataset = hub.repo("me/inside", "space"), hub.repo("me/inside-decomposition", "dataset")
        assert [len(list(repo.log())) for repo in (space, dataset)] == [2, 2]  # the Hub's own, and ours
        assert set(space.files()) == {"README.md", "app.py", "requirements.txt", "sith/space.json"}
        assert set(dataset.files()) == {"README.md", "data/train.parquet", "decomposition.safetensors"}
        facts = metadata(space)
        assert (facts["sdk"], facts["app_file"], facts["sdk_version"]) == ("gradio", "app.py", version("gradio"))
        assert facts["datasets"] == ["me/inside-decomposition"]
        assert f"sith-hf[explore]=={version('sith-hf')}\n" in space.files()["requirements.txt"].decode()

    def test_the_same_again_sends_nothing(self, hub, explore):
        explore("--space", "me/inside")
        before = state(hub, "me/inside", "space")
        ran = explore("--space", "me/inside")
        assert ran["out"] == (
            f"{hub.url}/spaces/me/inside already has everything\n"
            f"{hub.url}/datasets/me/inside-decomposition already has everything\n"
        )
        assert state(hub, "me/inside", "space") == before

    def test_a_decomposition_on_the_hub_stays_where_it_is(self, hub, explore, made):
        path = made.root / "decomposition" / "decomposition.safetensors"
        hub.seed("other/d", {"decomposition.safetensors": path.read_bytes()}, kind="dataset")
        named = ("--model", "openai/clip", "--images", "leaves", "--mcp")
        ran = explore("--space", "me/inside", *named, explained="other/d")
        assert ran["code"] == 0, ran["err"]
        assert ("dataset", "me/inside-decomposition") not in hub.store.repos
        app = hub.repo("me/inside", "space").files()["app.py"].decode()
        assert "launch(Explorer.open('other/d', model='openai/clip', images='leaves'), mcp=True)" in app
        told = metadata(hub.repo("me/inside", "space"))
        assert (told["models"], told["datasets"]) == (["openai/clip"], ["other/d"])

    @pytest.mark.parametrize("name_there", ["decomposition.safetensors", "sith/decomposition.safetensors"])
    def test_a_decomposition_in_a_model_repository_is_no_dataset_of_the_space(self, hub, explore, made, name_there):
        path = made.root / "decomposition" / "decomposition.safetensors"
        name = f"other/model-{len(name_there)}"
        hub.seed(name, {name_there: path.read_bytes()}, kind="model")
        ran = explore("--space", "me/inside", explained=name)
        assert ran["code"] == 0, ran["err"]
        told = metadata(hub.repo("me/inside", "space"))
        assert name in told["models"]
        assert "datasets" not in told

    def test_private_is_private_in_both(self, hub, explore):
        assert explore("--space", "me/inside", "--private")["code"] == 0
        assert hub.repo("me/inside", "space").private
        assert hub.repo("me/inside-decomposition", "dataset").private
        assert b"HF_TOKEN" in hub.repo("me/inside", "space").files()["README.md"]

    def test_a_dry_run_writes_nothing_and_lists_every_file(self, hub, explore):
        ran = explore("--space", "me/inside", "--dry-run", "--json")
        told = json.loads(ran["out"])
        assert set(told["space"]["sent"]) == {"README.md", "app.py", "requirements.txt", "sith/space.json"}
        assert told["dataset"]["sent"]["decomposition.safetensors"] > 1000
        assert told["space"]["card"].startswith("---\ntitle:")
        assert writes(hub) == []

    def test_the_new_card_of_the_hub_is_replaced_and_a_written_one_is_kept(self, hub, explore):
        hub.store.create("space", "me/new", sdk="gradio")
        assert explore("--space", "me/new")["code"] == 0
        assert metadata(hub.repo("me/new", "space"))["title"].startswith("Inside")
        hub.seed("me/new", {"README.md": "---\nsdk: gradio\n---\nmine"}, kind="space")
        ran = explore("--space", "me/new", "--images", "leaves")
        assert "README.md of the Space was kept: it was written or changed by hand" in ran["out"]
        assert hub.repo("me/new", "space").files()["README.md"].endswith(b"mine")

    def test_a_space_of_somebody_else_is_not_overwritten(self, hub, explore):
        hub.seed("me/mine", {"app.py": "print('mine')"}, kind="space")
        ran = explore("--space", "me/mine")
        assert ran["code"] == 2
        assert "holds a file that sith-hf did not write (app.py)" in ran["err"]
        assert f"the decomposition is at {hub.url}/datasets/me/mine-decomposition" in ran["err"]
        assert hub.repo("me/mine", "space").files()["app.py"] == b"print('mine')"

    def test_a_new_space_whose_commit_fails_is_deleted(self, hub, explore):
        explore("--space", "me/first")  # its decomposition is there, so the next commit is of the Space
        hub.fail("commit", path="me/inside", status=403)
        ran = explore("--space", "me/inside", explained="me/first-decomposition")
        assert ran["code"] == 2
        assert "the new repository was deleted" in ran["err"]
        assert ("space", "me/inside") not in hub.store.repos

    @pytest.mark.parametrize("option", ["--model", "--images", "--with"])
    def test_a_space_reads_no_folder_of_this_machine(self, hub, explore, made, option):
        ran = explore("--space", "me/inside", option, str(made.base))
        assert ran["code"] == 2
        assert f"{option} {made.base} is on this machine" in ran["err"]
        assert writes(hub) == []


@pytest.mark.slow
class TestRun:
    def test_the_app_of_the_space_shows_the_decomposition(self, hub, explore, made, worker, tmp_path):
        explore("--space", "me/inside")
        for name, content in hub.repo("me/inside", "space").files().items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(content)
        env = {"SPACE_ID": "me/inside", "GRADIO_SERVER_PORT": str(free_port())}
        done = run_client(hub, VISIT, env=env, home=worker.home, cwd=tmp_path, patient=True)
        assert done.returncode == 0, done.stderr
        host, page = done.stdout.split("\n", 1)
        assert host == "0.0.0.0"
        found = Decomposition.from_pretrained(made.root / "decomposition")
        assert f"{found.num_heads} heads each" in page
