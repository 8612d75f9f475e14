"""The grammar of a score in a language model's answer.

An answer is read in four steps, each a table below:

1. ``REASONING`` is removed: whole blocks, everything up to a closing mark without its opening mark, and everything
   before the final channel. An opening mark that is left means that the answer was cut off: no score.
2. JSON objects in the rest: the value of the key ``score`` or ``rating``, at any depth, or else of a key that ends in
   one of them. Also a JSON list, if there is nothing else.
3. ``CLAIMS``: every "Score: 4", "Rating = 4/5", "I would rate this 4" and "\\boxed{4}", and the column of a table.
4. Without JSON and claims, a line that holds a number and nothing else.

All scores that are found must be the same whole number from 1 to 5. Anything else is no score, because its meaning
would be a guess: another number, a range, a fraction, two different scores, a negated score, or a second thought.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from itertools import islice
from typing import Any

# A longer answer is no score; the transcript has its beginning.
MAX_CHARACTERS = 100_000
# JSON objects of an answer that are read, and claims of a score. An answer with more claims repeats itself: no score.
MOST_OBJECTS, MOST_CLAIMS = 20, 100
# Longer than any form of a negation.
_BEFORE = 200

# Dashes, quotation marks and spaces of every form.
_SAME = {0xA0: " ", 0x2212: "-", **dict.fromkeys(range(0x2010, 0x2016), "-")}
# Zero-width characters, what makes an emoji of a digit, and pictures beside a number.
_SAME |= dict.fromkeys((0x200B, 0xFE0F, 0x20E3, *map(ord, "★☆⭐✅✔👍")), "")
_SAME[ord("→")] = "->"
_SAME |= {ord(c): '"' for c in "'\u2018\u2019\u201c\u201d\u201e"}
_WORDS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
_NAMES = r"(?:seed:|ant\w*:)?(?:think|thinking|thought|thoughts|reason|reasoning|reflection|analysis|scratchpad)"

# Opening and closing marks of a thought, by family of chat template.
OPENING = re.compile(
    rf"<{_NAMES}>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|START_THINKING\|>|<unused94>|<\|channel>thought",
    re.IGNORECASE,
)
CLOSING = re.compile(
    rf"</{_NAMES}>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|END_THINKING\|>|<unused95>|<channel\|>", re.IGNORECASE
)
# Channels of a model: only the text of the last final one is the answer. Without special tokens the names remain.
CHANNEL = re.compile(r"<\|channel\|>|\A\s*(?:assistant)?analysis(?=\S.*assistantfinal)", re.DOTALL)
FINAL = re.compile(r"<\|channel\|>\s*final\b[^<]*(?:<\|constrain\|>\w+)?<\|message\|>|assistantfinal")
# Special tokens, fences and tags around an answer mean nothing.
WRAPPING = re.compile(r"<\|[\w \u2581]{1,40}\|>|</\w{1,20}>|<(?:answer|output|response|final)>|```[ \t]*\w*")
# LaTeX around a number or text, brackets around a number alone, and the comma that JSON has not.
_LATEX = re.compile(r"\\(?:text|textbf|mathbf|mathrm)\s*\{([^{}]*)\}|\\[()\[\]]|\$")
_BRACKETS = re.compile(r"(?<![\w}])(?:<(\d[/\d ]*)>|\[(\d[/\d ]*)\]|\((\d[/\d ]*)\)|\{(\d[/\d ]*)\})(?!\w)")
_COMMA = re.compile(r",(?=\s*[}\]])")

# The scale is not a score.
SCALE = re.compile(
    r"[(\[][^()\n]{0,30}\b1\s*(?:-|to)\s*5\b[^()\n]{0,30}[)\]]|(?:scale|range)\s+(?:of|from)?\s*1\s*(?:-|to)\s*5"
    r"|from\s+1\s+to\s+5|\b1\s*(?:-|to)\s*5\s+scale|\(\s*(?:out\s+)?of\s+5\s*\)",
    re.IGNORECASE,
)

_NUMBER = r"(?:[-+~<>≥≤≈]\s*)?(?:\d+(?:[.,]\d+)?|one\b|two\b|three\b|four\b|five\b)"
_LINK = r"\s*(?:-|/|to|or|and|vs\.?|out\s+of|of)\s*"
# A number, or numbers that belong together: 4, 4/5, 4 out of 5, 3-4, between 3 and 4, 3.5.
_VALUE = rf"(?P<value>(?:between\s+|from\s+)?{_NUMBER}(?:{_LINK}{_NUMBER})*)"
_LABEL = (
    r"(?:score|rating|grade|answer|puntuación|calificación|bewertung|punktzahl|оценка|الدرجة|التقييم|评分|得分|分数|評分"
    r"|スコア|点数|점수|평점)"
)
# The forms of a claim, before its value.
CLAIMS = tuple(
    re.compile(form + _VALUE, re.IGNORECASE)
    for form in (
        rf"\b{_LABEL}(?:\s+for\s+(?:[a-z]+\s+){{1,6}}?)?\s*\"?\s*"
        r"(?:[:=|]|->|=>|-(?=\s)|\bis|\bof|\b(?:would|will|to)\s+be)\s*[:|]?\s*\"?\s*(?:an?\s+)?",
        rf"(?:^|\n)[ \t#>]*(?:[\w-]+[ ]){{0,3}}{_LABEL}(?:[ \t]+|[ \t]*\n[ \t]*)(?=\w)",
        r"\b(?:rate|rated|rating|give|assign|score|scored)\s+(?:(?:it|this|these|that|them|the|direction|texts?|list|as|at"
        r"|is|an?|with|to|score|rating|of)\s+){0,6}(?=\w)",
        r"\\boxed\s*\{\s*",
        r"<(?:[\w-]{0,20}_)?(?:score|rating)>\s*",
    )
)
# What may follow the value of a claim; its clause ends there.
_END = re.compile(
    r"\"?\s*(?:$|[\n.!;()\]}|分点점]|</|,(?:\s|$)|-\s|(?:stars?|points?|because|since|as|for|due|on)\b)", re.IGNORECASE
)
_PLAIN = re.compile(rf"({_NUMBER})(?:\s*(?:/|out\s+of|of)\s*(?:5|five))?", re.IGNORECASE)
_ALONE = re.compile(rf"[ \t\"]*{_VALUE}[ \t\"]*(?:stars?|points?)?[.!]?[ \t]*", re.IGNORECASE)
_ROW = re.compile(r"^[ \t]*\|(.*)\|[ \t]*$", re.MULTILINE)
# A number after one of these is a second thought.
_DOUBT = re.compile(
    rf"\b(?:or|maybe|perhaps|possibly|rather|actually|wait|instead|correction|(?:could|might)\s+be|reflection|thoughts?)\b\W+"
    rf"(?:\w+\W+){{0,3}}?{_NUMBER}",
    re.IGNORECASE,
)
_NEGATION = re.compile(
    r"\b(?:not|never|cannot|neither|nor|\w+n\"t)\b[^.\n]{0,40}$|\b(?:if|unless)\b[^.\n]{0,80}$", re.IGNORECASE
)
_OF_MORE = re.compile(r"\s*\(\s*(?:out\s+of|of|/)\s*\d", re.IGNORECASE)
_KEY = re.compile(r"(?:.*[\s_-])?(score|rating)", re.IGNORECASE | re.DOTALL)
_NO_KEY = re.compile(r"max|min|scale|highest|lowest|possible|confidence", re.IGNORECASE)


def parse(answer: str) -> int | None:
    """Return the score of an answer, 1 to 5, or None for an answer without exactly one (see the module's text)."""
    if len(answer) > MAX_CHARACTERS:
        return None
    text = _conclusion(_plain(answer))
    if text is None:
        return None
    rest, values = _without_json(text)
    found = {*values, *_claimed(rest), *_tabled(rest)} or set(_alone(rest))
    return found.pop() if len(found) == 1 else None


def _plain(answer: str) -> str:
    """Write digits of every script and full-width forms in ASCII, with single spaces, and drop emphasis."""
    plain = []
    for character in answer:
        if "\uff01" <= character <= "\uff5e":
            character = chr(ord(character) - 0xFEE0)
        elif not character.isascii() and unicodedata.category(character) == "Nd":
            character = str(unicodedata.digit(character))
        plain.append(character)
    lines = "".join(plain).translate(_SAME).splitlines()
    # The forms below need time that grows with the square of a run of spaces.
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(" ".join(line.split()) for line in lines))
    return re.sub(r"\*+|`(?!``)(?<!``)|(?<!\w)_+|_+(?!\w)", "", text)


def _conclusion(text: str) -> str | None:
    """Return the text behind all reasoning; None if the answer was cut off in it."""
    if CHANNEL.search(text):
        text = FINAL.split(text)[-1] if FINAL.search(text) else "<think>"
    opened = OPENING.search(text)
    while opened and (closed := CLOSING.search(text, opened.end())):
        text = text[: opened.start()] + "\n" + text[closed.end() :]
        opened = OPENING.search(text)
    for closed in reversed([*CLOSING.finditer(text)]):
        text = text[closed.end() :]
        break
    if OPENING.search(text):
        return None
    text = SCALE.sub(" ", WRAPPING.sub("\n", text))
    for form in (_LATEX, _BRACKETS, _COMMA):
        text = form.sub(lambda found: found[found.lastindex] if found.lastindex else "", text)
    return text.strip()


def _without_json(text: str) -> tuple[str, list[int | None]]:
    """Return a text without its JSON objects, and their scores; a list counts if it is all of the text."""
    rest, values, start = text, [], 0
    for _ in range(MOST_OBJECTS):
        opened = re.compile(r"\A\[|{").search(rest, start)
        if opened is None:
            break
        try:
            data, end = json.JSONDecoder().raw_decode(rest, opened.start())
        except (ValueError, RecursionError):
            start = opened.end()
            continue
        if isinstance(data, list) and end == len(rest) and not any(isinstance(item, (dict, list)) for item in data):
            values += [_json_value(item) for item in data]
        values += _scores(data)
        rest, start = rest[: opened.start()] + "\n" + rest[end:], opened.start()
    return rest, values


def _scores(data: Any) -> list[int | None]:
    """Return the values of the keys of a score, at any depth."""
    pairs = [(key.strip(), value) for key, value in _pairs(data) if not isinstance(value, (dict, list))]
    exact = [value for key, value in pairs if key.casefold() in ("score", "rating")]
    named = [value for key, value in pairs if _KEY.fullmatch(key) and not _NO_KEY.search(key)]
    return [_json_value(value) for value in exact or named]


def _pairs(data: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield key, value["value"] if isinstance(value, dict) and "value" in value else value
    for item in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from _pairs(item)


def _json_value(value: Any) -> int | None:
    if isinstance(value, str):
        return _number(value.strip())
    return _number(repr(value)) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _claimed(text: str) -> list[int | None]:
    """Return the value of every claim, None for one that is not clear."""
    claims = [found for form in CLAIMS for found in islice(form.finditer(text), MOST_CLAIMS + 1)]
    return [None] if len(claims) > MOST_CLAIMS else [_clear(text, found) for found in claims]


def _clear(text: str, found: re.Match[str]) -> int | None:
    after = text[found.end() :]
    if (
        not _END.match(after)
        or _OF_MORE.match(after)
        or _DOUBT.search(after)
        or _NEGATION.search(text[max(0, found.start() - _BEFORE) : found.start()])
    ):
        return None
    clause = re.split(r"[.;(\n]|\b(?:because|since|as|due)\b", after, maxsplit=1)[0]
    return None if re.search(r"\d", clause) else _number(found["value"])


def _tabled(text: str) -> list[int | None]:
    """Return the cells below the title of a column of scores, in a table of Markdown."""
    rows = [[cell.strip() for cell in row.split("|")] for row in _ROW.findall(text)]
    columns = [number for number, cell in enumerate(rows[0]) if _KEY.fullmatch(cell)] if rows else []
    body = [row for row in rows[1:] if not all(re.fullmatch(r":?-+:?", cell) for cell in row)]
    return [_number(row[number]) if number < len(row) else None for row in body for number in columns]


def _alone(text: str) -> list[int | None]:
    """Return the numbers that stand on a line of their own."""
    return [_number(found["value"]) for line in text.splitlines() if (found := _ALONE.fullmatch(line))]


def _number(text: str) -> int | None:
    """Return the score that a value says, such as 4, 4.0, 4/5 or four; None for any other."""
    found = _PLAIN.fullmatch(text)
    if found is None:
        return None
    word = found[1].casefold()
    if word in _WORDS:
        return _WORDS[word]
    try:
        value = float(word.replace(",", "."))
    except ValueError:
        return None
    return int(value) if value.is_integer() and 1 <= value <= 5 else None
