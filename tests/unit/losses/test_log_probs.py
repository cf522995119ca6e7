"""Log-probs and entropy in tiles: against log_softmax and the oracle, gradcheck, what is allocated, positions."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llds.errors import ConfigurationError
from llds.losses import action_log_probs, before_actions, scatter_to_tokens, selected_log_probs
from llds.losses.arithmetic import Arithmetic
from llds.losses.log_probs import HeadTokens
from tests import oracles

N, H, V = 23, 8, 61


@pytest.fixture
def problem():
    """Hidden states, head, bias and targets, in float64."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, H, generator=generator, dtype=torch.float64)
    weight = torch.randn(V, H, generator=generator, dtype=torch.float64)
    bias = torch.randn(V, generator=generator, dtype=torch.float64)
    return hidden, weight, bias, torch.randint(V, (N,), generator=generator)


def naive(hidden, weight, bias, targets, temperature=1.0):
    """From all the logits."""
    log_softmax = ((hidden @ weight.T + bias) / temperature).log_softmax(-1)
    return log_softmax.gather(1, targets[:, None])[:, 0], -(log_softmax.exp() * log_softmax).sum(-1)


def leaves(*tensors, dtype=torch.float64):
    return [tensor.detach().to(dtype).requires_grad_() for tensor in tensors]


def test_two_tokens_by_hand(hand):
    # one hidden unit of 1, head rows 0 and ln 3: p = 1/4 and 3/4
    # ln 1/4 = -1.386294, ln 3/4 = -0.287682; entropy = (1.386294 + 3 * 0.287682) / 4 = 0.562335
    weight = torch.tensor([[0.0], [math.log(3)]], dtype=torch.float64)
    out = selected_log_probs(torch.ones(2, 1, dtype=torch.float64), weight, torch.tensor([0, 1]), vocab_chunk=1)
    assert out.log_probs.tolist() == pytest.approx([-1.386294, -0.287682], abs=hand)
    assert out.entropy.tolist() == pytest.approx([0.562335] * 2, abs=hand)


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_it_matches_the_oracle(problem, temperature, exact):
    hidden, weight, bias, targets = problem
    out = selected_log_probs(hidden, weight, targets, bias=bias, temperature=temperature, token_chunk=5, vocab_chunk=9)
    rows = zip(hidden.tolist(), targets.tolist(), out.log_probs.tolist(), out.entropy.tolist(), strict=True)
    for row, target, log_prob, entropy in rows:
        expected = oracles.log_prob_and_entropy(row, weight.tolist(), bias.tolist(), target, temperature)
        assert (log_prob, entropy) == pytest.approx(expected, abs=exact)


@pytest.mark.parametrize(("token_chunk", "vocab_chunk"), [(1, 1), (7, 10), (23, 61), (22, 60), (1000, 1000)])
@pytest.mark.parametrize("temperature", [0.6, 1.0])
@pytest.mark.parametrize("is_frozen", [False, True])
def test_values_and_gradients_match_log_softmax_for_any_tiles(
    problem, token_chunk, vocab_chunk, temperature, is_frozen, exact
):
    hidden, weight, bias, targets = problem
    upstream = torch.linspace(-1, 1, N, dtype=torch.float64)
    upstream[4:9] = 0  # tokens that backward leaves out
    ours, theirs = leaves(hidden, weight, bias), leaves(hidden, weight, bias)
    for tensor in ours[1:]:
        tensor.requires_grad_(not is_frozen)
    tiles = {"token_chunk": token_chunk, "vocab_chunk": vocab_chunk}
    out = selected_log_probs(ours[0], ours[1], targets, bias=ours[2], temperature=temperature, **tiles)
    expected, entropy = naive(*theirs, targets, temperature)
    out.log_probs.backward(upstream)
    expected.backward(upstream)
    assert (out.log_probs - expected).abs().max() <= exact
    assert (out.entropy - entropy).abs().max() <= exact
    assert (ours[0].grad - theirs[0].grad).abs().max() <= exact
    if is_frozen:
        assert ours[1].grad is None
    else:
        assert (ours[1].grad - theirs[1].grad).abs().max() <= exact
        assert (ours[2].grad - theirs[2].grad).abs().max() <= exact


@pytest.mark.parametrize(
    "trained", [(True, True, True), (True, False, False), (False, True, False), (True, True, False)]
)
def test_gradcheck(problem, trained):
    hidden, weight, bias, targets = (tensor[:6] for tensor in problem)
    inputs = [tensor.requires_grad_(needs) for tensor, needs in zip((hidden, weight, bias), trained, strict=True)]

    def log_probs(h, w, b):
        return selected_log_probs(h, w, targets % 6, bias=b, temperature=0.8, token_chunk=4, vocab_chunk=4).log_probs

    assert torch.autograd.gradcheck(log_probs, inputs)


@pytest.mark.parametrize("trained", [(True, True, True), (True, False, False), (False, True, False)])
@pytest.mark.parametrize("reads_log_probs", [False, True])
def test_entropies_have_their_gradient_alone_and_with_that_of_log_probs(problem, trained, reads_log_probs, exact):
    targets = problem[3]
    factors = torch.rand(2, len(targets), generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def gradients(scores):
        tensors = [value.clone().requires_grad_(needs) for value, needs in zip(problem[:3], trained, strict=True)]
        log_probs, entropy = scores(*tensors)
        loss = (factors[0] * entropy).sum() + ((factors[1] * log_probs).sum() if reads_log_probs else 0)
        return torch.autograd.grad(loss, [value for value in tensors if value.requires_grad])

    found = gradients(
        lambda hidden, weight, bias: selected_log_probs(
            hidden, weight, targets, bias=bias, temperature=0.8, token_chunk=4, vocab_chunk=5
        )
    )
    expected = gradients(lambda hidden, weight, bias: naive(hidden, weight, bias, targets, 0.8))
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine - theirs).abs().max() <= exact


def test_scoring_needs_no_graph(problem):
    hidden, weight, _, targets = problem
    out = selected_log_probs(*leaves(hidden, weight), targets)
    assert out.log_probs.requires_grad
    assert out.entropy.requires_grad
    with torch.no_grad():
        assert torch.equal(selected_log_probs(*leaves(hidden, weight), targets).log_probs, out.log_probs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precisions_accumulate_in_float32(problem, dtype, single):
    hidden, weight, bias, targets = problem
    ours = leaves(hidden, weight, bias, dtype=dtype)
    out = selected_log_probs(ours[0], ours[1], targets, bias=ours[2], vocab_chunk=10)
    theirs = leaves(*ours)  # the same rounded values, in float64
    expected, entropy = naive(*theirs, targets)
    assert out.log_probs.dtype == out.entropy.dtype == torch.float32
    assert (out.log_probs - expected).abs().max() <= single  # no rounding of the logits to `dtype`
    assert (out.entropy - entropy).abs().max() <= single
    out.log_probs.sum().backward()
    expected.sum().backward()
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine.grad.dtype == dtype
        assert (mine.grad - reference.grad).abs().max() <= 4 * torch.finfo(dtype).eps * reference.grad.abs().max()


def test_under_autocast_operands_are_rounded_and_the_result_is_not(problem, single):
    hidden, weight, bias, targets = problem
    ours = leaves(hidden, weight, bias, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = selected_log_probs(ours[0], ours[1], targets, bias=ours[2])
        out.log_probs.sum().backward()
    theirs = leaves(hidden.bfloat16(), weight.bfloat16(), bias.float())
    expected, _ = naive(*theirs, targets)
    expected.sum().backward()
    assert (out.log_probs - expected).abs().max() <= single
    assert (ours[2].grad - theirs[2].grad).abs().max() <= single  # no product of operands
    assert ours[1].grad.dtype == torch.float32


@pytest.fixture
def backend():
    """OneDNN's settings for products, at a known value."""
    matmul = torch.backends.mkldnn.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "ieee"
    yield matmul
    matmul.fp32_precision = before


def test_the_switch_for_bf16_products_is_put_back(problem, backend):
    hidden, weight, _, targets = problem
    ours = leaves(hidden, weight, dtype=torch.bfloat16)
    selected_log_probs(*ours, targets).log_probs.sum().backward()
    assert backend.fp32_precision == "ieee"
    with pytest.raises(KeyError), Arithmetic.of(*ours).scope(ours[0].device):
        raise KeyError
    assert backend.fp32_precision == "ieee"


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


@pytest.mark.parametrize("is_frozen", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tensor_of_all_logits_is_ever_allocated(is_frozen, dtype):
    n_rows, n_tokens, n_vocab, width = 2, 150, 3000, 4
    hidden = torch.randn(n_rows, n_tokens, width, dtype=dtype).requires_grad_()
    weight = torch.randn(n_vocab, width, dtype=dtype).requires_grad_(not is_frozen)
    index = torch.zeros(n_rows, n_tokens, dtype=torch.long)
    index[:, 0] = -1
    tokens = torch.randint(n_vocab, index.shape)
    with LargestTensor() as seen:
        picked, targets = before_actions(hidden, index), tokens[:, 1:].flatten()
        scores = selected_log_probs(picked, weight, targets, token_chunk=100, vocab_chunk=500)
        scatter_to_tokens(scores.log_probs, index).sum().backward()
    assert hidden.grad.abs().sum() > 0
    assert seen.numel <= 100 * 500  # one tile; all the logits are 18 times as many
    with LargestTensor() as seen:
        naive(picked, weight, torch.zeros(n_vocab, dtype=dtype), targets)
    assert seen.numel == 298 * 3000


def test_very_unlike_logits_neither_overflow_nor_lose_the_entropy(exact):
    weight = torch.tensor([[-900.0], [0.0], [900.0], [899.0]], dtype=torch.float64)
    hidden = torch.ones(4, 1, dtype=torch.float64)
    for vocab_chunk in (1, 2, 3, 4):
        out = selected_log_probs(hidden, weight, torch.arange(4), vocab_chunk=vocab_chunk)
        expected, _ = naive(hidden, weight, torch.zeros(4, dtype=torch.float64), torch.arange(4))
        assert (out.log_probs - expected).abs().max() <= exact
        p = 1 / (1 + math.exp(-1))
        assert out.entropy.tolist() == pytest.approx([-p * math.log(p) - (1 - p) * math.log(1 - p)] * 4, abs=exact)


def test_no_tokens_give_an_empty_result_with_zero_gradients():
    hidden, weight = torch.randn(0, H, requires_grad=True), torch.randn(V, H, requires_grad=True)
    out = selected_log_probs(hidden, weight, torch.zeros(0, dtype=torch.long))
    out.log_probs.sum().backward()
    assert out.log_probs.shape == out.entropy.shape == hidden.grad.shape[:1] == (0,)
    assert not weight.grad.any()


@pytest.mark.parametrize("is_frozen", [False, True])
def test_zero_upstream_gradients_give_zero_gradients(problem, is_frozen):
    hidden, weight = leaves(*problem[:2])
    weight.requires_grad_(not is_frozen)
    (selected_log_probs(hidden, weight, problem[3]).log_probs * 0).sum().backward()
    assert not hidden.grad.any()
    assert is_frozen or not weight.grad.any()


def test_the_state_before_a_token_predicts_it(exact):
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(2, 5, H, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(V, H, generator=generator, dtype=torch.float64)
    tokens = torch.randint(V, (2, 5), generator=generator)
    index = torch.tensor([[-1, 0, 0, -1, 1], [-1, -1, -1, 0, -1]])
    log_softmax = (hidden @ weight.T).log_softmax(-1)
    scores = action_log_probs(before_actions(hidden, index), weight, tokens, index)
    for b in range(2):
        for t in range(5):
            expected = log_softmax[b, t - 1, tokens[b, t]].item() if index[b, t] >= 0 else 0.0
            assert scores.log_probs[b, t].item() == pytest.approx(expected, abs=exact)
            assert (scores.entropy[b, t] > 0) == (index[b, t] >= 0)
    scores.log_probs.sum().backward()
    is_used = hidden.grad.abs().sum(-1) > 0
    assert is_used.tolist() == [[True, True, False, True, False], [False, False, True, False, False]]


@pytest.mark.parametrize("filler", [math.nan, math.inf])
def test_states_and_tokens_off_the_actions_do_not_count(filler):
    hidden = torch.randn(1, 4, H)
    index = torch.tensor([[-1, -1, 0, 0]])
    weight, tokens = torch.randn(V, H), torch.tensor([[1, 2, 3, 4]])
    expected = action_log_probs(before_actions(hidden, index), weight, tokens, index)
    noisy, odd = hidden.clone(), torch.tensor([[-5, 10**6, 3, 4]])
    noisy[0, [0, 3]] = filler
    noisy.requires_grad_()
    scores = action_log_probs(before_actions(noisy, index), weight, odd, index)
    assert torch.equal(scores.log_probs, expected.log_probs)
    assert torch.equal(scores.entropy, expected.entropy)
    scores.log_probs.sum().backward()
    assert torch.isfinite(noisy.grad).all()
    assert not noisy.grad[0, [0, 3]].any()


def test_a_batch_without_actions_gives_graph_connected_zeros():
    hidden, weight = torch.randn(2, 3, H, requires_grad=True), torch.randn(V, H, requires_grad=True)
    index = torch.full((2, 3), -1)
    scores = action_log_probs(before_actions(hidden, index), weight, torch.zeros(2, 3, dtype=torch.long), index)
    assert scores.log_probs.tolist() == [[0.0] * 3] * 2
    scores.log_probs.sum().backward()
    assert not hidden.grad.any()
    assert not weight.grad.any()


def test_the_probability_of_some_tokens_is_that_of_all_logits(problem, exact):
    hidden, weight, bias, targets = problem
    entries = torch.tensor([3, 60, 7])
    known = selected_log_probs(hidden, weight, targets, bias=bias, temperature=0.7).log_probs
    every = ((hidden @ weight.T + bias) / 0.7).softmax(-1)[:, entries].sum(1)
    for given in (None, known):
        mass = HeadTokens(hidden, targets, weight, bias, 0.7, given).mass(entries)
        assert mass.tolist() == pytest.approx(every.tolist(), abs=exact)


def test_bad_input_is_refused(problem):
    hidden, weight, _, targets = problem
    with pytest.raises(ConfigurationError, match="t = 0 of row 1"):
        before_actions(torch.zeros(2, 3, H), torch.tensor([[-1, 0, 0], [0, -1, -1]]))
    with pytest.raises(ConfigurationError, match=r"target tokens in \[0, 61\), got 0 to 61"):
        selected_log_probs(hidden[:2], weight, torch.tensor([0, V]))
    with pytest.raises(ConfigurationError, match="hidden"):
        selected_log_probs(hidden[:3], weight, targets)
    with pytest.raises(ConfigurationError, match="bias"):
        selected_log_probs(hidden, weight, targets, bias=torch.zeros(V + 1))
    for settings in ({"temperature": 0.0}, {"temperature": math.nan}, {"vocab_chunk": 0}, {"token_chunk": -1}):
        with pytest.raises(ConfigurationError, match="positive"):
            selected_log_probs(hidden, weight, targets, **settings)
