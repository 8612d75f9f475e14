"""``sith-hf explore``: what it prints, how it stops, and command lines that it refuses."""

from __future__ import annotations

import socket

import pytest

from tests.support.cli import refused, sith
from tests.support.served import free_port

pytest.importorskip("gradio")


def test_the_address_comes_first_and_stopping_leaves_nothing(work, tmp_path, monkeypatch):
    from sith_hf.explore import Served

    def interrupt(page):
        raise KeyboardInterrupt

    monkeypatch.setattr(Served, "wait", interrupt)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    port = free_port()
    ran = sith("explore", work / "d", "--port", port)
    assert ran.out.splitlines() == [f"http://127.0.0.1:{port} shows {work / 'd'}; Ctrl-C stops it"]
    assert ran.code == 130
    assert not list(tmp_path.iterdir())
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_other_machines_are_warned_of(work, monkeypatch):
    from sith_hf.explore import Served

    monkeypatch.setattr(Served, "wait", lambda page: None)
    port = free_port()
    ran = sith("explore", work / "d", "--port", port, "--host", "0.0.0.0")
    assert ran.code == 0
    assert f"everyone who reaches port {port} of this machine can use this page" in ran.err


def test_a_port_in_use_is_refused_before_anything_is_read(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} is in use" in refused(sith("explore", tmp_path / "nowhere", "--port", port))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("{work}/nowhere",), "no file or folder has this name"),
        (("{work}/clip",), "holds no decomposition.safetensors"),
        (("{work}/spec",), "holds no decomposition.safetensors"),
        (("{work}/d", "--model", "./nowhere"), "no file or folder has this name"),
        (("{work}/d", "--dry-run"), "--dry-run needs --space"),
        (("{work}/d", "--json", "--private"), "--json, --private needs --space"),
        (("{work}/d", "--space", "me/x", "--port", "7999"), "--port does not go with --space"),
        (("{work}/d", "--space", "no id", "--dry-run"), "use namespace/name"),
        (("{work}/d", "--space", "me/x", "--dry-run", "--images", "{work}"), "is on this machine"),
        (("{work}/d", "--space", "me/x"), "offline mode is on"),
    ],
)
def test_command_lines_that_cannot_work_are_refused(refuses, words, named):
    port = () if "--space" in words else ("--port", str(free_port()))
    refuses(("explore", *words, *port), named)


def test_a_dry_run_lists_every_file_with_its_size(work):
    ran = sith("explore", work / "d", "--space", "me/x", "--dry-run", "--json")
    assert ran.code == 0
    sent = ran.data["space"]["sent"]
    assert sorted(sent) == ["README.md", "app.py", "requirements.txt", "sith/space.json"]
    assert sent["app.py"] > 50
    assert ran.data["dataset"]["sent"]["decomposition.safetensors"] > 1000
