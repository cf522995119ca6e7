"""The worked example of a tool of one's own: `conf/agents/`."""

import gzip
import json
import lzma
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from llds.agent_tools.web_cache import WebCache
from llds.callbacks import TrajectoryLog, list_checkpoints
from llds.cli import main
from llds.cli.training.ask import answer_question
from llds.data import PromptTemplate
from llds.losses import AnswerMasking, LLDSPenalty
from llds.modules.policy.tokenizer import load_tokenizer
from llds.paths import resolve_path
from llds.rollout import ChatToolProtocol, EpisodeLimits
from tests.runs import POLICY, by_iteration, make_run
from tests.scripted_sampler import ScriptedSampler

ROOT = Path(__file__).parents[2]
AGENT = ROOT / "conf" / "agents"
SMALL = ("--data.iterations", "2", "--data.batch_size", "4", "--model.optimization.mini_batch_size", "2")


class ComputingSampler(ScriptedSampler):
    """Half of its trajectories compute 17 * 23 and double 4 before they answer, the others answer at once."""

    def __init__(self) -> None:
        tokenizer = AutoTokenizer.from_pretrained(resolve_path("llds:quickstart/policy"))
        super().__init__(tokenizer, lambda trajectory, turn: self.action(trajectory % 2, turn))

    def action(self, member: int, turn: int) -> str:
        """The text of an action."""
        calls = ["<calculate>17 * 23</calculate>", '<double>{"n": 4}</double>'] if member == 0 else []
        return calls[turn] if turn < len(calls) else f"<answer>{391 if turn else 0}</answer>"


class JudgeAndDoubler(BaseHTTPRequestHandler):
    """A server with an OpenAPI document, which doubles numbers; and a judge, who takes no answer for right."""

    def do_GET(self) -> None:
        """The document."""
        field = {"n": {"type": "integer"}}
        body = {"content": {"application/json": {"schema": {"type": "object", "properties": field}}}, "required": True}
        operation = {"operationId": "double", "summary": "Doubles a number.", "requestBody": body}
        self._send({"openapi": "3.1.0", "paths": {"/double": {"post": operation}}})

    def do_POST(self) -> None:
        """A number, or a verdict."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        verdict = {"choices": [{"message": {"content": "No."}}]}
        self._send({"doubled": 2 * asked["n"]} if self.path == "/double" else verdict)

    def _send(self, found: object) -> None:
        body = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Four times the same question."""
    file = tmp_path / "questions.jsonl"
    rows = [{"id": str(number), "question": "What is 17 * 23?", "golden_answers": ["391"]} for number in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def command_of(agent: str, folder: Path) -> list[str]:
    """The words of a training of the agent of an example."""
    configuration = ("-c", "llds:quickstart", "-c", f"llds:agents/{agent}")
    return ["fit", *configuration, *SMALL, "--rollout.group_size", "2", "--trainer.default_root_dir", str(folder)]


def fit(monkeypatch: pytest.MonkeyPatch, folder: Path, *args: str, agent: str = "calculator") -> list[dict]:
    """Train the agent of an example without any retriever; its trajectories."""
    monkeypatch.chdir(folder.parent)
    main([*command_of(agent, folder), *args])
    files = sorted((folder / "trajectories").iterdir())
    return [json.loads(line) for file in files for line in gzip.open(file, "rt")]


class AskingServerSampler(ScriptedSampler):
    """Its trajectories ask the tool of the MCP server before they answer, at first with a mistake."""

    def __init__(self) -> None:
        actions = ['<divide>{"a": 1, "b": 0}</divide>', '<multiply>{"a": 17, "b": 23}</multiply>']
        tokenizer = AutoTokenizer.from_pretrained(resolve_path("llds:quickstart/policy"))
        super().__init__(tokenizer, lambda trajectory, turn: [*actions, "<answer>391</answer>"][turn % 3])


@pytest.mark.slow
def test_an_agent_with_the_tools_of_an_mcp_server_trains_without_a_retriever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mcp")
    sampler = f"{AskingServerSampler.__module__}.AskingServerSampler"
    trajectories = fit(monkeypatch, tmp_path / "run", "--rollout.sampler", sampler, agent="mcp")
    assert len(trajectories) == 16
    assert {trajectory["data_source"] for trajectory in trajectories} == {"arithmetic"}
    assert "<multiply> ... </multiply>: Multiplies two numbers." in trajectories[0]["prompt"]
    assert {tuple(turn["tool_errors"] for turn in one["turns"]) for one in trajectories} == {(1, 0, 0)}
    assert all("cannot be divided" in one["turns"][0]["observation"] for one in trajectories)
    assert all("391" in one["turns"][1]["observation"] for one in trajectories)


@pytest.mark.slow
def test_what_tools_compute_comes_back_and_a_judge_says_what_it_is_worth(
    tmp_path: Path, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), JudgeAndDoubler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{server.server_port}"
    (tmp_path / "judge.yaml").write_text((AGENT / "judge.yaml").read_text().replace("127.0.0.1:8000", address))
    tool = {"class_path": "llds.agent_tools.OpenAPITools", "init_args": {"document": f"http://{address}/openapi.json"}}
    (tmp_path / "double.yaml").write_text(json.dumps({"model": {"init_args": {"agent_tools+": [tool]}}}))
    sampler = f"{ComputingSampler.__module__}.ComputingSampler"
    args = ("-c", str(tmp_path / "double.yaml"), "-c", str(tmp_path / "judge.yaml"))
    args += ("--data.train", str(questions), "--data.iterations", "1", "--rollout.sampler", sampler)
    trajectories = fit(monkeypatch, tmp_path / "run", *args)
    server.shutdown()
    computing = [trajectory for trajectory in trajectories if len(trajectory["turns"]) == 3]
    assert len(computing) == len(trajectories) / 2
    assert {turn["kind"] for trajectory in computing for turn in trajectory["turns"][:2]} == {"tool"}
    assert all("391" in trajectory["turns"][0]["observation"] for trajectory in computing)
    assert all('{"doubled": 8}' in trajectory["turns"][1]["observation"] for trajectory in computing)
    values = {(len(one["turns"]), round(one["reward"], 6), one["is_correct"]) for one in trajectories}
    assert values == {(3, 1.1, True), (1, 0.1, False)}  # 1 of the judge's, 0.1 of form


def test_the_example_is_short_enough_to_copy() -> None:
    lines = [line for name in ("calculator.py", "calculator.yaml") for line in (AGENT / name).read_text().splitlines()]
    assert len(lines) <= 40


class WebSampler(ScriptedSampler):
    """Each of its trajectories searches the web once, in an iteration of its own words, before it answers."""

    def __init__(self) -> None:
        tokenizer = AutoTokenizer.from_pretrained(resolve_path("llds:quickstart/policy"))
        super().__init__(tokenizer, lambda trajectory, turn: self.action(trajectory, turn))

    def action(self, trajectory: int, turn: int) -> str:
        """The text of an action."""
        query = f"{self.policy_version} of {trajectory}"
        return "<answer>391</answer>" if turn % 2 else f"<web_search>{query}</web_search>"


class SearXNG(BaseHTTPRequestHandler):
    """A search of the web that finds the same for all."""

    def do_GET(self) -> None:
        """Answer in the shape of SearXNG."""
        found = json.dumps({"results": [{"url": "https://a.test/", "title": "A", "content": "It is 391."}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(found)))
        self.end_headers()
        self.wfile.write(found)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.slow
def test_a_spent_budget_ends_a_training_in_one_line_and_a_larger_one_goes_on_where_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), SearXNG)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    cache = WebCache(str(tmp_path / "web.sqlite"))
    arguments = {"service": "searxng", "url": f"http://127.0.0.1:{server.server_port}", "cache": cache.path}

    def words(budget: int) -> tuple[str, ...]:
        tool = {"class_path": "llds.agent_tools.WebSearchTool", "init_args": arguments | {"budget": budget}}
        sampler = ("--rollout.sampler", f"{WebSampler.__module__}.WebSampler")
        return ("--model.agent_tools", json.dumps([tool]), *sampler, "--policy_check.enabled", "false")

    command = [sys.executable, "-m", "llds", *command_of("calculator", tmp_path / "run"), *words(12)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    ended = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )  # whose budget is spent within the second iteration of eight searches each
    last = ended.stderr.splitlines()[-1]
    assert re.fullmatch(r"llds: Expected at most 12 requests to .*raise the budget, and resume\.", last)
    assert (ended.returncode, "Traceback" in ended.stderr) == (1, False)
    assert [path.stem for path in list_checkpoints(tmp_path / "run")] == ["iteration-000001"]
    trajectories = fit(monkeypatch, tmp_path / "run", *words(100), "--ckpt_path", "last")
    server.shutdown()
    assert len(trajectories) == 16
    assert all("It is 391." in one["turns"][0]["observation"] for one in trajectories)
    assert 16 <= cache.requests <= 20  # of the second iteration's four had been made, whose answers may not have come


class AskingSampler(ScriptedSampler):
    """Some of its trajectories ask the database twice, the first time with a mistake; the others answer at once."""

    def __init__(self) -> None:
        tokenizer = AutoTokenizer.from_pretrained(resolve_path("llds:quickstart/policy"))
        super().__init__(tokenizer, lambda trajectory, turn: self.action(trajectory % 2, turn))

    def action(self, member: int, turn: int) -> str:
        """The text of an action."""
        asks = ("<query>SELECT wrong FROM customers</query>", "<query>SELECT 6 * 7</query>")
        return [*asks, "<answer>Ada</answer>"][turn % 3] if member == 0 else "<answer>x</answer>"


@pytest.mark.slow
def test_an_agent_with_a_database_of_its_own_trains_and_its_mistakes_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "questions.jsonl"
    rows = [{"id": str(number), "question": "Who is first?", "golden_answers": ["Ada"]} for number in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sampler = f"{AskingSampler.__module__}.AskingSampler"
    args = ("--data.train", str(file), "--rollout.sampler", sampler)
    trajectories = fit(monkeypatch, tmp_path / "run", *args, agent="sql")
    assert len(trajectories) == 16  # of two iterations
    asking = [one for one in trajectories if len(one["turns"]) == 3]
    assert len(asking) == 8
    assert "<query> ... </query>: Runs one SQL statement" in asking[0]["prompt"]
    assert all("Error: SQLite says: no such column: wrong" in one["turns"][0]["observation"] for one in asking)
    assert all("42" in one["turns"][1]["observation"] for one in asking)
    assert [[turn["tool_errors"] for turn in one["turns"]] for one in asking] == [[1, 0, 0]] * 8
    assert all(turn["kind"] != "invalid" for one in asking for turn in one["turns"])
    assert [one["is_correct"] for one in trajectories] == [len(one["turns"]) == 3 for one in trajectories]


class SeveralToolsSampler(ScriptedSampler):
    """Its trajectories call three tools at once before they answer.

    Args:
        policy: Folder of the policy.
    """

    def __init__(self, policy: str) -> None:
        call = '<tool_call>\n{{"name": "{}", "arguments": {{"{}": "{}"}}}}\n</tool_call>'.format
        asked = ("calculate", "expression", "17 * 23"), ("python", "code", "print(6 * 7)"), ("search", "query", "Oslo")
        calls = "\n".join(call(*one) for one in asked)
        super().__init__(
            load_tokenizer(policy),
            lambda trajectory, turn: f"<answer>{turn}</answer><|im_end|>" if turn else f"{calls}<|im_end|>",
        )


@pytest.mark.slow
def test_an_agent_that_calls_tools_in_a_chat_template_trains_with_llds_and_its_signals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = ROOT / "tests" / "recordings" / "chat_templates.json.xz"
    found = json.loads(lzma.decompress(recording.read_bytes()))["qwen2_5"]
    tokenizer = load_tokenizer(POLICY)
    tokenizer.add_tokens([AddedToken(text, special=True) for text in found["special"]])
    tokenizer.add_tokens([AddedToken(text, special=False) for text in found["added"]])
    tokenizer.chat_template, tokenizer.eos_token = found["chat_template"], found["eos"]
    policy = tmp_path / "policy"
    tokenizer.save_pretrained(policy)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
        )
    ).save_pretrained(policy)  # fmt: skip
    protocol = ChatToolProtocol()
    module = {"policy": str(policy), "protocol": protocol, "llds_penalty": LLDSPenalty(answer_masking=AnswerMasking())}
    call = '<tool_call>\n{{"name": "search", "arguments": {{"argument": "{}"}}}}\n</tool_call>'.format
    sampler = ScriptedSampler(
        tokenizer,
        lambda trajectory, turn: (
            f"{call(trajectory)}\n{call(turn)}<|im_end|>" if turn % 2 == 0 else "Ghanaian<|im_end|>"
        ),
    )
    limits = EpisodeLimits(action_tokens=120, observation_tokens=300, total_tokens=1500, turns=2)
    rollout = {"limits": limits, "eval_limits": limits}
    run = make_run(tmp_path / "run", TrajectoryLog(), iterations=2, sampler=sampler, module=module, rollout=rollout)
    run.data.template, run.data.max_prompt_tokens = PromptTemplate("{question}", chat=True, system="Be brief."), 600
    run.fit()
    signals = list(by_iteration(tmp_path / "run").values())[-1]
    assert (signals["rollout/tool_calls"], signals["rollout/valid_action_rate"]) == ("2.0", "1.0")
    assert {"llds/lld_rate", "llds/preserved", "policy/log_likelihood_correct_answer"} <= set(signals)
    logged = gzip.decompress((tmp_path / "run/trajectories/iteration-000002.jsonl.gz").read_bytes())
    record = json.loads(logged.splitlines()[0])
    assert record["turns"][0]["observation"].count("The demonym of Ghana is Ghanaian.") == 2
    assert "Be brief." in record["prompt"]
    asked = make_run(tmp_path / "asked", sampler=sampler, module=module, rollout=rollout)
    asked.data.template, asked.data.max_prompt_tokens, asked.trainer.loggers = run.data.template, 600, []
    asked.data.sources = dict.fromkeys(asked.data.sources)
    answer_question("Who?", asked.trainer, asked.module, asked.data, None)
    shown = capsys.readouterr().out
    labels = [line.split()[0] for line in shown.splitlines() if line.startswith(("question", "search", "result"))]
    assert labels[:4] == ["question", "search", "search", "result"]
    assert "answer      Ghanaian" in shown
    several = ("-c", "llds:quickstart", "-c", "llds:agents/chat", "-c", "llds:agents/several", *SMALL)
    sizes = ("--rollout.limits.action_tokens", "200", "--rollout.limits.total_tokens", "2048")
    sizes += ("--rollout.limits.observation_tokens", "400", "--data.max_prompt_tokens", "1200")
    sizes += ("--data.validation", "null", "--rollout.group_size", "2", "--data.iterations", "1")
    sampled = ("--rollout.sampler", f"{SeveralToolsSampler.__module__}.SeveralToolsSampler")
    monkeypatch.chdir(tmp_path)
    of_run = ("--model.policy", str(policy), *sampled, "--rollout.sampler.policy", str(policy))
    main(["fit", *several, *sizes, *of_run])
    [file] = (tmp_path / "runs" / "several" / "trajectories").iterdir()
    turns = json.loads(gzip.decompress(file.read_bytes()).splitlines()[0])["turns"]
    assert [[word in turns[0]["observation"] for word in ("391", "42", "Doc 1")], len(turns)] == [[True] * 3, 2]
    live = make_run(tmp_path / "live", iterations=1, module=module | {"llds_penalty": None}, rollout=rollout)
    live.data.template, live.data.max_prompt_tokens = run.data.template, 600
    live.fit()  # a random policy through the sampler that ends actions at tokens only
    [signals] = by_iteration(tmp_path / "live").values()
    assert float(signals["rollout/valid_action_rate"]) < 1
