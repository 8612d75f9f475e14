"""A recipe does not choose which server gets the user's token and concepts."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from sith_hf.core.secrets import JUDGE_TOKEN
from sith_hf.errors import InputError
from sith_hf.judges.secrets import SERVER_VARIABLE
from sith_hf.recipe import Recipe
from sith_hf.recipe.servers import check_servers, named_servers
from sith_hf.world import embedded_checkpoint
from tests.support.chat_server import chat_server
from tests.support.cli import refused, sith

TOKEN = "sk-secretsecret"
EVIL = "https://evil.example/v1"


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(JUDGE_TOKEN, TOKEN)
    monkeypatch.delenv(SERVER_VARIABLE, raising=False)


def data(url: str | None, name: str = "judge") -> dict[str, Any]:
    judge = {"by": "language-model", "prompt": "place", "model": "m", "base_url": url}
    other = {"topic": "t", "concepts": ["sea"]}
    edit = {"rule": "threshold", "judge": other, name: judge}
    return {"extends": "demo", "title": "t", "decompose": {"layers": [-1], "rank": 2}, "edits": [edit]}


@pytest.mark.parametrize("name", ["judge", "keep"])
def test_nothing_is_asked_of_a_server_that_only_the_recipe_names(tmp_path: Path, name: str) -> None:
    with chat_server(lambda prompt, _: "5") as seen:
        (tmp_path / "mine.yaml").write_text(json.dumps(data(seen.url, name)))
        message = refused(sith("run", tmp_path / "mine.yaml", "-o", tmp_path / "out"))
    assert f"--base-url {seen.url}" in message
    assert TOKEN not in message
    assert not seen.bodies
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize("way", ["option", "environment", "override", "override of the judge"])
def test_the_user_allows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    choose = import_module("sith_hf.recipe.choose")
    monkeypatch.setattr(choose, "cached_assets_path", lambda *_, **__: tmp_path / "answers")
    with chat_server(lambda prompt, _: "5") as seen:
        (tmp_path / "mine.yaml").write_text(json.dumps(data(EVIL if "override" in way else seen.url)))
        judge = json.dumps(data(seen.url)["edits"][0]["judge"])
        options = {
            "option": ("--base-url", seen.url),
            "override": ("--set", f"edits.0.judge.base_url={seen.url}"),
            "override of the judge": ("--set", f"edits.0.judge={judge}"),
        }
        if way == "environment":
            monkeypatch.setenv(SERVER_VARIABLE, seen.url)
        ran = sith("run", tmp_path / "mine.yaml", "-o", tmp_path / "out", *options.get(way, ()))
    assert ran.code == 0, ran.err
    assert {headers["authorization"] for headers in seen.headers} == {f"Bearer {TOKEN}"}
    assert not any(TOKEN.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_another_server_than_the_allowed_one_is_refused() -> None:
    recipe = _recipe(EVIL)
    with pytest.raises(InputError, match=EVIL):
        check_servers(recipe, ["https://good.example/v1"])
    check_servers(recipe, ["https://good.example/v1", EVIL])


def test_a_server_that_no_judge_asks_is_a_mistake() -> None:
    with pytest.raises(InputError, match="no effect"):
        check_servers(_recipe(None), [EVIL])
    check_servers(_recipe(None), [])


def test_overrides_name_servers_at_any_depth() -> None:
    assert named_servers([f"edits.0.judge.base_url={EVIL}", "base.model=x", "edits.0.judge.base_url=null"]) == [EVIL]
    assert named_servers([f"edits=[{{judge: {{base_url: '{EVIL}'}}}}]"]) == [EVIL]
    assert named_servers([f"title={EVIL}"]) == []


def _recipe(url: str | None) -> Recipe:
    given = data(url)
    del given["extends"]
    return Recipe.from_data(given, "here")


def test_a_push_takes_the_advice_of_its_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose = import_module("sith_hf.recipe.choose")
    monkeypatch.setattr(choose, "cached_assets_path", lambda *_, **__: tmp_path / "answers")
    with chat_server(lambda prompt, _: "5") as seen:
        (tmp_path / "mine.yaml").write_text(json.dumps(data(seen.url)))
        base = ("push-edited", "--base", embedded_checkpoint(), "--repo-id", "me/x", "--dry-run")
        push = (*base, "--recipe", tmp_path / "mine.yaml")
        assert f"--base-url {seen.url}" in refused(sith(*push))
        assert not seen.bodies
        ran = sith(*push, "--base-url", seen.url)
        assert ran.code == 0, ran.err
        assert {headers["authorization"] for headers in seen.headers} == {f"Bearer {TOKEN}"}
    assert "use it with --recipe" in refused(sith(*base, "--spec", tmp_path, "--base-url", seen.url))
