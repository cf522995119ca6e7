"""The vocabulary: the records that flow from a question to a gradient.

Everything is token ids; text is a view that logs and parsers take, and is never tokenised again. In shapes, ``B`` is
the number of trajectories, ``T`` the number of tokens of the longest one (prompt included), ``N`` the number of action
tokens.

Left out on purpose: tensors (see `llds.batches.policy_batch`) and anything that acts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

StopReason = Literal["stop", "eos", "length"]
"""Why an action ended: at a closing tag ("stop"), at the end-of-sequence token ("eos"), at its limit ("length")."""

ActionKind = Literal["tool", "answer", "invalid"]
"""What an action asks for: a tool call, the end of the episode, or nothing that the protocol understands."""

WHOLE = "reward"
"""Name of a reward that has no parts."""

ARGUMENT = "argument"
"""Name of the argument of a tool that takes one text."""

TrajectoryStatus = Literal["answered", "out_of_turns", "out_of_room", "failed"]
"""How an episode ended: with an answer; after the last turn; at the total length limit; by infrastructure."""


@dataclass(frozen=True)
class Prompt:
    """One question with its gold answers.

    Attributes:
        prompt_id: Identifies the question in logs; unique within its data source.
        question: The question as text.
        golden_answers: The accepted answers, at least one; none of a question that was asked on the command line.
        data_source: Name of the data set; results are reported per data source.
        messages: Chat messages that replace the prompt template, where the data file brings them.
        origin: ``file:row`` that the prompt was read from, for error messages.
        prompt_ids: The tokens that the policy sees before its first action.
        opening: Positions in `prompt_ids` of what the opening tool says about the question: empty until an episode
            begins; None in a prompt without.
        document_ids: Passages that the opening tool brought, best first.
        row: The row of the data file, every column by its name, in plain values (text, numbers, booleans, None, lists
            and mappings of these): what tools and rewards of your own read.
    """

    prompt_id: str
    question: str
    golden_answers: tuple[str, ...]
    data_source: str = "default"
    messages: tuple[Mapping[str, str], ...] | None = None
    origin: str = ""
    prompt_ids: tuple[int, ...] = ()
    opening: range | None = None
    document_ids: tuple[str, ...] = ()
    row: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def opened_with(self, token_ids: Sequence[int], document_ids: tuple[str, ...]) -> "Prompt":
        """The prompt with these tokens at its opening, which is still empty.

        Args:
            token_ids: What the opening tool said.
            document_ids: The passages behind it.
        """
        assert self.opening is not None  # noqa: S101 (the episode has checked it)
        at = self.opening.start
        ids = (*self.prompt_ids[:at], *token_ids, *self.prompt_ids[at:])
        return replace(self, prompt_ids=ids, opening=range(at, at + len(token_ids)), document_ids=document_ids)


@dataclass(frozen=True)
class SamplingParams:
    """The sampling law of an action; recorded on every trajectory.

    Attributes:
        temperature: Divides the logits; 0 is greedy.
        top_p: Smallest probability mass that is sampled from; 1 is everything.
        top_k: Number of likeliest tokens that are sampled from; 0 is all.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


@dataclass(frozen=True)
class Completion:
    """What a sampler returns for one action.

    Attributes:
        token_ids: The sampled tokens, closing tag or end-of-sequence token included.
        log_probs: Log-probability of each under the sampling law (the behavior policy), in nats.
        stop_reason: Why the action ended.
    """

    token_ids: list[int]
    log_probs: list[float]
    stop_reason: StopReason


@dataclass(frozen=True)
class ToolCall:
    """One call of a tool, as the policy wrote it.

    Attributes:
        name: Of the tool.
        arguments: By name.
        call_id: That the policy gave it; empty without one.
    """

    name: str
    arguments: Mapping[str, Any]
    call_id: str = ""


@dataclass(frozen=True)
class Action:
    """An action as the protocol reads it.

    Attributes:
        kind: What it asks for.
        name: The (first) tool's name for ``tool``, else empty.
        content: The tool's argument or the answer, as text.
        calls: The calls of a protocol whose arguments have names, in order; empty where `content` is the argument.
        reason: Why it could not be understood, where the kind is ``invalid`` and the protocol knows.
    """

    kind: ActionKind
    name: str = ""
    content: str = ""
    calls: tuple[ToolCall, ...] = ()
    reason: str = ""

    @property
    def call_count(self) -> int:
        """Number of `tool_calls`."""
        return len(self.calls) or int(self.kind == "tool")

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """All calls that it makes."""
        if self.calls or self.kind != "tool":
            return self.calls
        return (ToolCall(self.name, {ARGUMENT: self.content}),)


@dataclass(frozen=True)
class ToolResult:
    """What an agent tool returns.

    Attributes:
        text: The text that becomes the observation.
        document_ids: Ids of the passages behind it, best first, for retrieval metrics and logs.
    """

    text: str
    document_ids: tuple[str, ...] = ()


@dataclass
class Turn:
    """One action and the observation that it got.

    Attributes:
        action_ids: Tokens the policy sampled.
        behavior_log_probs: Their log-probabilities under the behavior policy, in nats.
        stop_reason: Why the action ended.
        action: How the protocol read it.
        observation_ids: Tokens the environment appended; empty after the last action.
        observation_is_cut: Whether the observation was cut at its limit.
        document_ids: Passages that a search returned, best first.
        tool_s: Seconds spent waiting for the tool.
        tool_errors: Calls whose tool refused its arguments, which the observation says; the action itself was valid.
        rewards: What each part of the reward gave for this action, by name; those that say nothing of it are left out.
    """

    action_ids: list[int]
    behavior_log_probs: list[float]
    stop_reason: StopReason
    action: Action
    observation_ids: list[int] = field(default_factory=list)
    observation_is_cut: bool = False
    document_ids: tuple[str, ...] = ()
    tool_s: float = 0.0
    tool_errors: int = 0
    rewards: dict[str, float] = field(default_factory=dict)


@dataclass
class Trajectory:
    """The record that a rollout leaves.

    Attributes:
        prompt: The question.
        group_id: Minted at sampling time, unique per (iteration, position); its trajectories share a baseline.
        index: Position of the trajectory in its rollout batch.
        sampling: The sampling law.
        policy_version: Version of the weights that sampled it.
        turns: Actions and observations, in order.
        status: How the episode ended.
        failure: What failed, where the status is ``failed``.
        failed_by: Which part of the infrastructure it was; "time" for one that was abandoned as a straggler.
        reward: Set by the reward function after the episode.
        rewards: What each part of the reward gave, by name, where there are several; those that do not apply are left
            out.
        is_correct: Whether the answer is right, which is not the same as a reward above 0: set with the reward.
        environment_reward: What its environment said that the episode was worth; None where it says nothing.
    """

    prompt: Prompt
    group_id: str
    index: int
    sampling: SamplingParams
    policy_version: int = 0
    turns: list[Turn] = field(default_factory=list)
    status: TrajectoryStatus = "out_of_turns"
    failure: str = ""
    failed_by: Literal["", "tool", "sampler", "reward", "time"] = ""
    reward: float = 0.0
    rewards: dict[str, float] = field(default_factory=dict)
    is_correct: bool = False
    environment_reward: float | None = None

    @property
    def length(self) -> int:
        """Number of `token_ids`."""
        turns = sum(len(turn.action_ids) + len(turn.observation_ids) for turn in self.turns)
        return len(self.prompt.prompt_ids) + turns

    @property
    def token_ids(self) -> list[int]:
        """Prompt, actions and observations in order: exactly the tokens that are trained on."""
        ids = list(self.prompt.prompt_ids)
        for turn in self.turns:
            ids += turn.action_ids
            ids += turn.observation_ids
        return ids

    @property
    def action_index(self) -> list[int]:
        """Turn number of each action token, -1 on prompt and observations; as long as `token_ids`."""
        index = [-1] * len(self.prompt.prompt_ids)
        for number, turn in enumerate(self.turns):
            index += [number] * len(turn.action_ids) + [-1] * len(turn.observation_ids)
        return index

    @property
    def behavior_log_probs(self) -> list[float]:
        """Behavior log-probability of each action token, 0 elsewhere; as long as `token_ids`."""
        values = [0.0] * len(self.prompt.prompt_ids)
        for turn in self.turns:
            values += turn.behavior_log_probs + [0.0] * len(turn.observation_ids)
        return values

    @property
    def retrieved(self) -> list[list[int]]:
        """Token ids of each observation that holds passages: the opening's, then those of the turns."""
        prompt = self.prompt
        opening = [prompt.prompt_ids[prompt.opening.start : prompt.opening.stop]] if prompt.opening else []
        observations = [turn.observation_ids for turn in self.turns if turn.document_ids]
        return [list(ids) for ids in opening if prompt.document_ids] + observations

    @property
    def answer(self) -> str | None:
        """The answer that the policy gave in its last action, None without one. Observations cannot supply it."""
        if self.turns and self.turns[-1].action.kind == "answer":
            return self.turns[-1].action.content
        return None

    def describe(self) -> dict[str, Any]:
        """A JSON-ready summary without tensors, for logs."""
        return {
            "prompt_id": self.prompt.prompt_id,
            "data_source": self.prompt.data_source,
            "question": self.prompt.question,
            "golden_answers": list(self.prompt.golden_answers),
            "group_id": self.group_id,
            "index": self.index,
            "policy_version": self.policy_version,
            "status": self.status,
            "failure": self.failure,
            "answer": self.answer,
            "reward": self.reward,
            "is_correct": self.is_correct,
            **({"rewards": self.rewards} if self.rewards else {}),
        }
