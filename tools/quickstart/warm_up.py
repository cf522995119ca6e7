"""Supervised warm-up: demonstrations as token ids, and the training loop over them."""

import random
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from llds.rollout.observation import ObservationEncoder

from demonstrations import Demonstration
from forms import Form, form_of

OBSERVATION_TOKENS = 160
Encoded = tuple[list[int], list[bool]]


class DemonstrationEncoder:
    """Turns demonstrations into the token ids of a rollout, and says which of them the policy has to learn."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer, self.form = tokenizer, form_of(tokenizer)
        self.observations = ObservationEncoder(tokenizer, self.form.protocol, self.form.tools)
        self._backend = tokenizer.backend_tokenizer

    def encode_like_rollout(self, demonstration: Demonstration) -> Encoded:
        """One demonstration through the classes that rollouts use."""
        prompt, actions, _ = _texts(demonstration, self.form)
        ids = self.tokenizer.encode(prompt, add_special_tokens=False)
        learn = [False] * len(ids)
        for turn, action in enumerate(actions):
            part = self.tokenizer.encode(action, add_special_tokens=False)
            ids, learn = ids + part, learn + [True] * len(part)
            if turn < len(demonstration.bodies):
                text = self.form.protocol.observe(demonstration.bodies[turn], self.form.tools)
                part = self.observations.encode(text, OBSERVATION_TOKENS).token_ids
                ids, learn = ids + part, learn + [False] * len(part)
        return ids, learn

    def encode(self, demonstrations: list[Demonstration]) -> list[Encoded]:
        """Many at once; the same ids, which a check on the first ones confirms."""
        written = [_texts(item, self.form) for item in demonstrations]
        texts = [text for prompt, actions, observed in written for text in (prompt, *actions, *observed)]
        parts = iter([encoding.ids for encoding in self._backend.encode_batch(texts, add_special_tokens=False)])
        encoded = [self._assemble(item, parts) for item in demonstrations]
        for item, fast in zip(demonstrations[:50], encoded, strict=False):
            if fast != self.encode_like_rollout(item):
                raise AssertionError(f"Expected the ids of a rollout for {item}.")
        return encoded

    def _assemble(self, item: Demonstration, parts: Iterator[list[int]]) -> Encoded:
        prompt = next(parts)
        actions = [next(parts) for _ in (*item.queries, item.answer)]
        bodies = [next(parts) for _ in item.bodies]
        ids, learn = prompt, [False] * len(prompt)
        for turn, action in enumerate(actions):
            ids, learn = ids + action, learn + [True] * len(action)
            if turn < len(bodies):
                ids, learn = ids + bodies[turn], learn + [False] * len(bodies[turn])
        return ids, learn


def _texts(item: Demonstration, form: Form) -> tuple[str, list[str], list[str]]:
    """The prompt, the actions and the observations."""
    told = [form.protocol.observe(body, form.tools) for body in item.bodies]
    actions = [*map(form.call, item.queries), form.answer(item.answer)]
    return form.prompt(item.question), actions, [text.opening + text.body + text.closing for text in told]


def batches(encoded: list[Encoded], batch_size: int, rng: random.Random) -> Iterator[list[Encoded]]:
    """Batches of similar length in random order."""
    order = sorted(range(len(encoded)), key=lambda row: len(encoded[row][0]) + rng.random())
    starts = list(range(0, len(order) - batch_size + 1, batch_size))
    rng.shuffle(starts)
    for start in starts:
        yield [encoded[row] for row in order[start : start + batch_size]]


def copying_drills(token_ids: list[int], count: int, rng: random.Random) -> list[Encoded]:
    """Short runs of random tokens, then the same runs in another order: each but its first token can be copied."""
    drills = []
    for _ in range(count):
        runs = [rng.choices(token_ids, k=rng.randint(2, 5)) for _ in range(9)]
        ids = [token for run in runs for token in run]
        learn = [False] * len(ids)
        for run in rng.sample(runs, len(runs)):
            ids += run
            learn += [False] + [True] * (len(run) - 1)
        drills.append((ids, learn))
    return drills


def demonstration_loss(model: LlamaForCausalLM, batch: list[Encoded]) -> Tensor:
    """Mean cross-entropy over action tokens; the head runs on no other."""
    width = max(len(ids) for ids, _ in batch)
    ids = torch.tensor([row + [0] * (width - len(row)) for row, _ in batch])
    learn = torch.tensor([row + [False] * (width - len(row)) for _, row in batch])
    # Padding is on the right, where causal attention never looks from a real token: no mask is needed.
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][learn[:, 1:]]
    return cross_entropy(model.lm_head(hidden), ids[:, 1:][learn[:, 1:]])


class Trainer:
    """Muon on the matrices of the layers, AdamW on the rest, linear warm-up and decay to a tenth."""

    def __init__(self, model: LlamaForCausalLM, muon_lr: float = 0.01, adam_lr: float = 3e-3) -> None:
        self.model = model
        matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
        known = {id(p) for p in matrices}
        others = [p for p in model.parameters() if id(p) not in known]
        self.optimizers = [
            torch.optim.Muon(matrices, lr=muon_lr, weight_decay=0.01),
            torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.01),
        ]
        self.base = [muon_lr, adam_lr]

    def step(self, batch: list[Encoded], progress: float, scale: float = 1.0) -> float:
        """One optimizer step; ``progress`` in [0, 1] places it in the schedule."""
        factor = scale * min(1.0, progress / 0.05 + 0.02) * max(0.02, 1 - max(0.0, progress - 0.3) / 0.7)
        loss = demonstration_loss(self.model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, lr in zip(self.optimizers, self.base, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = lr * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())
