"""Serving the page: who may ask, what happens to uploads, and addresses that cannot be used."""

from __future__ import annotations

import json
import os
import socket
import sys
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from sith_hf.errors import InputError, MissingExtra
from sith_hf.explore import Explorer, check_address, is_loopback, launch
from tests.support.served import free_port

pytest_plugins = ["tests.support.explored"]
pytest.importorskip("gradio")

FORM = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\npicture\r\n--x--\r\n'


def asked(url, data=None, **headers):
    """The status and body of an answer."""
    request = urllib.request.Request(url, data, {name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.fixture(scope="module")
def page(without_model):
    with launch(without_model, port=free_port(), wait=False) as served:
        yield served


class TestWhoMayAsk:
    @pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]"])
    def test_the_names_of_this_machine_are_answered(self, page, name):
        port = page.url.rpartition(":")[2]
        assert asked(f"{page.url}/sith/pulse", Host=f"{name}:{port}", Origin=f"http://{name}:{port}")[0] == 200

    def test_an_ipv6_address_of_this_machine_is_served(self, without_model):
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("this machine has no IPv6")
        with launch(without_model, host="::1", port=free_port(), wait=False) as served:
            assert served.url.startswith("http://[::1]:")
            assert asked(f"{served.url}/sith/pulse")[0] == 200
            assert asked(served.url, Host="evil.com")[0] == 400

    @pytest.mark.parametrize("host", ["evil.com", "127.0.0.1.evil.com", "0.0.0.0", ""])
    def test_another_name_is_refused(self, page, host):
        assert asked(page.url, Host=host)[0] == 400

    @pytest.mark.parametrize("origin", ["http://evil.com", "null", "http://127.0.0.1:1", "https://localhost"])
    def test_a_page_of_another_site_is_refused(self, page, origin):
        assert asked(page.url, Origin=origin)[0] == 403
        form = {"Content_Type": "multipart/form-data; boundary=x"}
        assert asked(f"{page.url}/gradio_api/upload", FORM, Origin=origin, **form)[0] == 403

    def test_there_is_no_page_of_the_api(self, page):
        assert [asked(f"{page.url}/{name}")[0] for name in ("docs", "redoc", "openapi.json")] == [404] * 3


class TestServing:
    def test_only_the_three_tools_are_called_by_other_programs(self, page):
        told = json.loads(asked(f"{page.url}/gradio_api/info")[1])
        assert sorted(told["named_endpoints"]) == ["/edit", "/explain", "/search"]
        assert told["unnamed_endpoints"] == {}

    def test_uploads_are_deleted_in_the_end(self, without_model):
        before = os.environ.get("GRADIO_TEMP_DIR")
        with launch(without_model, port=free_port(), wait=False) as served:
            answer = asked(f"{served.url}/gradio_api/upload", FORM, Content_Type="multipart/form-data; boundary=x")
            kept = Path(json.loads(answer[1])[0])
            assert kept.read_bytes() == b"picture"
        assert not kept.exists()
        assert not kept.parents[1].exists()
        assert os.environ.get("GRADIO_TEMP_DIR") == before

    def test_the_page_says_what_is_missing(self, page):
        _, html = asked(page.url)
        assert b"start again with --model" in html.lower()

    def test_a_changed_or_deleted_folder_is_said_and_nothing_else_changes(self, with_model, tmp_path):
        path = with_model.decomposition.save_pretrained(tmp_path)
        with launch(Explorer.open(tmp_path), port=free_port(), wait=False) as served:
            assert json.loads(asked(f"{served.url}/sith/pulse")[1])["notice"] is None
            path.unlink()
            assert "was deleted" in json.loads(asked(f"{served.url}/sith/pulse")[1])["notice"]
            with_model.decomposition.save_pretrained(tmp_path)
            assert "has changed on disk" in json.loads(asked(f"{served.url}/sith/pulse")[1])["notice"]
            assert asked(served.url)[0] == 200

    def test_another_machine_reads_no_path_that_it_names(self, without_model, monkeypatch):
        module = sys.modules["sith_hf.explore.launch"]
        shown = []
        build = module.build_app
        monkeypatch.setattr(module, "build_app", lambda explorer: shown.append(explorer) or build(explorer))
        for host in ("0.0.0.0", "127.0.0.1"):
            launch(without_model, host=host, port=free_port(), wait=False).close()
        assert [explorer.local for explorer in shown] == [False, True]

    def test_without_gradio_the_message_names_the_extra(self, without_model, monkeypatch):
        monkeypatch.delitem(sys.modules, "sith_hf.explore.app", raising=False)
        monkeypatch.setitem(sys.modules, "gradio", None)
        with pytest.raises(MissingExtra, match=r"sith-hf\[explore\]"):
            launch(without_model, port=free_port(), wait=False)


class TestAddress:
    def test_a_port_in_use_is_refused_and_a_free_one_named(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(InputError, match=f"port {port} is in use: choose another, such as --port ") as refused:
                check_address("127.0.0.1", port)
            check_address("127.0.0.1", int(str(refused.value).rpartition(" ")[2]))

    @pytest.mark.parametrize("host", ["192.0.2.1", "a" * 80])
    def test_a_host_of_another_machine_is_refused(self, host):
        with pytest.raises(InputError, match="is no address of this machine"):
            check_address(host, free_port())

    @pytest.mark.parametrize("port", [0, -1, 65536, 1.5, True])
    def test_a_port_is_a_number_of_a_port(self, port):
        with pytest.raises(InputError, match="the port"):
            check_address("127.0.0.1", port)

    def test_what_only_this_machine_reaches(self):
        ours = ["127.0.0.1", "127.8.8.8", "::1", "localhost"]
        others = ["0.0.0.0", "::", "192.168.0.1", "example.com", "127.0.0.1.com"]
        assert [host for host in (*ours, *others) if is_loopback(host)] == ours


class TestExplorer:
    def test_a_page_that_others_reach_says_no_folder_of_this_machine(self, with_model, tmp_path):
        path = with_model.decomposition.save_pretrained(tmp_path / "found")
        here = Explorer.open(tmp_path / "found")
        there = replace(here, local=False)
        path.unlink()
        assert str(here.notice()).startswith(f"{tmp_path / 'found'} was deleted")
        assert str(there.notice()).startswith("found was deleted")

    def test_a_model_of_other_weights_is_loaded_once_and_refused_each_time(self, with_model, checkpoints, monkeypatch):
        other = replace(with_model, model=str(checkpoints.base(seed=9)))
        assert other.notice() is None
        from sith_hf.editor import SithEditor

        loaded, load = [], SithEditor.from_pretrained
        monkeypatch.setattr(SithEditor, "from_pretrained", lambda *a, **k: loaded.append(a) or load(*a, **k))
        for _ in range(2):
            with pytest.raises(InputError, match="the model does not belong to this decomposition"):
                other.editor  # noqa: B018
        assert len(loaded) == 1
        assert str(checkpoints.base(seed=9)) in str(other.notice())

    def test_a_path_that_does_not_exist_is_refused_at_the_start(self, with_model, tmp_path):
        with_model.decomposition.save_pretrained(tmp_path)
        for named in ({"model": "./nowhere"}, {"images": "/no/where/x"}):
            with pytest.raises(InputError, match="no file or folder has this name"):
                Explorer.open(tmp_path, **named)
