"""The MCP tools: called by a client, and what is wrong with a call."""

import asyncio
import json
import socket
from dataclasses import replace

import pytest

from sith_hf.errors import InputError
from sith_hf.explore import Explorer, launch
from sith_hf.explore.tools import Tools
from tests.support.random_decomposition import random_decomposition


@pytest.fixture(scope="module")
def explorer():
    return Explorer(random_decomposition(), "in memory")


@pytest.fixture(scope="module")
def tools(explorer):
    return Tools(explorer)


def test_search_says_what_find_does(explorer, tools):
    found = json.loads(tools.search(" beach ", limit=3))
    first = next(match for match in explorer.decomposition.find("beach", limit=None) if not match.explanation.silent)
    assert len(found["matches"]) == len(found["silent"]) == 3
    assert found["matches"][0]["words"] == [text for text, _ in first.explanation.concepts]
    assert found["matches"][0]["strength"] == pytest.approx(first.strength)
    assert "did you mean beach" in json.loads(tools.search("behch"))["problem"]


def test_explain_says_what_the_decomposition_does(explorer, tools):
    found = json.loads(tools.explain(5, 2, 1))
    for pole in found["poles"]:
        item = explorer.decomposition.explain(5, 2, 1, pole["pole"])
        assert [tuple(pair) for pair in pole["writes"]] == list(item.concepts)
        assert (pole["fidelity"], pole["p_value"], pole["silent"]) == (item.fidelity, item.p_value, item.silent)
    unknown = Tools(replace(explorer, decomposition=random_decomposition(known=False)))
    assert {pole["silent"] for pole in json.loads(unknown.explain(5, 2, 1))["poles"]} == {None}


def test_edit_chooses_vectors_and_writes_nothing(tools, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = json.loads(tools.edit(["beach"], ["bird"], gain=2.0))
    assert [(item["name"], item["gain"]) for item in found["items"]] == [("beach", 0.0), ("bird", 2.0)]
    assert found["impact"]["vectors"] == len(found["vectors"]) == sum(item["vectors"] for item in found["items"]) > 0
    assert {row["gain"] for row in found["vectors"]} <= {0.0, 2.0}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("search", {"concept": " "}),
        ("search", {"concept": "x" * 1000}),
        ("search", {"concept": "beach", "limit": 0}),
        ("search", {"concept": "beach", "limit": 10**6}),
        ("explain", {"layer": 4, "head": 0, "vector": 0}),
        ("explain", {"layer": 3, "head": 0, "vector": -1}),
        ("search", {"concept": ["beach"]}),
        ("edit", {"suppress": [], "amplify": []}),
        ("edit", {"suppress": "beach", "amplify": []}),
        ("edit", {"suppress": [None], "amplify": []}),
        ("edit", {"suppress": ["beach"], "amplify": ["Beach "]}),
        ("edit", {"suppress": ["beach"], "amplify": ["bird"], "gain": float("nan")}),
    ],
)
def test_a_wrong_call_is_an_error(tools, name, values):
    with pytest.raises(InputError):
        getattr(tools, name)(**values)


def test_a_client_sees_exactly_three_documented_tools(explorer):
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = launch(explorer, port=port, mcp=True, wait=False)

    async def ask():
        async with (
            streamablehttp_client(f"http://127.0.0.1:{port}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            listed = (await session.list_tools()).tools
            answer = await session.call_tool("explain", {"layer": 3, "head": 1, "vector": 0})
            wrong = await session.call_tool("explain", {"layer": 4, "head": 1, "vector": 0})
            edit = await session.call_tool("edit", {"suppress": ["beach"], "amplify": []})
            return listed, answer, wrong, edit

    try:
        listed, answer, wrong, edit = asyncio.run(ask())
    finally:
        served.close()
    described = {tool.name: tool for tool in listed}
    assert set(described) == {"search", "explain", "edit"}
    for tool in listed:
        assert len(tool.description) > 60
        assert all(item.get("description") for item in tool.inputSchema["properties"].values())
    assert answer.content[0].text == Tools(explorer).explain(3, 1, 0)
    assert wrong.isError
    assert "layer 4 was not decomposed" in wrong.content[0].text
    assert json.loads(edit.content[0].text)["impact"]["vectors"] > 0
