"""What a probe records, and which tokens pull a correct action."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from llds.losses.advantages.influence import influence_on
from llds.losses.log_probs import HeadTokens, proxy_log_probs
from llds.probes import Probe, ProbedAction, ProbedQuestion, ProbedTrajectory
from llds.probes.agreement import agreement
from llds.probes.influence import head_influence

RIGHT = ProbedTrajectory(reward=1.0, is_correct=True, advantage=1.0, tokens=4, change=-0.4, answer="x", turns=[])
WRONG = replace(RIGHT, reward=0.0, is_correct=False, advantage=-0.5, change=-1.0)
FIRST = ProbedAction(trajectory=0, turn=0, place="first", tokens=2, text="a", change=-0.5, pulls=[0.2, -0.5, -0.1])
ANSWER = replace(FIRST, turn=1, place="answer", change=0.1, pulls=[0.3, 0.05, -0.1])
LOSING = ProbedQuestion("q1", "Who?", ["x"], 1.0, [RIGHT, WRONG, WRONG], [FIRST, ANSWER])
GAINING = replace(LOSING, trajectories=[replace(RIGHT, change=0.2), WRONG, WRONG], actions=[])


def test_a_question_is_the_mean_over_its_right_trajectories_per_token() -> None:
    assert LOSING.change_per_token == pytest.approx(-0.1)  # -0.4 nats on 4 tokens
    two = replace(LOSING, trajectories=[RIGHT, replace(RIGHT, change=0.8), WRONG])
    assert two.change_per_token == pytest.approx((-0.1 + 0.2) / 2)
    assert (LOSING.change_of("first"), LOSING.change_of("later")) == (-0.25, None)


def test_g_is_what_the_wrong_take_minus_what_the_right_give() -> None:
    assert FIRST.g == pytest.approx(0.4)
    assert LOSING.negative_part(FIRST) == pytest.approx(0.6)
    assert LOSING.positive_part(FIRST) == pytest.approx(0.2)
    assert LOSING.strongest_pull(FIRST) == (1, -0.5)
    assert LOSING.strongest_pull(ANSWER) == (2, -0.1)
    assert LOSING.strongest_pull(replace(FIRST, pulls=[-1.0, 0.0, 0.1])) is None  # the right one is no culprit


def test_more_than_half_of_the_questions_is_phase_iii() -> None:
    shares = []
    for questions in ([LOSING, GAINING], [LOSING, LOSING, GAINING], []):
        probe = Probe(3, 5, {}, questions)
        shares.append((probe.share_negative, probe.is_phase_iii))
    assert shares == [(0.5, False), (pytest.approx(2 / 3), True), (None, False)]
    probe = Probe(3, 5, {}, [LOSING, GAINING])
    assert probe.mean_change == pytest.approx((-0.1 + 0.05) / 2)
    assert (probe.share_negative_of("first"), probe.share_negative_of("answer")) == (1.0, 0.0)
    assert probe.metrics()["probe/share_negative"] == 0.5
    assert Probe(3, 5, {}, []).metrics() == {"probe/questions": 0.0}


def test_agreement_of_lines_and_of_orders() -> None:
    line = agreement([1.0, 2.0, 3.0, -4.0], [2.0, 4.0, 6.0, -8.0])
    assert line is not None
    assert (line.pairs, line.same_sign) == (4, 1.0)
    assert (line.pearson, line.spearman) == (pytest.approx(1), pytest.approx(1))
    order = agreement([1.0, 2.0, 3.0], [-1.0, -10.0, -100.0])
    assert order is not None
    assert order.spearman == pytest.approx(-1) != order.pearson
    assert order.same_sign == 0.0
    # ranks 0.5, 0.5, 2 against 0, 1, 2: covariance 1.5 of variances 1.5 and 2
    ties = agreement([1.0, 1.0, 3.0], [1.0, 2.0, 3.0])
    assert ties is not None
    assert ties.spearman == pytest.approx(1.5 / math.sqrt(3))
    assert agreement([1.0, 2.0], [1.0, 2.0]) is None
    assert agreement([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None


V, H = 11, 5


def make_tokens(n: int, *, bias: bool = False, temperature: float = 1.0, seed: int = 0) -> HeadTokens:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    targets = torch.randint(V, (n,), generator=generator)
    return HeadTokens(normal(n, H), targets, normal(V, H), normal(V) if bias else None, temperature)


def log_probs(tokens: HeadTokens, weight: Tensor, bias: Tensor | None) -> Tensor:
    logits = tokens.hidden @ weight.t()
    if bias is not None:
        logits = logits + bias
    return torch.log_softmax(logits / tokens.temperature, 1).gather(1, tokens.targets[:, None])[:, 0]


def oracle(tokens: HeadTokens, slopes: Tensor, actions: Tensor, trajectories: Tensor) -> Tensor:
    """The definition, with a loop for every sum."""
    logits = tokens.hidden @ tokens.weight.t() + (0 if tokens.bias is None else tokens.bias)
    policy = torch.softmax(logits / tokens.temperature, 1)
    found = torch.zeros(int(actions.max()) + 1, int(trajectories.max()) + 1, dtype=torch.float64)
    for k, action in enumerate(actions.tolist()):
        for j, trajectory in enumerate(trajectories.tolist()):
            if action < 0:
                continue
            alpha = sum(
                (float(tokens.targets[k] == v) - float(policy[k, v]))
                * (float(tokens.targets[j] == v) - float(policy[j, v]))
                for v in range(V)
            )
            inner = sum(float(tokens.hidden[k, u] * tokens.hidden[j, u]) for u in range(H))
            inner += tokens.bias is not None
            found[action, trajectory] += float(slopes[j]) * alpha * inner / tokens.temperature**2
    return found


ACTIONS = torch.tensor([0, 0, 1, -1, -1, 2, 2, -1])
TRAJECTORIES = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])
SLOPES = torch.tensor([0.4, 0.4, 0.4, -0.3, -0.3, 0.2, 0.2, -0.7], dtype=torch.float64)


@pytest.mark.parametrize(("bias", "temperature", "chunk"), [(False, 1.0, 4096), (True, 0.7, 4)])
def test_the_influence_of_a_token_on_anchors_is_the_definition(bias: bool, temperature: float, chunk: int) -> None:
    tokens = make_tokens(8, bias=bias, temperature=temperature)
    anchors = torch.tensor([1, 1, 0, 0, 1, 0, 0, 1], dtype=torch.bool)
    # What one of the anchors does to each token is what the token does to it: the definition is symmetric
    expected = oracle(tokens, anchors.double(), torch.arange(8), torch.zeros(8, dtype=torch.long))[:, 0]
    assert (influence_on(tokens, anchors, vocab_chunk=chunk) - expected).abs().max() <= 1e-12


@pytest.mark.parametrize(("bias", "temperature", "chunk"), [(False, 1.0, 4096), (True, 0.7, 4)])
def test_the_proxy_is_the_distribution_without_what_is_unlikely(bias: bool, temperature: float, chunk: int) -> None:
    tokens = make_tokens(40, bias=bias, temperature=temperature)
    found = proxy_log_probs(tokens, 0.1, vocab_chunk=chunk)
    logits = tokens.hidden @ tokens.weight.t() + (0 if tokens.bias is None else tokens.bias)
    for row, target in enumerate(tokens.targets.tolist()):
        every = torch.softmax(logits[row] / temperature, 0).tolist()
        kept = [p for p in every if p >= 0.1 * max(every)]
        if every[target] < 0.1 * max(every):
            assert found[row] == -math.inf
        else:
            assert found[row].item() == pytest.approx(math.log(every[target] / sum(kept)), abs=1e-12)
    assert 0 < found.isfinite().sum() < 40


@pytest.mark.parametrize(("bias", "temperature"), [(False, 1.0), (True, 1.0), (True, 0.7)])
@pytest.mark.parametrize(("token_chunk", "vocab_chunk"), [(1024, 4096), (2, 3)])
def test_it_is_the_definition(bias: bool, temperature: float, token_chunk: int, vocab_chunk: int, exact: float) -> None:
    tokens = make_tokens(8, bias=bias, temperature=temperature)
    chunks = {"token_chunk": token_chunk, "vocab_chunk": vocab_chunk}
    found = head_influence(tokens, SLOPES, ACTIONS, TRAJECTORIES, **chunks)
    assert found.shape == (3, 4)
    torch.testing.assert_close(found, oracle(tokens, SLOPES, ACTIONS, TRAJECTORIES), rtol=0, atol=10 * exact)


@pytest.mark.parametrize(("bias", "temperature"), [(False, 1.0), (True, 0.7)])
def test_a_real_step_on_the_head_changes_the_likelihood_by_it(bias: bool, temperature: float) -> None:
    tokens = make_tokens(8, bias=bias, temperature=temperature, seed=1)
    weight = tokens.weight.clone().requires_grad_()
    head_bias = None if tokens.bias is None else tokens.bias.clone().requires_grad_()
    before = log_probs(tokens, weight, head_bias)
    (-(SLOPES * before).sum()).backward()  # L, whose slopes are -dL/dlog pi
    rate = 1e-6
    with torch.no_grad():
        stepped_bias = None if head_bias is None else head_bias - rate * head_bias.grad
        after = log_probs(tokens, weight - rate * weight.grad, stepped_bias)
    change = torch.zeros(3, dtype=torch.float64).index_add(
        0, ACTIONS[ACTIONS >= 0], ((after - before) / rate).detach()[ACTIONS >= 0]
    )
    found = head_influence(tokens, SLOPES, ACTIONS, TRAJECTORIES).sum(1)
    assert found.abs().min() > 1e-2  # the signs that are compared are not those of zeros
    torch.testing.assert_close(found, change, rtol=1e-4, atol=1e-5)


def test_an_equal_wrong_token_pulls_down_and_an_equal_right_one_pulls_up() -> None:
    tokens = make_tokens(1)
    twin = HeadTokens(tokens.hidden.repeat(2, 1), tokens.targets.repeat(2), tokens.weight)
    actions, trajectories = torch.tensor([0, -1]), torch.tensor([0, 1])
    slopes = torch.tensor([0.0, -1.0])
    [[own, other]] = head_influence(twin, slopes, actions, trajectories).tolist()
    assert own == 0
    assert other < 0
    [[_, other]] = head_influence(twin, -slopes, actions, trajectories).tolist()
    assert other > 0


def test_nothing_asked_gives_nothing() -> None:
    none = torch.full((8,), -1)
    assert head_influence(make_tokens(8), SLOPES, none, TRAJECTORIES).shape == (0, 4)
