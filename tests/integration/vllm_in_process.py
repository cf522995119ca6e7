"""Everything that one vLLM engine in this process can show; run as a script, because the engine changes its process.

Prints one JSON object; `test_vllm.py` asserts on it. Each check works on the quickstart's policy.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import lightning.pytorch as pl
import torch

from llds.callbacks.rollout.weight_sync import WeightSync
from llds.errors import LLDSError
from llds.modules import SearchAgentModule
from llds.modules.policy.adapters import LoRA
from llds.modules.policy.policy import Policy
from llds.paths import resolve_path
from llds.samplers import SampledPolicy, SampleRequest, TransformersSampler, VLLMSampler
from llds.samplers.transformers.decoding import OpenAction, SeededSampling
from llds.samplers.vllm.engine import DeviceTransfer, LocalEngine, WeightReceiver, _Loading, make_source
from llds.samplers.vllm.engine_thread import EngineThread
from llds.types import Completion, SamplingParams

POLICY = "llds:quickstart/policy"


class Checks:
    """A sampler, a module, and what they do together."""

    def __init__(self, model: str = POLICY) -> None:
        self.model = model
        self.module = SearchAgentModule(model)
        self.module.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        self.module.setup("test")
        self.policy = SampledPolicy(resolve_path(model), self.module.tokenizer, "float32", 512, Path())
        self.sampler = VLLMSampler()
        self.sampler.prepare(self.policy)
        self.sync = WeightSync(self.sampler, self.policy, self.module, SamplingParams())
        self.context = self.module.tokenizer.encode("Question: What is the capital of Ghana?\n")
        self.generator = torch.Generator().manual_seed(0)
        self._folder = TemporaryDirectory()

    def sample(self, *requests: SampleRequest) -> list[Completion]:
        """Sample actions side by side."""

        async def run() -> list[Completion]:
            return await asyncio.gather(*(self.sampler.sample(request) for request in requests))

        return asyncio.run(run())

    def request(self, seed: int = 0, temperature: float = 0.0, **others: Any) -> SampleRequest:
        """A request in the context of one question."""
        law = SamplingParams(temperature, others.pop("top_p", 1.0), others.pop("top_k", 0))
        fields = {"trajectory": 0, "token_ids": self.context, "max_tokens": 12, "stop_strings": ()}
        return SampleRequest(**(fields | others), sampling=law, seed=(seed,))

    @torch.no_grad()
    def train(self, scale: float = 0.02) -> None:
        """A step of training, as far as the sampler can tell."""
        for parameter in self.module.policy.parameters():
            noise = torch.randn(parameter.shape, generator=self.generator)
            parameter += scale * parameter.std() * noise
        self.module.iteration += 1

    def refusal(self, fault: Callable[[], Any]) -> str:
        """Train, update with this fault, and return the error; the update after it must be in order again."""
        self.train()
        try:
            with fault():
                self.sync.update()
        except LLDSError as error:
            text = f"{type(error).__name__}: {error}"
        else:
            text = ""
        self.train()
        self.sync.update()
        return text

    # Checks

    def updates(self, number: int = 20) -> list[float]:
        """The canary's gap after each of so many updates."""
        gaps = []
        for _ in range(number):
            self.train()
            self.sync.update()
            gaps.append(self.sync.metrics["rollout/canary_gap"])
        return gaps

    @torch.no_grad()
    def adapters(self) -> list[float]:
        """The canary's gap after each of three updates of a policy that trains adapters."""
        module = SearchAgentModule(self.model, lora=LoRA(rank=2))
        module.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        module.setup("test")
        sync = WeightSync(self.sampler, self.policy, module, SamplingParams())
        gaps = []
        for module.iteration in range(1000, 1003):
            for parameter in module.policy.parameters():
                if parameter.requires_grad:
                    parameter += 0.05 * torch.randn(parameter.shape, generator=self.generator)
            sync.update()
            gaps.append(sync.metrics["rollout/canary_gap"])
        return gaps

    def law(self) -> list[float]:
        """Differences to the log-probabilities of the law that TransformersSampler samples by."""
        gaps = []
        for temperature, top_p, top_k in ((1.0, 1.0, 0), (0.7, 1.0, 0), (0.7, 0.8, 0), (1.3, 1.0, 20), (0.9, 0.9, 50)):
            request = self.request(7, temperature, top_p=top_p, top_k=top_k)
            (done,) = self.sample(request)
            model = self.module.policy.base_model
            ids = torch.tensor([request.token_ids + done.token_ids])
            with torch.no_grad():
                logits = model(ids).logits[0, len(request.token_ids) - 1 : -1]
            law = SeededSampling([OpenAction(SimpleNamespace(request=request), None)], torch.device("cpu"))
            scores = logits / temperature
            for warper in law._warpers:
                scores = warper(ids, scores)
            expected = scores.log_softmax(-1)[range(len(done.token_ids)), done.token_ids]
            gaps.append(float((expected - torch.tensor(done.log_probs)).abs().max()))
        return gaps

    def seeds(self) -> dict[str, bool]:
        """Whether a seed gives the same action alone and in a crowd."""
        alone, other = self.sample(self.request(1, 1.0), self.request(2, 1.0))
        crowd = self.sample(*(self.request(seed, 1.0) for seed in range(64)))
        return {"repeats": alone.token_ids == crowd[1].token_ids, "differs": alone.token_ids != other.token_ids}

    def stops(self) -> dict[str, Any]:
        """How actions end."""
        (free,) = self.sample(self.request())
        text = [self.module.tokenizer.decode([token]) for token in free.token_ids]
        place = next(i for i, piece in enumerate(text) if i > 1 and len(piece.strip()) > 2)
        inside = text[place][: len(text[place]) - 1]  # ends within the token
        (cut,) = self.sample(self.request(stop_strings=(inside,)))
        eos = SimpleNamespace(eos_token_id=free.token_ids[3])
        with patch.object(self.sampler, "_policy", replace(self.policy, tokenizer=eos)):
            (ended,) = self.sample(self.request())
        (limited,) = self.sample(self.request(max_tokens=2))
        tag = self.sample(self.request(max_tokens=64, stop_strings=("</search>", "</answer>")))[0]
        return {
            "free": free.token_ids,
            "place": place,
            "cut": [cut.token_ids, cut.stop_reason, len(cut.log_probs)],
            "eos": [ended.token_ids, ended.stop_reason],
            "length": [limited.token_ids, limited.stop_reason],
            "tag": [self.module.tokenizer.decode(tag.token_ids), tag.stop_reason],
        }

    def parity(self) -> bool:
        """Whether greedy actions are those of the transformers sampler."""
        other = TransformersSampler()
        other.attach(self.module.policy.base_model, self.module.tokenizer)
        request = self.request(max_tokens=24, stop_strings=("</search>", "</answer>"))

        async def run() -> Completion:
            other.open_trajectory(0)
            return await other.sample(request)

        try:
            return asyncio.run(run()).token_ids == self.sample(request)[0].token_ids
        finally:
            other.close()

    def cancelled(self) -> bool:
        """Whether the engine forgets an action that nobody waits for."""

        async def run() -> None:
            task = asyncio.ensure_future(self.sampler.sample(self.request(max_tokens=400)))
            await asyncio.sleep(0.2)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        asyncio.run(run())
        self.train()
        self.sync.update()
        thread = self.sampler._thread
        assert isinstance(thread, EngineThread)
        return not thread.call(lambda engine: engine.is_busy)

    def messages(self) -> dict[str, int]:
        """Bytes of a message of vLLM's transfers between GPUs, for a model with a tensor of 1.5 GiB."""
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory  # not before the engine has set it up

        folder = Path(self._folder.name)
        config = json.loads((self.policy.folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 3 * 2**30 // 2 // 2 // 128}))
        seen = {}
        for backend in ("ipc", "nccl"):
            with patch.object(WeightTransferTrainerFactory, "trainer_init") as made:
                DeviceTransfer(backend, folder, "bfloat16", 0, client=None, workers=1)
            (info,), _ = made.call_args
            assert info.backend == backend
            assert info.packed
            seen[backend] = info.packed_buffer_size_bytes
        return seen

    def described(self) -> dict[str, bool]:
        """Whether the stream is what vLLM's transfers between GPUs are told of it beforehand: order, names, shapes."""
        metadata = [(meta.name, meta.shape) for meta in make_source(self.policy.folder, "bfloat16").metadata()]
        adapted = Policy(self.model, lora=LoRA(rank=2))
        streams = {"whole": self.module.policy, "adapters": adapted}
        return {
            name: [(key, tuple(value.shape)) for key, value in policy.weights(as_saved=True)] == metadata
            for name, policy in streams.items()
        }

    def crowd(self) -> int:
        """How many of many long contexts get an action: together they are more than the engine reads in one step."""
        contexts = [[5 + number, *range(50, 400)] for number in range(64)]
        requests = [self.request(n, 1.0, token_ids=ids, max_tokens=2) for n, ids in enumerate(contexts)]
        return len([done for done in self.sample(*requests) if len(done.token_ids) == 2])

    def too_long(self) -> str:
        """What becomes of a request that vLLM refuses."""
        try:
            self.sample(self.request(token_ids=[5] * 600))
        except LLDSError as error:
            return str(error)
        return ""

    def faults(self) -> dict[str, str]:
        """What is said of each fault that an update can have."""

        def weights_without(name: str, change: Callable[[torch.Tensor], torch.Tensor] | None = None) -> Any:
            stream = self.module.policy.weights

            def changed(*, as_saved: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
                for key, value in stream(as_saved=as_saved):
                    if key != name:
                        yield key, value
                    elif change is not None:
                        yield key, change(value)

            return lambda: patch.object(self.module.policy, "weights", changed)

        def in_transit(change: Callable[[list[Any]], list[Any]]) -> Any:
            load = WeightReceiver.llds_load
            return lambda: patch.object(
                WeightReceiver, "llds_load", lambda worker, weights: load(worker, change(list(weights)))
            )

        def one_bit(weights: list[Any]) -> list[Any]:
            return [(name, flipped(value) if name.endswith("norm.weight") else value) for name, value in weights]

        @contextmanager
        def after_the_load(change: Callable[[Any], None]) -> Iterator[None]:
            finish = _Loading.finish

            def finish_and_change(loading: _Loading) -> dict[str, Any]:
                receipt = finish(loading)
                change(loading._model)
                return receipt

            with patch.object(_Loading, "finish", finish_and_change):
                yield

        def scale_norm(model: Any) -> None:
            model.model.layers[2].post_attention_layernorm.weight.data.mul_(1.05)

        def old_head(model: Any) -> None:
            layer = model.lm_head
            layer.weight.data.copy_(layer.weight.roll(1, 0))
            layer.quant_method.process_weights_after_loading(layer)
            layer.weight.data.copy_(layer.weight.roll(-1, 0))

        @contextmanager
        def forged() -> Iterator[None]:
            """Nothing is loaded, and the worker says that everything was."""
            with patch.object(_Loading, "_record", lambda loading, weights: set(forged_names(loading, weights))):
                yield

        def forged_names(loading: _Loading, weights: Any) -> set[str]:
            list(loading._noted(weights))
            loading._loaded = set(loading._parameters)
            return set()

        norm = "model.layers.0.input_layernorm.weight"
        return {
            "skipped": self.refusal(lambda: patch.object(WeightReceiver, "llds_load", lambda worker, weights: None)),
            "skipped, receipt forged": self.refusal(forged),
            "missing from the stream": self.refusal(weights_without(norm)),
            "lost in transit": self.refusal(in_transit(lambda ws: [w for w in ws if w[0] != norm])),
            "one bit flipped in transit": self.refusal(in_transit(one_bit)),
            "perturbed after the load": self.refusal(lambda: after_the_load(scale_norm)),
            "old packed head": self.refusal(lambda: after_the_load(old_head)),
            "cache not reset": self.refusal(
                lambda: patch.object(LocalEngine, "commit", lambda engine, v: (engine._engine.set_weight_version(v), 1))
            ),
            "cache refuses": self.refusal(lambda: patch.object(LocalEngine, "commit", lambda engine, v: False)),
            "old version": self.refusal(
                lambda: patch.object(LocalEngine, "commit", lambda engine, v: engine._engine.reset_prefix_cache())
            ),
        }


def flipped(value: torch.Tensor) -> torch.Tensor:
    """The tensor with the last bit of its last number flipped."""
    changed = value.clone()
    changed.view(torch.int32)[-1] ^= 1
    return changed


def main() -> None:
    """Run all checks on the quickstart's policy, or those of weight updates on the model in a folder."""
    torch.manual_seed(3)
    checks = Checks(*sys.argv[1:])
    try:
        checks.sync.update()
        if len(sys.argv) > 1:
            gaps = {"updates": checks.updates(3), "adapters": checks.adapters(), "described": checks.described()}
            print(json.dumps(gaps))
            return
        names = (
            "parity",
            "described",
            "messages",
            "seeds",
            "law",
            "stops",
            "crowd",
            "too_long",
            "adapters",
            "updates",
            "cancelled",
            "faults",
        )
        result = {name: getattr(checks, name)() for name in names}
        result["rng"] = torch.initial_seed()
        result["threads"] = torch.set_num_threads.__name__
    finally:
        checks.sampler.close()
    print(json.dumps(result), file=sys.stdout)


if __name__ == "__main__":
    main()
