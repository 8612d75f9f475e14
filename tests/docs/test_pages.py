"""Every block of Python and shell of the documentation runs, on small models, in the folder of a fresh reader."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.test_docs import PAGES, ROOT
from tests.support.hub import Hub, client_env
from tests.support.pages.blocks import SHELL, Block, blocks, commands, words
from tests.support.pages.exempt import EXEMPT, exemption, script
from tests.support.pages.given import Given, hub_model
from tests.support.pages.run import ABSENT, CHEAPER, TAKES, run_page

# The models of the Hub that pages name, all played by one small one.
MODELS = ("openai/clip-vit-large-patch14", "openai/clip-vit-base-patch32")
README = ROOT / "README.md"


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """The outcomes of every page, run one after the other in a process with a Hub of its own; and what was pushed."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "home").mkdir()
    model = {path.name: path.read_bytes() for path in hub_model(folder / "model").iterdir()}
    with Hub() as hub:
        for name in MODELS:
            hub.seed(name, model)
        ran = subprocess.run(
            [sys.executable, "-m", "tests.support.pages.run", str(folder / "run"), *map(str, PAGES)],
            env=client_env(hub, folder / "home", hub.token),
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr[-4000:]
        assert not hub.errors
        pushed = {name: set(repo.resolve("main").files) for (_, name), repo in hub.store.repos.items()}
    return [json.loads(line) for line in ran.stdout.splitlines()], pushed


def shell() -> list[str]:
    """Every command of the pages."""
    found = [block for page in PAGES for block in blocks(page) if block.language in SHELL]
    return [command for block in found for _, command in commands(block)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_of_a_page_runs(read, page):
    outcomes = [one for one in read[0] if one["page"] == name_of(page)]
    assert [f"{one['page']}:{one['line']}: {one['problem']}" for one in outcomes if one["problem"]] == []
    code = [block for block in blocks(page) if block.language in (*SHELL, "python", "py")]
    assert len({one["line"] for one in outcomes}) >= len(code)


def test_the_readme_is_short_and_publishes(read):
    (code,) = [block.text for block in blocks(README) if block.language == "python"]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    (name,) = re.findall(r'push_to_hub\("([^"]+)"', code)
    assert {"README.md", "model.safetensors", "sith/edit_spec.safetensors"} <= read[1][name]


def test_exceptions_are_few_and_each_is_needed():
    lines = shell()
    assert len(EXEMPT) <= 12
    for each in EXEMPT:
        assert any(each.matches(line) for line in lines), f"no page has {each.pattern}: remove the exception"
    assert sum(exemption(line) is not None for line in lines) < len(lines) / 2
    for pattern, _ in CHEAPER:
        assert any(re.search(pattern, line) for line in lines), f"no page has {pattern}"
    for name in ABSENT:
        assert importlib.util.find_spec(name) is None, f"{name} is installed: run its code"
    for page, names in TAKES.items():
        text = (ROOT / page).read_text(encoding="utf-8")
        assert [name for name in names if name not in text] == [], page


BROKEN = {
    "python": ("x = 1\n\ny = z", 3, "NameError"),
    "python syntax": ("x = = 1", 1, "SyntaxError"),
    "python exit": ("import sys\nsys.exit(2)", 1, "ended with 2"),
    "console option": ("sith-hf recipes\nsith-hf recipes --colour red", 2, "--colour"),
    "console input": ("sith-hf show nowhere", 1, "nowhere"),
    "console bash": ("true && false", 1, "ended with 1"),
    "console pipe": ("false | cat", 1, "ended with 1"),
    "console unknown": ("no-such-command now", 1, "no-such-command"),
    "console make": ("make tea", 1, "no target tea"),
    "console extra": ('pip install "sith-hf[tea]"', 1, "no extra tea"),
    "console other package": ("pip install tea", 1, "not this package"),
    "console torchrun option": ("torchrun --tea 2 -m sith_hf run demo -o out", 1, "torchrun"),
    "console torchrun recipe": ("OMP_NUM_THREADS=1 torchrun -m sith_hf run tea -o out", 1, "tea"),
    "console torchrun command": ("torchrun -m sith_hf tea", 1, "tea"),
    "console hf command": ("hf jobs tea", 1, "tea"),
    "console hf option": ("hf jobs run --tea 2 python:3.12 python", 1, "--tea"),
    "console benchmark option": ("python benchmarks/truth.py x \\\n  --tea", 1, "ended with 2"),
    "console benchmark": ("python benchmarks/tea.py", 1, "no benchmarks/tea.py"),
    "console tests": ("pytest -q tests/tea", 1, "tests/tea"),
    "console explore": ("sith-hf explore x --tea", 1, "--tea"),
    "console judge": ("sith-hf judge x --by language-model --tea", 1, "--tea"),
    "console paper": ("sith-hf run paper/tea -o out", 1, "paper/tea"),
    "yaml": ("a: [1", 1, "Error"),
    "yaml recipe": ("extends: demo\ntea: 1", 1, "tea"),
    "fortran": ("print *", 1, "fortran"),
    "": ("text", 1, "no language"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_block_is_found_with_its_line(kind, tmp_path):
    text, line, complaint = BROKEN[kind]
    page = tmp_path / "page.md"
    page.write_text(
        f"# Page\n\nText.\n\n```{kind.partition(' ')[0]}\n{text}\n```\n\n```python\nlater = 1\n```\n", "utf-8"
    )
    (tmp_path / "in").mkdir()
    last = run_page(page, "page.md", tmp_path / "in")[-1]
    assert last.problem is not None
    assert complaint in last.problem
    assert last.line == 5 + line or f"line {5 + line}:" in last.problem


SOUND = """\
A file `shown.json`:

```json
[1]
```

- In a list:

  ```python
  import json

  found = json.load(open('shown.json'))
  ```

```python
assert found == [1]
```

```console
$ echo "two
lines" > made.txt
what it prints: false
$ grep lines \\
  made.txt
```

```text
false
```
"""


def test_a_sound_page_has_no_problem(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(SOUND, "utf-8")
    found = run_page(page, "page.md", tmp_path)
    assert [(one.line, one.how, one.problem) for one in found] == [
        (4, "data", None), (10, "python", None), (16, "python", None), (20, "bash", None), (23, "bash", None),
    ]  # fmt: skip
    assert (tmp_path / "made.txt").read_text() == "two\nlines\n"


def test_commands_are_told_from_comments_and_prompts():
    block = Block(10, "console", "# comment\na b  # c\n\nx \\\n  -y\necho 'p\nq' |\ncat\n", "")
    assert list(commands(block)) == [(11, "a b  # c"), (13, "x \\\n  -y"), (15, "echo 'p\nq' |\ncat")]


def test_what_pages_take_for_granted_is_made(tmp_path):
    given = Given(tmp_path / "keep")
    names = {name for taken in TAKES.values() for name in taken}
    assert names <= given.makers.keys()
    assert given.makers.keys() <= names | {"MODEL"}


def benchmarks() -> list[str]:
    """The calls of benchmarks within the text of pages."""
    texts = (re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL) for page in PAGES)
    found = (re.sub(r"\s+", " ", call) for text in texts for call in re.findall(r"`(python benchmarks/[^`]+)`", text))
    # A capital letter stands for a number.
    return sorted({re.sub(r" [A-Z](?= |$)", " 1", call) for call in found if "..." not in call})


def test_benchmarks_named_in_texts_take_these_arguments():
    calls = benchmarks()
    assert len(calls) > 10
    assert [(call, problem) for call in calls if (problem := script(words(call)))] == []
