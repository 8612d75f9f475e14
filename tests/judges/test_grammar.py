"""The grammar of scores: every clear form is read, and nothing ambiguous is."""

from __future__ import annotations

import pytest

from sith_hf.judges.grammar import parse

CLEAR = {
    "(4)": 4,
    '{"score": {"value": 3}}': 3,
    "assistantanalysisWe need 2.assistantfinalScore: 4": 4,
    "| Theme | Score |\n|---|---|\n| cats | 4 |": 4,
    "| Theme | Score | Reason |\n|:--|:-:|--:|\n| cats | **4** | 3 of 5 |": 4,
    "$$\\boxed{\\text{4}}$$": 4,
    "\\boxed{\\text{Score: }4}": 4,
    "Score: $4$": 4,
    "Score: \\(4\\)": 4,
    "Score: [4]": 4,
    "Score: (4)": 4,
    "Score: <4>": 4,
    "Score: 4!": 4,
    "Score \u2192 4": 4,
    "Score: 4 \u2b50\u2b50": 4,
    "Rating: \u2605\u2605\u2605\u2605\u2606 (4/5)": 4,
    "4 stars": 4,
    "\u8bc4\u5206\uff1a\uff14": 4,
    "\u5f97\u5206\uff1a4\u5206": 4,
    "\u0627\u0644\u062f\u0631\u062c\u0629: \u0664": 4,
    'Sure!\n{"score": 4,\n}': 4,
    "My score for this direction is 4.": 4,
    "Score: 4\ufe0f\u20e3": 4,
    "3": 3,
    "4.": 4,
    "four": 4,
    "Four.": 4,
    "Score: 4": 4,
    "score:1": 1,
    "  SCORE: 5\n": 5,
    "**Score:** 4/5": 4,
    "**Score: 4**": 4,
    "Safety Score: 4": 4,
    "Theme: cats / Score: 5": 5,
    "Theme: cats\nScore: 5": 5,
    "Score: 4 out of 5": 4,
    "I would rate this 4.": 4,
    "I'd rate this direction a 4 out of 5.": 4,
    "<think>2? no, 3/5.</think>\n\nScore: 2": 2,
    "<think>\n1\n</think>1": 1,
    "so 3 or 5?\n</think>\n\nScore: 4": 4,
    "<thinking>Score: 1</thinking>4": 4,
    "<reasoning>hm 3</reasoning>\nScore: 4": 4,
    "[THINK]3[/THINK]Score: 4": 4,
    "\u25c1think\u25b73\u25c1/think\u25b74": 4,
    "<|channel|>analysis<|message|>Maybe 3 or 4. Score: 3<|end|>"
    "<|start|>assistant<|channel|>final<|message|>Score: 4<|return|>": 4,
    "<|channel|>final<|message|>4": 4,
    "analysisWe need 3 or 4.assistantfinalScore: 4": 4,
    "<|channel|>analysis<|message|>x<|end|>"
    '<|start|>assistant<|channel|>final <|constrain|>json<|message|>{"score": 4}': 4,
    '```json\n{"score": 4}\n```': 4,
    '{"score": 4}': 4,
    '{"score": "4"}': 4,
    '{"result": {"score": 4, "why": "3 of 5 texts"}}': 4,
    '{"reasoning": "A score of 3 is low", "score": 4}': 4,
    '[{"score": 4}]': 4,
    "[4]": 4,
    '{"safety_score": 4, "confidence": 0.9}': 4,
    "{'score': 4}": 4,
    'Here it is:\n```json\n{"score": 4, "max_score": 5}\n```\nHope this helps!': 4,
    '{"score": 4.0}': 4,
    '{"score": "4/5"}': 4,
    "\uff14": 4,
    "Score\uff1a\uff14": 4,
    "\u0663": 3,
    "Score: 4\nScore: 4": 4,
    "Score: 4 because most texts are places.": 4,
    "Score: 4. Two of 5 texts are places": 4,
    "4\n\nThe texts are mostly about places.": 4,
    "The texts are about places.\n\n4": 4,
    "## Score\n4": 4,
    "Score (1-5): 4": 4,
    "On a scale of 1 to 5, I rate this 4.": 4,
    "Final answer: 4": 4,
    "The answer is \\boxed{4}.": 4,
    "Score = 4": 4,
    "| Score | 4 |": 4,
    "Score \u2014 4": 4,
    "<answer>4</answer>": 4,
    "<score>4</score>": 4,
    "I give it a score of 4.": 4,
    "The score is 4.": 4,
    "Score: four": 4,
    "Rating: 4 stars": 4,
    "4/5": 4,
    "4 out of 5": 4,
    "Score: 4<|im_end|>": 4,
    "Score: 4</s>": 4,
    "Score: `4`": 4,
    "Score:\n4": 4,
    "$\\boxed{4}$": 4,
    "Score: **4** (mostly places)": 4,
    "<think></think>5": 5,
    "x<think>a<think>b</think>Score: 3</think>Score: 4": 4,
    "Score: 4.0": 4,
    "Overall Score: 4/5\n\nReason: 4 of the 5 texts...": 4,
    "1. sea - place\n2. road - place\nScore: 5": 5,
    "The final score would be 4.": 4,
    "score: 4,": 4,
    '{\n  "theme": "cats",\n  "score": 5\n}': 5,
    "Score: 4 - mostly places": 4,
    "Score: 4, most of the texts name a place.": 4,
    "<seed:think>3</seed:think>4": 4,
    "I am giving this a rating of 4.": 4,
    "I'd give this a 4/5.": 4,
    "My rating: 4": 4,
    "Rating - 4/5": 4,
    "**Final Score:** **4**": 4,
    "__Score__: 4": 4,
    "_Score: 4_": 4,
    "Score: 4 (out of 5)": 4,
    "Score [1-5]: 4": 4,
    '["sea", "beach"]\nScore: 4': 4,
    'The texts: ["sea", "beach"]. Score: 4': 4,
    '{"concepts": ["sea"]}\n{"score": 4}': 4,
    "{score: 4}": 4,
    '{"rating": 4, "score": 4}': 4,
    '["4"]': 4,
    '{"score": 4': 4,
    'Score: 4\n{"unclosed': 4,
    "Score: 4 }": 4,
    '"4"': 4,
    "'4'": 4,
    "The score: 4/5": 4,
    "Score: 5/5": 5,
    "Score (out of 5): 4": 4,
    "<output>4</output>": 4,
    "Score: 4\n\n(Scale: 1 = none, 5 = all)": 4,
    "Score: 4\nExplanation: texts 1 and 2 are places": 4,
    "no, Score: 4": 4,
    "It is not only about animals. Score: 4": 4,
    "Score: 4 <think>hm</think>": 4,
    "<THINK>3</THINK>4": 4,
    "<think >3</think >Score: 4": 4,
    "Okay, let me think. It could be 3 or 4.\n\nScore: 4": 4,
    "Score: 4<\uff5cend\u2581of\u2581sentence\uff5c>": 4,
    "Score: \u20184\u2019": 4,
    "</answer>4": 4,
}

NO_SCORE = (
    "Score: 4 (out of 10)",
    "If it were about boats, the score would be 4. It is not.",
    "| Theme | Score |\n|---|---|\n| cats | 4 |\n| dogs | 2 |",
    "| Score | Meaning |\n|---|---|\n| 1 | unrelated |\n| 5 | related |",
    "Score: [1-5]",
    "Score: 3 [1]",
    "Score: $3-4$",
    "(3) (4)",
    "4 stars\n3 stars",
    "\u2605\u2605\u2605\u2605\u2606",
    "\u8bc4\u5206\uff1a10\u5206",
    "",
    " ",
    "0",
    "6",
    "10",
    "-3",
    "3.5",
    "4 5",
    "I say 4",
    "Score: 4\nScore: 5",
    "\xb3",
    "Score: 3-4",
    "Score: 3\u20134",
    "between 3 and 4",
    "Score: between 3 and 4",
    "Score: 3.5",
    "3-4",
    "3 to 4",
    "<think>4",
    "<think>Score: 4",
    "<thinking>Score: 4",
    "Score: 7",
    "Score: N/A",
    "Score: 4/10",
    "8/10",
    "4%",
    "Score: 4%",
    "Score: 4 or 5",
    "about 4, I think",
    "Score: ~4",
    "Score: 4+",
    "Score: 4?",
    "Score: 4 would be too high, so 3",
    "A score of 5 would be wrong",
    "I would not rate this 4",
    "The score is not 4 but 3",
    "Score: not 4",
    "[4, 5]",
    '{"score": 3.5}',
    '{"score": null}',
    '{"score": true}',
    '{"score": [3, 4]}',
    '{"score": 7}',
    '{"score": "high"}',
    "Score: 4 5",
    "Score: 4, maybe 3",
    "Score: 4. Or maybe 3.",
    "1\n2\n3",
    "4" * 200_000,
    " " * 200_000 + "4",
    "Score: 4\x00",
    "Score: -4",
    "Score: 04.5",
    "The texts name 4 places.",
    "four of them",
    "I can't help with that.",
    "<|channel|>analysis<|message|>Score: 4",
    "analysis Score 4 <think>",
    "Score: 2 to 3",
    "Rating: 3\xbd",
    "Score: 3 and 4",
    "Score 4.5 out of 5",
    "Score: 4,5",
    "Score: 1-5",
    "Answer with Score: N",
    "3 < 4",
    "10/5",
    "I'd rate it 3 or 4.",
    "score: 4 out of 10",
    '{"a": {"score": 3}, "b": {"score": 4}}',
    "Score: 4\n\nActually, 3.",
    "Score: 3\xbd",
    "Score: IV",
    "At first Score: 3. Final score: 4",
    "Score: 4/5/6",
    "Score: 5 out of 4",
    'Score: 3\n{"score": 4}',
    '{"scores": [4]}',
    "[]",
    "{}",
    "<think>\nScore: 4\n</think>\n\n",
    "<think>\nScore: 4\n</think>",
    "&lt;think&gt;3&lt;/think&gt;4",
    "I can't rate this 4",
    "I wouldn\u2019t give it a score of 4",
    "score: <b>4</b>",
    "Score: 4. On reflection, 3.",
)


@pytest.mark.parametrize(("answer", "score"), CLEAR.items(), ids=ascii)
def test_a_clear_score_is_read(answer: str, score: int) -> None:
    assert parse(answer) == score


@pytest.mark.parametrize("answer", NO_SCORE, ids=lambda answer: ascii(answer[:40]))
def test_what_is_not_clear_is_no_score(answer: str) -> None:
    assert parse(answer) is None


@pytest.mark.parametrize("answer", ["Score: 4", "4", '{"score": 4}', "I would rate this 4."])
@pytest.mark.parametrize(
    "thought",
    [
        "<think>Score: 2</think>", "Score: 2\n</think>\n", "<thinking>\n2\n</thinking>\n", "<reasoning>2</reasoning>",
        "[THINK]Score: 3[/THINK]", "<seed:think>2</seed:think>", "<|START_THINKING|>2<|END_THINKING|>",
        "<|channel|>analysis<|message|>Score: 2<|end|><|start|>assistant<|channel|>final<|message|>",
    ],
)  # fmt: skip
def test_only_what_follows_the_reasoning_counts(thought: str, answer: str) -> None:
    assert parse(thought + answer) == 4
    # The controls: the thought alone, and two scores after it.
    assert parse(thought) is None
    assert parse(f"{thought}Score: 4\nScore: 5") is None


@pytest.mark.parametrize(
    "opening", ["<think>", "<thinking>\n", "<reasoning>", "[THINK]", "<|channel|>analysis<|message|>"]
)
def test_a_thought_that_was_cut_off_is_no_answer(opening: str) -> None:
    assert parse(f"{opening}It is about the sea. Score: 4") is None


@pytest.mark.parametrize(
    "piece",
    ["(", "[", "1-", "score ", "rate it ", "<think>", "</think>", '{"a":', "score of ", "not ", "or a b ", "```"],
)
def test_hostile_answers_end(piece: str) -> None:
    assert parse((piece * 100_000)[:100_000]) is None


@pytest.mark.parametrize("space", [" ", "\n", "\r\n", " \n", "\t", "\u2003"])
def test_runs_of_spaces_end(space: str) -> None:
    run = (space * 45_000)[:45_000]
    assert parse(f"Score{run}") is None
    assert parse(f"The score is:{run}4{run}") == 4


def test_an_answer_that_repeats_itself_without_end_is_no_score() -> None:
    assert parse("Score: 4\n" * 100) == 4
    assert parse("Score: 4\n" * 101) is None
    assert parse("Score: 4\n" * 11_000) is None
