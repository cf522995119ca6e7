"""Rows as prompts: both layouts, named columns, and refusals that name file, row and column."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from llds.data.prompts import PromptMaker, prompt_from_row
from llds.data.source import DataSource
from llds.data.source_reader import read_prompts
from llds.errors import ConfigurationError, DataError
from llds.files import BadRows, Row

ROW = {"question": "Capital of Norway?", "golden_answers": ["Oslo"]}


def search_r1_row(ground_truth: Any) -> dict[str, Any]:
    return {
        "data_source": "nq",
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Capital of Norway?"}],
        "ability": "fact-reasoning",
        "reward_model": {"ground_truth": ground_truth, "style": "rule"},
        "extra_info": {"index": 7, "split": "train"},
    }


def test_a_plain_row_becomes_a_prompt(write_jsonl: Callable[..., str]) -> None:
    path = write_jsonl({**ROW, "id": "n1", "data_source": "geo"})
    (prompt,) = read_prompts(DataSource(path))
    assert (prompt.prompt_id, prompt.question, prompt.golden_answers) == ("n1", "Capital of Norway?", ("Oslo",))
    assert (prompt.data_source, prompt.origin, prompt.messages) == ("geo", f"{path}:1", None)


def test_rows_without_id_and_data_source_take_row_number_and_file_name(write_jsonl: Callable[..., str]) -> None:
    prompts = read_prompts(DataSource(write_jsonl(ROW, "", ROW, name="geo.jsonl.gz")))
    assert [prompt.prompt_id for prompt in prompts] == ["1", "3"]
    assert {prompt.data_source for prompt in prompts} == {"geo"}


def test_a_given_name_replaces_the_data_source(write_jsonl: Callable[..., str]) -> None:
    (prompt,) = read_prompts(DataSource(write_jsonl({**ROW, "data_source": "nq"}), name="mine"))
    assert prompt.data_source == "mine"


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ("Oslo", ("Oslo",)),
        (["Oslo", " City of Oslo "], ("Oslo", "City of Oslo")),
        ("Oslo<|answer_split|>City of Oslo", ("Oslo", "City of Oslo")),
        (["Oslo", ""], ("Oslo",)),
        (["The", "Oslo"], ("The", "Oslo")),
        (["Oslo", "Oslo "], ("Oslo",)),
        (1929, ("1929",)),
        (["MCMXXIX", 1929], ("MCMXXIX", "1929")),
        ('["Oslo", "Christiania"]', ("Oslo", "Christiania")),
        ("[sic] Oslo", ("[sic] Oslo",)),
        ("[1]", ("[1]",)),
        ("['Oslo'] or so", ("['Oslo'] or so",)),
        ({"value": "Oslo", "aliases": ["Christiania", "Oslo"]}, ("Oslo", "Christiania")),
        ({"text": ["Oslo"], "answer_start": [3]}, ("Oslo",)),
        ([{"text": "Oslo", "answer_start": 3}, {"text": "Oslo"}, "Kristiania"], ("Oslo", "Kristiania")),
        ('{"target": ["Oslo", "Kristiania"]}', ("Oslo", "Kristiania")),
        ('[{"text": "Oslo"}]', ("Oslo",)),
        (' ["Oslo", 3] ', ("Oslo", "3")),
        (3.5, ("3.5",)),
        (1929.0, ("1929", "1929.0")),
        (True, ("yes", "true")),
        (False, ("no", "false")),
        ("{Awayland}", ("{Awayland}",)),  # an album
        ("array of stars", ("array of stars",)),
        ("---", ("---",)),  # of NQ-open's file
        (["The The"], ("The The",)),  # of HotpotQA's
    ],
)
def test_gold_answers_come_as_a_string_or_a_list(
    write_jsonl: Callable[..., str], answers: Any, expected: tuple[str, ...]
) -> None:
    (prompt,) = read_prompts(DataSource(write_jsonl({**ROW, "golden_answers": answers})))
    assert prompt.golden_answers == expected


@pytest.mark.parametrize(
    "ground_truth",
    [
        {"target": ["Oslo", "Christiania"]},
        {"target": np.array(["Oslo", "Christiania"], dtype=object)},
        "Oslo<|answer_split|>Christiania",
        ["Oslo", "Christiania"],
        np.array(["Oslo", "Christiania"]),
    ],
)
def test_search_r1_parquet_rows_need_no_settings(tmp_path: Path, ground_truth: Any) -> None:
    path = tmp_path / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([search_r1_row(ground_truth)]), path)
    (prompt,) = read_prompts(DataSource(str(path)))
    assert prompt.question == "Capital of Norway?"
    assert prompt.golden_answers == ("Oslo", "Christiania")
    assert (prompt.prompt_id, prompt.data_source, prompt.messages) == ("7", "nq", None)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"id": "a", "question": "Q?", "golden_answers": ["x"], "metadata": {}}, ("a", ("x",))),  # FlashRAG
        ({"idx": 3, "question": "Q?", "answer": "x", "gen_text_store": ""}, ("3", ("x",))),  # R1-Searcher
        ({"_id": "h", "question": "Q?", "answer": "x", "supporting_facts": [["T", 0]]}, ("h", ("x",))),  # HotpotQA
        ({"id": "2hop", "question": "Q?", "answer": "x", "answer_aliases": ["y", "z"]}, ("2hop", ("x", "y", "z"))),
        ({"id": "2hop", "question": "Q?", "answer": "x", "answer_aliases": []}, ("2hop", ("x",))),  # MuSiQue
        ({"question_id": "t", "question": "Q?", "answer": {"value": "x", "aliases": ["y"]}}, ("t", ("x", "y"))),
        ({"id": 4, "question": "Q?", "possible_answers": '["x", "y"]'}, ("4", ("x", "y"))),  # PopQA
        ({"question": "Q?", "answer": ["x", "y"]}, ("1", ("x", "y"))),  # NQ-open
        ({"query": "Q?", "answers": ["x"], "id": "q", "golden_answers": None}, ("q", ("x",))),
    ],
)
def test_the_layouts_of_the_field_need_no_settings(
    write_jsonl: Callable[..., str], row: dict[str, Any], expected: tuple[str, tuple[str, ...]]
) -> None:
    (prompt,) = read_prompts(DataSource(write_jsonl(row)))
    assert (prompt.prompt_id, prompt.golden_answers, prompt.question) == (*expected, "Q?")


def test_answers_of_several_columns_are_joined(write_jsonl: Callable[..., str]) -> None:
    path = write_jsonl({**ROW, "more": "Christiania|Kristiania", "also": 1})
    source = DataSource(path, answer_field=["golden_answers", "more", "also"], answer_separator="|")
    (prompt,) = read_prompts(source)
    assert prompt.golden_answers == ("Oslo", "Christiania", "Kristiania", "1")
    with pytest.raises(DataError, match="column `less`"):
        read_prompts(DataSource(path, answer_field=["golden_answers", "less"]))


def test_instructions_around_a_question_are_noticed_and_taken_off(write_jsonl: Callable[..., str]) -> None:
    text = "Answer inside <answer> and </answer>. Question: Capital of Norway?\n"
    path = write_jsonl({**search_r1_row("Oslo"), "prompt": [{"role": "user", "content": text}]})
    with pytest.raises(DataError, match=r"instructions around it .*jsonl:1\. Set `question_pattern`"):
        read_prompts(DataSource(path))
    for pattern in ("Question: (.*)", r"Question:\s*([^?]*\?)"):
        assert read_prompts(DataSource(path, question_pattern=pattern))[0].question == "Capital of Norway?"
    assert read_prompts(DataSource(path, messages_field="prompt"))[0].messages is not None
    with pytest.raises(DataError, match=r"a question that matches 'Query: \(\.\*\)' in column `prompt`, got None"):
        read_prompts(DataSource(path, question_pattern="Query: (.*)"))


def test_columns_by_the_hundreds_are_not_all_listed(write_jsonl: Callable[..., str]) -> None:
    with pytest.raises(DataError, match=r"`column19`, \.\.\. at") as caught:
        read_prompts(DataSource(write_jsonl({f"column{i}": i for i in range(1000)})))
    assert len(str(caught.value)) < 600


def test_messages_are_kept_where_their_column_is_named(write_jsonl: Callable[..., str]) -> None:
    (prompt,) = read_prompts(DataSource(write_jsonl(search_r1_row("Oslo")), messages_field="prompt"))
    assert prompt.messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Capital of Norway?"},
    )


def test_columns_of_other_names_are_read_where_they_are_named(write_jsonl: Callable[..., str]) -> None:
    path = write_jsonl({"idx": 3, "q": "Capital?", "meta": {"gold": "Oslo|Christiania"}, "set": "x", "a.b": 1})
    source = DataSource(
        path, question_field="q", answer_field="meta.gold", id_field="idx", data_source_field="set",
        answer_separator="|",
    )  # fmt: skip
    (prompt,) = read_prompts(source)
    assert (prompt.prompt_id, prompt.question, prompt.data_source) == ("3", "Capital?", "x")
    assert prompt.golden_answers == ("Oslo", "Christiania")


def test_a_limit_takes_the_first_rows(write_jsonl: Callable[..., str]) -> None:
    assert [prompt.prompt_id for prompt in read_prompts(DataSource(write_jsonl(ROW, ROW, ROW), limit=2))] == ["1", "2"]


@pytest.mark.parametrize(
    ("settings", "columns"),
    [
        ({"question_field": "qestion"}, "`qestion`"),
        ({"answer_field": "answer"}, "`answer`"),
        ({"id_field": "idx"}, "`idx`"),
        ({"data_source_field": "set"}, "`set`"),
        ({"messages_field": "chat"}, "`chat`"),
        ({"answer_field": "question.gold"}, "`question.gold`"),
    ],
)
def test_a_wrong_column_is_named_with_those_that_exist(
    write_jsonl: Callable[..., str], settings: dict[str, Any], columns: str
) -> None:
    path = write_jsonl(ROW)
    with pytest.raises(DataError) as caught:
        read_prompts(DataSource(path, **settings))
    assert f"Expected a value in column {columns}, got a row with columns `question`, `golden_answers`" in str(
        caught.value
    )
    assert f"{path}:1" in str(caught.value)
    assert f"Set `{next(iter(settings))}`" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ({"question": ""}, "question"),
        ({"question": 3}, "question"),
        ({"question": ["text"]}, "question"),
        ({"question": "null \x00 character"}, "question"),
        ({"question": "long " * 30_000}, "question"),
        ({"question": "\ud83d half an emoji"}, "question"),
        ({"golden_answers": []}, "golden_answers"),
        ({"golden_answers": ""}, "golden_answers"),
        ({"golden_answers": [""]}, "golden_answers"),
        ({"golden_answers": ["Oslo", None]}, "golden_answers"),
        ({"golden_answers": ["Oslo", ["Bergen"]]}, "golden_answers"),
        ({"golden_answers": ["Os\x00lo"]}, "golden_answers"),
        ({"golden_answers": "[]"}, "golden_answers"),
        ({"golden_answers": "['Oslo', 'Christiania']"}, "golden_answers"),  # Python's way to write a list
        ({"golden_answers": "['Oslo' 'Christiania']"}, "golden_answers"),  # numpy's
        ({"golden_answers": "array(['Oslo'], dtype=object)"}, "golden_answers"),
        ({"golden_answers": ["array(['Oslo'], dtype=object)"]}, "golden_answers"),
        ({"golden_answers": "[np.str_('Oslo')]"}, "golden_answers"),
        ({"golden_answers": "np.float64(3.5)"}, "golden_answers"),
        ({"golden_answers": "('Oslo', 'Christiania')"}, "golden_answers"),  # a tuple
        ({"golden_answers": "('Oslo',)"}, "golden_answers"),
        ({"golden_answers": "{'target': ['Oslo']}"}, "golden_answers"),
        ({"golden_answers": '[{"text": "Oslo"}}]'}, "golden_answers"),
        ({"golden_answers": [{"goal": "Oslo"}]}, "golden_answers"),
        ({"golden_answers": {"text": [], "answer_start": []}}, "golden_answers"),  # SQuAD 2: no answer
        ({"golden_answers": {}}, "golden_answers"),
        ({"golden_answers": {"goal": "Oslo"}}, "golden_answers"),
        ({"golden_answers": None}, "golden_answers"),
        ({"id": ""}, "id"),
        ({"id": " "}, "id"),
        ({"id": ["a"]}, "id"),
        ({"id": 1.5}, "id"),
        ({"id": True}, "id"),
        ({"data_source": 3}, "data_source"),
    ],
)
def test_a_bad_value_is_refused_with_file_row_and_column(
    write_jsonl: Callable[..., str], change: dict[str, Any], column: str
) -> None:
    path = write_jsonl(ROW, {**ROW, **change})
    with pytest.raises(DataError, match=f"`{column}`") as caught:
        read_prompts(DataSource(path))
    assert f"{path}:2" in str(caught.value)
    assert str(caught.value).startswith("Expected ")


@pytest.mark.parametrize("messages", ["text", [], ["text"], [{"role": "user"}], [{"role": "user", "content": None}]])
def test_messages_that_are_none_are_refused(write_jsonl: Callable[..., str], messages: Any) -> None:
    with pytest.raises(DataError, match=r"list of chat messages.*`chat`"):
        read_prompts(DataSource(write_jsonl({**ROW, "chat": messages}), messages_field="chat"))


def test_a_refusal_names_the_column_that_the_layout_found(write_jsonl: Callable[..., str]) -> None:
    with pytest.raises(DataError, match=r"`reward_model\.ground_truth`, got \{'target': \[\]\}"):
        read_prompts(DataSource(write_jsonl(search_r1_row({"target": []}))))


def test_chat_messages_without_a_user_hold_no_question(write_jsonl: Callable[..., str]) -> None:
    row = {**search_r1_row("Oslo"), "prompt": [{"role": "system", "content": "x"}]}
    with pytest.raises(DataError, match="a question in column"):
        read_prompts(DataSource(write_jsonl(row)))


def test_chat_messages_in_a_string_are_read_as_json_and_numpys_are_refused(write_jsonl: Callable[..., str]) -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "Capital of Norway?"}]
    path = write_jsonl({"prompt": json.dumps(messages), "answer": "Oslo"})
    [prompt] = read_prompts(DataSource(path, messages_field="prompt"))
    assert prompt.question == "Capital of Norway?"
    assert prompt.messages == tuple(messages)
    with pytest.raises(DataError, match=r"a question or a list of chat messages .* got \"array\(\["):
        read_prompts(DataSource(write_jsonl({"prompt": f"array([{messages[1]}], dtype=object)", "answer": "Oslo"})))


@pytest.mark.parametrize("settings", [{}, {"name": "n"}, {"answer_field": "answer"}, {"id_field": "key"}])
def test_the_quick_way_makes_of_every_row_what_the_exact_way_makes(settings: dict[str, Any]) -> None:
    answers = ["Oslo", " Oslo", "Christiania "]
    usual = {"id": 1, "question": " Capital? ", "golden_answers": answers, "answer": "Oslo ", "key": 3}
    odd: list[dict[str, Any]] = [
        {}, {"id": None}, {"id": ""}, {"id": True}, {"id": "é "}, {"id": 2**70}, {"question": "<search> x"},
        {"question": "a < b"}, {"question": ["x"]}, {"question": None, "query": "q"},
        {"question": "array(['x'])"}, {"question": "x\x00"},
        {"question": "\ud800"}, {"question": "x" * 100_001}, {"golden_answers": "Oslo<|answer_split|>Bergen"},
        {"golden_answers": "[\"Oslo\"]"}, {"golden_answers": ["[Oslo]"]}, {"golden_answers": "{Awayland}"},
        {"golden_answers": []}, {"golden_answers": ["", "x"]}, {"golden_answers": 3}, {"golden_answers": [[1]]},
        {"golden_answers": None, "answer": "x", "answer_aliases": ["y"]}, {"answer": "x"}, {"data_source": "s "},
        {"data_source": 3}, {"key": "k"}, {"extra_info": {"question": "deep", "index": 4}}, {"golden_answers": "---"},
    ]  # fmt: skip
    source = DataSource("file.jsonl", **settings)
    make, bad_rows, refused = PromptMaker(source), BadRows("error"), 0
    for changes in odd:
        for values in (usual | changes, changes | usual, {key: v for key, v in usual.items() if key != "id"} | changes):
            rows = [Row(f"file.jsonl:{n}", n, values if n <= 9 else usual) for n in range(1, 19)]
            exact = [_outcome(lambda row=row: prompt_from_row(row, source)) for row in rows]
            assert make(rows, bad_rows) == [one for one in exact if not isinstance(one, str)], values
            assert make._usual(rows[9:]) == exact[9:]
            refused += sum(isinstance(one, str) for one in exact)
    assert bad_rows.count == refused > 100


def _outcome(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except DataError as error:
        return str(error)


def test_an_empty_file_is_refused(write_jsonl: Callable[..., str]) -> None:
    for rows in ((), ("", " ")):
        with pytest.raises(DataError, match=r"at least one row in .*questions.jsonl, got an empty data set"):
            read_prompts(DataSource(write_jsonl(*rows)))


def test_settings_of_a_source_are_checked() -> None:
    with pytest.raises(ConfigurationError, match=r"`limit` of data source x.jsonl"):
        DataSource("x.jsonl", limit=0)
    for key, value in {
        "answer_separator": "",
        "weight": 0,
        "answer_field": [],
        "data_sources": {},
        "question_pattern": "no group",
    }.items():
        with pytest.raises(ConfigurationError, match=f"Expected `{key}` of data source x.jsonl to be"):
            DataSource("x.jsonl", **{key: value})
    for path in ("", "{path:x.jsonl}", "[x.jsonl,y.jsonl]"):
        with pytest.raises(ConfigurationError, match=r"`path` of a data source .* a space follows each colon"):
            DataSource(path)
    with pytest.raises(ConfigurationError, match="question_pattern"):
        DataSource("x.jsonl", question_pattern="open (")
