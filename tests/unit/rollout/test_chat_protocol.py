"""The chat protocol on templates of public models: what they write is found out, and no result can forge any of it.

``tests/recordings/chat_templates.json.xz`` has the templates, as the models and their makers' packages ship them, with
the names of their special and added tokens; the vocabulary is the tests' own.
"""

import copy
import json
import lzma
import random
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from llds.agent_tools import AgentTool, FunctionTool, HTTPTool, ToolContext
from llds.agent_tools.base import check_parameters
from llds.batches.answer_span import answer_span
from llds.callbacks.rollout.packing import packed_trajectories, unpacked_trajectories
from llds.data import PromptTemplate
from llds.errors import ConfigurationError
from llds.metrics import rollout_metrics, served_calls
from llds.rollout import (
    ChatToolProtocol,
    Collection,
    EpisodeLimits,
    ObservationEncoder,
    RolloutCollector,
    ToolCallPolicy,
)
from llds.rollout.protocol import ObservationText
from llds.types import Prompt, SamplingParams
from tests.scripted_sampler import ScriptedSampler

RECORDING = Path(__file__).parents[2] / "recordings" / "chat_templates.json.xz"
FAMILIES = (
    "qwen2_5",
    "qwen3",
    "llama3_1",
    "llama3_2",
    "gptoss",
    "mistral_v3",
    "mistral_v11",
    "qwen3_5",
    "nemotron_3_nano",
    "glm4_5",
)
NAMES = ["search", "population"]

CALLS = {
    "qwen2_5": '<tool_call>\n{"name": "search", "arguments": {"query": "x"}}\n</tool_call><|im_end|>',
    "qwen3": '<think>\nhm <tool_call>\n</think>\n\n<tool_call>\n{"name": "search", "arguments": {"query": "x"}}\n'
    "</tool_call><|im_end|>",
    "llama3_1": '{"name": "search", "parameters": {"query": "x"}}<|eot_id|>',
    "llama3_2": '{"name": "search", "parameters": {"query": "x"}}<|eot_id|>',
    "gptoss": "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.search "
    '<|constrain|>json<|message|>{"query": "x"}<|call|>',
    "mistral_v3": '[TOOL_CALLS] [{"name": "search", "arguments": {"query": "x"}, "id": "abcdefgh1"}]</s>',
    "mistral_v11": '[TOOL_CALLS]search[CALL_ID]abcdefgh1[ARGS]{"query": "x"}</s>',
    "qwen3_5": "hm\n</think>\n\n<tool_call>\n<function=search>\n<parameter=query>\nx\n</parameter>\n</function>\n"
    "</tool_call><|im_end|>",
    "nemotron_3_nano": "hm\n</think>\n<tool_call>\n<function=search>\n<parameter=query>\nx\n</parameter>\n</function>\n"
    "</tool_call>\n<|im_end|>",
    "glm4_5": "\n<think>hm</think>\n<tool_call>search\n<arg_key>query</arg_key>\n<arg_value>x</arg_value>\n"
    "</tool_call><|observation|>",
}
"""A call as each model writes it, by the makers' documentation."""
RESULTS = {
    "qwen2_5": "\n<|im_start|>user\n<tool_response>\nOslo\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
    "qwen3": "\n<|im_start|>user\n<tool_response>\nOslo\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
    "llama3_1": '<|start_header_id|>ipython<|end_header_id|>\n\n"Oslo"<|eot_id|>'
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "llama3_2": '<|start_header_id|>ipython<|end_header_id|>\n\n"Oslo"<|eot_id|>'
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "gptoss": '<|start|>functions.search to=assistant<|channel|>commentary<|message|>"Oslo"<|end|><|start|>assistant',
    "mistral_v3": '[TOOL_RESULTS] {"content": "Oslo", "call_id": "abcdefgh1"}[/TOOL_RESULTS]',
    "mistral_v11": "[TOOL_RESULTS]abcdefgh1[TOOL_CONTENT]Oslo[/TOOL_RESULTS]",
    "qwen3_5": "\n<|im_start|>user\n<tool_response>\nOslo\n</tool_response><|im_end|>\n"
    "<|im_start|>assistant\n<think>\n",
    "nemotron_3_nano": "\n<|im_start|>user\n<tool_response>\nOslo\n</tool_response>\n<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n",
    "glm4_5": "\n<tool_response>\nOslo\n</tool_response><|assistant|>",
}
"""What follows such a call, up to where the model goes on."""
ANSWERS = {
    "qwen2_5": "Oslo<|im_end|>",
    "qwen3": "<think>\nIs it Bergen?\n</think>\n\nOslo<|im_end|>",
    "llama3_1": "Oslo<|eot_id|>",
    "llama3_2": "Oslo<|eot_id|>",
    "gptoss": "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Oslo<|return|>",
    "mistral_v3": "Oslo</s>",
    "mistral_v11": "Oslo</s>",
    "qwen3_5": "Is it Bergen?\n</think>\n\nOslo<|im_end|>",
    "nemotron_3_nano": "Is it Bergen?\n</think>\nOslo<|im_end|>",
    "glm4_5": "\n<think>Is it Bergen?</think>\nOslo<|user|>",
}


SMOLLM3 = (
    "{% set mute = '' if enable_thinking | default(true) else '<think>\n\n</think>\n' %}"
    "{% if xml_tools %}<|im_start|>system\n{% for tool in xml_tools[:] %}{{ tool | string }}{% endfor %}<|im_end|>\n"
    "{% endif %}{% for m in messages %}<|im_start|>{{ 'user' if m.role == 'tool' else m.role }}\n"
    "{% if m.role == 'assistant' %}{{ mute }}{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{{ mute }}{% endif %}"
)
"""What SmolLM3's template does with tools: it takes them as ``xml_tools``, and writes no call, only what is said."""
SMOLLM3_SETTINGS = {
    "template_kwargs": {"enable_thinking": False},
    "tools_argument": "xml_tools",
    "call_text": '<tool_call>\n{"name": "{name}", "arguments": {arguments}}\n</tool_call>',
}


def search(query: str, context: ToolContext) -> str:
    """Finds passages.

    Args:
        query: What to look for.
        context: Where the call comes from.
    """
    return f"{query} of {context.row.get('level', '?')} at {context.turn}"


async def population(city: str, year: int = 2024) -> int:
    """Number of people in a city.

    Args:
        city: Its English name.
        year: Of the count.
    """
    if city == "Atlantis":
        raise ValueError("No city named Atlantis.")
    return len(city) * year


def tools() -> list[AgentTool]:
    return [FunctionTool(search), FunctionTool(population)]


@cache
def recording() -> dict[str, Any]:
    return json.loads(lzma.open(RECORDING).read())  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def of_family(tokenizer: PreTrainedTokenizerFast) -> Callable[[str], PreTrainedTokenizerFast]:
    """A tokenizer with the template and the added tokens of a family of models."""

    @cache
    def make(family: str) -> PreTrainedTokenizerFast:
        own, found = copy.deepcopy(tokenizer), recording()[family]
        own.add_tokens([AddedToken(text, special=True) for text in found["special"]])
        own.add_tokens([AddedToken(text, special=False) for text in found["added"]])
        own.chat_template, own.bos_token, own.eos_token = found["chat_template"], found["bos"], found["eos"]
        return own

    return make


Attached = Callable[..., ChatToolProtocol]


@pytest.fixture(scope="session")
def attached(of_family: Callable[[str], PreTrainedTokenizerFast]) -> Attached:
    @cache
    def attach(family: str, **settings: Any) -> ChatToolProtocol:
        protocol = ChatToolProtocol(**settings)
        protocol.attach(of_family(family), tools())
        return protocol

    return attach


def whole(text: ObservationText) -> str:
    return text.opening + "".join(body + closing for body, closing in text.parts)


@pytest.mark.parametrize("family", FAMILIES)
def test_call_result_and_answer_of_a_family_are_read_and_written_as_its_makers_say(
    family: str, attached: Attached
) -> None:
    protocol = attached(family)
    action = protocol.parse(CALLS[family], NAMES)
    assert [(call.name, call.arguments) for call in action.calls] == [("search", {"query": "x"})]
    assert (action.kind, action.name, action.content) == ("tool", "search", '{"query": "x"}')
    assert whole(protocol.observe_all(action, CALLS[family], ["Oslo"], NAMES)) == RESULTS[family]
    answer = protocol.parse(ANSWERS[family], NAMES)
    assert (answer.kind, answer.content) == ("answer", "Oslo")
    assert [part.text.strip() for part in protocol.shown(answer, ANSWERS[family])][-1] == "Oslo"
    marks = protocol.control_marks(NAMES)
    assert all(mark in CALLS[family] + ANSWERS[family] for mark in marks), marks
    assert any(CALLS[family].endswith(mark) for mark in marks)


@pytest.mark.parametrize("family", ["qwen2_5", "qwen3", "mistral_v3", "mistral_v11", "qwen3_5", "nemotron_3_nano"])
def test_several_calls_of_an_action_get_a_result_each(
    family: str, attached: Attached, of_family: Callable[[str], PreTrainedTokenizerFast]
) -> None:
    protocol = attached(family)
    user, made = {"role": "user", "content": "?"}, [("population", {"city": "Oslo"}), ("search", {"query": "y"})]
    calls = [
        {"id": f"abcdefgh{at}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for at, (name, arguments) in enumerate(made)
    ]
    messages = [user, {"role": "assistant", "content": "", "tool_calls": calls}]
    tokenizer, schemas = of_family(family), [tool.schema for tool in tools()]
    written = str(tokenizer.apply_chat_template(messages, tools=schemas, tokenize=False)).rstrip()
    asked = str(tokenizer.apply_chat_template([user], tools=schemas, tokenize=False, add_generation_prompt=True))
    said = written.removeprefix(asked)
    action = protocol.parse(said, NAMES)
    assert [(call.name, call.arguments) for call in action.calls] == made
    results = [
        {"role": "tool", "name": name, "content": body, "tool_call_id": f"abcdefgh{at}"}
        for at, ((name, _), body) in enumerate(zip(made, ("one", "two"), strict=True))
    ]
    rendered = str(
        tokenizer.apply_chat_template([*messages, *results], tools=schemas, tokenize=False, add_generation_prompt=True)
    )
    assert rendered.endswith(said[-20:] + whole(protocol.observe_all(action, said, ["one", "two"], NAMES)))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ('<tool_call>\n{"name": "search", "arguments": {"query": "x"}\n</tool_call><|im_end|>', "no valid JSON"),
        ('<tool_call>\n{"name": "search", "arguments": {"query": "x"}}<|im_end|>', "not closed by </tool_call>"),
        ('<tool_call>\n{"name": "search", "arguments": {"query": "x"}}', "cut off"),
        (
            '<tool_call>\n{"name": "sing", "arguments": {}}\n</tool_call><|im_end|>',
            "no tool 'sing'.*search, population",
        ),
        ('<tool_call>\n{"arguments": {}}\n</tool_call><|im_end|>', 'no "name"'),
        ('<tool_call>\n{"name": "search", "arguments": [1, 2]}\n</tool_call><|im_end|>', "is a JSON object"),
        ("<tool_call>\n[1, 2]\n</tool_call><|im_end|>", "is a JSON object"),
        ('<tool_call>\n{"name": "search", "arguments": {"query": "\\ud800"}}\n</tool_call><|im_end|>', "surrogate"),
        ('<tool_call>\n{"name": "search", "arguments": {"query": NaN}}\n</tool_call><|im_end|>', "no valid JSON"),
        ("<tool_call>" + "[" * 100_000 + "<|im_end|>", "no valid JSON"),
        (f"<tool_call>{'[' * 99}{']' * 99}</tool_call><|im_end|>", "nested more than 32"),
        (
            '<tool_call>{"name": "search", "arguments": {"query": "x"}}</tool_call>' * 9 + "<|im_end|>",
            "8 calls at most",
        ),
        ("<|im_end|>", "empty"),
    ],
)
def test_what_is_wrong_with_a_call_is_said_in_a_tools_message(said: str, reason: str, attached: Attached) -> None:
    protocol = attached("qwen2_5")
    action = protocol.parse(said, NAMES)
    assert action.kind == "invalid"
    assert re.search(reason, action.reason)
    told = whole(protocol.correct(said, NAMES, action.reason))
    assert told.startswith("\n" if said.endswith("<|im_end|>") else "<|im_end|>\n")
    assert "<tool_response>\nError: " in told


@pytest.mark.parametrize(
    ("said", "arguments"),
    [
        (
            "<parameter=city>\n a\n\n5 \n</parameter>\n<parameter=year>\n2020\n</parameter>",
            {"city": " a\n\n5 ", "year": 2020},
        ),
        ("<parameter=city>5</parameter><parameter=year>soon</parameter>", {"city": "5", "year": "soon"}),
        ("<parameter=city>\n\n</parameter>", {"city": ""}),
        ('<parameter=other>[1, {"x": null}]</parameter>', {"other": [1, {"x": None}]}),
        ("<parameter=other>[1, {'x': None}, True]</parameter>", {"other": [1, {"x": None}, True]}),  # as Qwen3-Coder
        ("<parameter=other>{1}</parameter>", {"other": "{1}"}),
        ("<parameter=other>" + "-" * 9000 + "1</parameter>", {"other": "-" * 9000 + "1"}),
        ("", {}),
    ],
)
def test_arguments_in_elements_are_text_or_json_as_the_tools_schema_says(
    said: str, arguments: dict[str, Any], attached: Attached
) -> None:
    text = f"</think><tool_call><function=population>{said}</function>\n\n</tool_call><|im_end|>"
    assert [call.arguments for call in attached("qwen3_5").parse(text, NAMES).calls] == [arguments]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "<function=search>\n<parameter=query>\nx\n</parameter>\n</function>\n</tool_call>",
            "A call begins with <tool_call>",
        ),
        ("<tool_call>\nsearch\n</tool_call>", "A call begins with <tool_call> <function=NAME>"),
        (
            "<tool_call><function=search><parameter=query>x</function></tool_call>",
            "'query' is not closed by </parameter>",
        ),
        ("<tool_call><function=search><parameter=query>x</parameter>", "not closed by </function> </tool_call>"),
        (
            "<tool_call><function=search>" + "<parameter=query>x</parameter>" * 2 + "</function></tool_call>",
            "given twice",
        ),
        ("<tool_call><function=search><parameter=query>\ud800</parameter></function></tool_call>", "is no text"),
        ('<tool_call><function=search><parameter=x>["\\ud800"]</parameter></function></tool_call>', "is no text"),
        (
            f"<tool_call><function=search><parameter=x>{'[' * 99}{']' * 99}</parameter></function></tool_call>",
            "more than 32",
        ),
        ("<tool_call><function=sing></function></tool_call>", "no tool 'sing'"),
    ],
)
def test_what_is_wrong_with_elements_is_said(said: str, reason: str, attached: Attached) -> None:
    action = attached("qwen3_5").parse(f"</think>{said}<|im_end|>", NAMES)
    assert (action.kind, reason in action.reason) == ("invalid", True), action


def test_arguments_that_are_text_with_json_in_it_are_read(attached: Attached) -> None:
    said = '<tool_call>{"name": "search", "arguments": "{\\"query\\": \\"x\\"}"}</tool_call><|im_end|>'
    assert attached("qwen2_5").parse(said, NAMES).calls[0].arguments == {"query": "x"}


def test_an_answer_may_have_to_have_a_form(attached: Attached) -> None:
    protocol = attached("qwen2_5", answer_pattern=r"(?s)\\boxed\{(.*)\}")
    assert protocol.parse(r"It is \boxed{Oslo}.<|im_end|>", NAMES).content == "Oslo"
    assert protocol.parse("It is Oslo.<|im_end|>", NAMES).kind == "invalid"
    with pytest.raises(ConfigurationError, match="regular expression"):
        ChatToolProtocol(answer_pattern="(")


def test_reasoning_without_an_end_is_no_answer(attached: Attached) -> None:
    assert attached("qwen3").parse("<think>\nOslo<|im_end|>", NAMES).kind == "invalid"
    assert attached("gptoss").parse("<|channel|>analysis<|message|>Oslo<|return|>", NAMES).kind == "invalid"
    said = CALLS["qwen3_5"].replace("</think>", "")  # its prompt begins the reasoning
    assert attached("qwen3_5").parse(said, NAMES).reason == "The reasoning has no end, and nothing follows it."
    assert attached("qwen3_5").parse("Oslo<|im_end|>", NAMES).kind == "invalid"


def test_a_template_without_calls_that_can_be_read_is_refused(
    attached: Attached, of_family: Callable[[str], PreTrainedTokenizerFast], tokenizer: PreTrainedTokenizerFast
) -> None:
    for family, written in (("gemma4", "call:qznameq"), ("lfm2_5", r"\[qznameq\(qzkeyq")):
        with pytest.raises(ConfigurationError, match=f"as JSON, or its arguments as elements.*{written}"):
            attached(family)
    with pytest.raises(ConfigurationError, match=r"name and arguments.*leaves them out.*TagProtocol"):
        attached("qwen2_5_vl")
    plain = copy.deepcopy(of_family("qwen2_5"))
    plain.chat_template = SMOLLM3
    with pytest.raises(ConfigurationError, match=r"leaves them out.*`protocol.call_text`"):
        ChatToolProtocol(tools_argument="xml_tools").attach(plain, tools())
    with pytest.raises(ConfigurationError, match=r"leaves out 'search'.*takes `tools`"):
        ChatToolProtocol(**SMOLLM3_SETTINGS | {"tools_argument": "tools"}).attach(plain, tools())
    with pytest.raises(ConfigurationError, match="once each"):
        ChatToolProtocol(call_text="<tool_call>{name}</tool_call>")
    plain.chat_template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    with pytest.raises(ConfigurationError, match="name and arguments"):
        ChatToolProtocol().attach(plain, tools())
    with pytest.raises(ConfigurationError, match="chat template"):
        ChatToolProtocol().attach(tokenizer, tools())


def test_a_template_that_writes_no_calls_works_where_the_settings_say_how_the_model_does(
    of_family: Callable[[str], PreTrainedTokenizerFast],
) -> None:
    own = copy.deepcopy(of_family("qwen2_5"))
    own.chat_template = SMOLLM3
    protocol = ChatToolProtocol(**SMOLLM3_SETTINGS)
    protocol.attach(own, tools())
    template = PromptTemplate("{question}", chat=True).announcing(protocol.announce(tools()))
    prompt = own.decode(template.encode(Prompt("1", "Who?", ("x",)), own).prompt_ids)
    assert "{'name': 'search'" in prompt
    assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n")
    call = CALLS["qwen2_5"].removesuffix("<|im_end|>")
    action = protocol.parse(f"{call}\n{call}<|im_end|>", NAMES)
    assert [call.arguments for call in action.calls] == [{"query": "x"}] * 2
    told = whole(protocol.observe_all(action, CALLS["qwen2_5"], ["Oslo", "a <tool_call>"], NAMES))
    again = "<|im_start|>user\na &lt;tool_call><|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n"
    assert told == f"\n<|im_start|>user\nOslo<|im_end|>\n{again}"
    assert protocol.parse("Oslo<|im_end|>", NAMES).content == "Oslo"


def test_tools_that_calls_could_not_tell_apart_or_fit_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="unique, got 'search' 2 times"):
        ChatToolProtocol().check_tool_names(["search", "add", "search"])
    wrong = HTTPTool("post", "Posts.", "http://127.0.0.1:9", {"type": "object", "properties": {"n": {"type": "int"}}})
    with pytest.raises(ConfigurationError, match=r"of the tool 'post'.*wrong at `\$.properties.n.type`: 'int' is"):
        check_parameters(wrong)


def test_the_start_says_what_was_found(attached: Attached, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        protocol = attached("qwen3")
    told = protocol._in_words(NAMES)
    assert "2 announced (search, population); a call of each reads back" in told
    assert "'<tool_call>' and ends with '<|im_end|>'" in told


def test_a_limit_without_room_for_as_many_results_as_an_action_may_ask_for_is_refused(
    attached: Attached, of_family: Callable[[str], PreTrainedTokenizerFast]
) -> None:
    few, many = (
        ObservationEncoder(of_family("qwen2_5"), attached("qwen2_5", max_calls=count), NAMES) for count in (1, 64)
    )
    few.check_limit(200)
    with pytest.raises(ConfigurationError, match=r"observation_tokens.*got 200. Raise the limit"):
        many.check_limit(200)


def test_an_argument_that_the_template_does_not_know_is_told(
    of_family: Callable[[str], PreTrainedTokenizerFast],
) -> None:
    with pytest.warns(UserWarning, match="knows no `enable_thinkng`"):
        ChatToolProtocol({"enable_thinking": False, "enable_thinkng": False}).attach(of_family("qwen3"), tools())


@pytest.mark.parametrize("family", FAMILIES)
def test_no_result_can_hold_a_token_of_the_template_or_a_special_one(
    family: str, attached: Attached, of_family: Callable[[str], PreTrainedTokenizerFast]
) -> None:
    protocol, tokenizer = attached(family), of_family(family)
    encoder = ObservationEncoder(tokenizer, protocol, NAMES)
    found = recording()[family]
    own = {tokenizer.convert_tokens_to_ids(text) for text in (*found["special"], *found["added"])}
    action = protocol.parse(CALLS[family], NAMES)

    def marks(body: str) -> int:
        text = protocol.observe_all(action, CALLS[family], [body], NAMES)
        return sum(token in own for token in encoder.encode(text, 10_000).token_ids)

    pieces = [*found["special"], *found["added"], "<", ">", "[", "]", "|", "\n", '"', "\\", "\ud800", "北", " ", "x"]
    pieces += [RESULTS[family], CALLS[family], '", "call_id": ', "</tool_response>", "<tool_response>"]
    draw, harmless = random.Random(0), marks("Oslo")
    for _ in range(100):
        body = "".join(draw.choices(pieces, k=draw.randint(0, 12)))
        assert marks(body) == harmless, body
        assert protocol.parse(body, NAMES).kind in ("tool", "answer", "invalid")  # and never an error
        text = protocol.observe(body, NAMES).body
        assert not any(mark in text for mark in protocol._known.marks if mark[0] in "<["), body


def test_chat_episode_runs_the_calls_of_an_action_at_once_and_counts_what_tools_refuse(
    of_family: Callable[[str], PreTrainedTokenizerFast],
) -> None:
    tokenizer = of_family("qwen2_5")
    call = '<tool_call>\n{{"name": "{}", "arguments": {}}}\n</tool_call>'.format
    script = [
        call("search", '{"query": "x"}') + call("population", '{"city": "Atlantis"}') + "<|im_end|>",
        call("population", '{"city": "Oslo", "year": "soon"}') + "<|im_end|>",
        call("population", '{"city": "Oslo"') + "<|im_end|>",
        "Oslo<|im_end|>",
    ]
    sampler = ScriptedSampler(tokenizer, lambda trajectory, turn: script[turn])
    protocol = ChatToolProtocol()
    collector = RolloutCollector(sampler, tokenizer, protocol, tools(), ToolCallPolicy(max_retries=0))
    template = PromptTemplate("Question: {question}", chat=True, system="Be brief.").announcing(
        protocol.announce(tools())
    )
    [prompt] = template.encode_batch([Prompt("p", "Where?", ("Oslo",), row={"level": 3})], tokenizer)
    asked = str(tokenizer.decode(list(prompt.prompt_ids)))
    assert "Be brief." in asked
    assert '"description": "Number of people in a city."' in asked
    limits = EpisodeLimits(action_tokens=400, observation_tokens=400, total_tokens=8000, turns=4)
    collection = Collection(1, SamplingParams(), limits, (0, 0, 0))
    [trajectory] = collector.collect([prompt], collection)
    collector.close()
    said = [str(tokenizer.decode(turn.observation_ids)) for turn in trajectory.turns]
    assert "<tool_response>\nx of 3 at 0\n</tool_response>\n<tool_response>\nError: No city named Atlantis." in said[0]
    assert "Error: population: `year`: 'soon' is not of type 'integer'." in said[1]
    assert "Error: The call is no valid JSON" in said[2]
    assert [turn.tool_errors for turn in trajectory.turns] == [1, 1, 0, 0]
    assert (trajectory.status, trajectory.answer, served_calls(trajectory)) == ("answered", "Oslo", 1)
    metrics = rollout_metrics([trajectory], 0)
    assert (metrics["rollout/tool_errors"], metrics["rollout/valid_action_rate"]) == (2 / 3, 3 / 4)
    assert sampler.requests[0].stop_ids == (tokenizer.convert_tokens_to_ids("<|im_end|>"),)
    assert unpacked_trajectories(packed_trajectories([trajectory])) == [trajectory]  # as a checkpoint keeps it
    span = answer_span(trajectory, tokenizer, protocol.answer_mark)
    assert str(tokenizer.decode(trajectory.token_ids[span.start : span.stop])) == "Oslo<|im_end|>"


def test_the_answer_of_masking_begins_behind_the_reasoning(
    attached: Attached, of_family: Callable[[str], PreTrainedTokenizerFast]
) -> None:
    protocol, tokenizer = attached("qwen3"), of_family("qwen3")
    sampler = ScriptedSampler(tokenizer, lambda trajectory, turn: ANSWERS["qwen3"])
    collector = RolloutCollector(sampler, tokenizer, protocol, tools(), ToolCallPolicy())
    prompt = Prompt("p", "?", ("Oslo",), prompt_ids=(5,))
    [trajectory] = collector.collect([prompt], Collection(1, SamplingParams(), EpisodeLimits(), (0, 0)))
    collector.close()
    span = answer_span(trajectory, tokenizer, protocol.answer_mark)
    assert str(tokenizer.decode(trajectory.token_ids[span.start : span.stop])) == "</think>\n\nOslo<|im_end|>"
