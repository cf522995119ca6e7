"""The influence of trajectories on actions: against explicit loops, and against real steps on the head."""

import pytest
import torch
from torch import Tensor

from llds.probes.influence import HeadTokens, head_influence

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
