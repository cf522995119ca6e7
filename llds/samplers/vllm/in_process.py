"""vLLM in the trainer's own process: for runs of one process, and for tests.

Left out on purpose: servers (`llds.samplers.vllm.server.sampler`), and whatever imports vllm (`vllm_engine`).
"""

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import Future

from torch import Tensor

from llds.errors import ConfigurationError, SamplerError
from llds.samplers.base import SampledPolicy, Sampler, SampleRequest
from llds.samplers.futures import errors_of_engine
from llds.samplers.vllm.engine import LocalEngine, check_installed
from llds.samplers.vllm.engine_thread import EngineThread
from llds.samplers.vllm.requests import sampling_params
from llds.samplers.vllm.settings import VLLMEngine
from llds.samplers.vllm.weight_update import SentWeights, batches, check_cache_reset, check_receipt
from llds.types import Completion

_NAME = "the vLLM engine"


class VLLMSampler(Sampler):
    """Samples with a vLLM engine in this process, for runs of one process.

    Log-probabilities are those of the sampling law; greedy actions (temperature 0) carry those of temperature 1.

    Args:
        engine: How the engine is set up.

    Raises:
        ConfigurationError: From `prepare`: if vLLM is not installed, or several processes train.
    """

    takes_saved_layout = True

    def __init__(self, engine: VLLMEngine = VLLMEngine()) -> None:
        self.settings = engine
        self._policy: SampledPolicy | None = None
        self._thread: EngineThread | None = None

    def prepare(self, policy: SampledPolicy) -> None:
        """Check what can be checked without weights."""
        self.settings.check(policy)
        self.settings.check_devices(policy)
        if policy.world_size > 1:
            raise ConfigurationError(
                f"Expected `rollout.sampler` to be llds.samplers.VLLMServerSampler where {policy.world_size} processes "
                "train, got VLLMSampler, whose engine would share their process group. Use "
                "-c llds:rollout/vllm_server."
            )
        check_installed()
        self._policy = policy
        self.engine_dtype = self.settings.dtype_for(policy)

    def update_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Load the weights into the engine, which starts with the first of them."""
        thread, sent = self._started(), SentWeights(self.engine_dtype)
        thread.drop_actions()
        thread.call(LocalEngine.call, "llds_begin_update")
        for batch in batches(sent.stream(weights)):
            thread.call(LocalEngine.call, "llds_load", batch)
        receipt = thread.call(LocalEngine.call, "llds_end_update", version)
        check_receipt(_NAME, sent, version, receipt)
        check_cache_reset(_NAME, thread.call(LocalEngine.commit, str(version)))
        self.policy_version = version

    async def sample(self, request: SampleRequest) -> Completion:
        """Queue the request; it joins the batch that runs."""
        with self.busy:
            # Salted with the version: a cache that outlived an update could not be mistaken for a present one.
            return await asyncio.wrap_future(
                self._submit(request, self._known.end_ids, f"version {self.policy_version}")
            )

    def probe(self, requests: Sequence[SampleRequest]) -> dict[str, list[Completion]]:
        """Sample side by side."""
        futures = [self._submit(request, (), "canary") for request in requests]
        return {_NAME: [future.result() for future in futures]}

    def close(self) -> None:
        """Free the engine."""
        if self._thread is not None:
            self._thread.close()
            self._thread = None

    @property
    def _known(self) -> SampledPolicy:
        if self._policy is None:
            raise ConfigurationError("Expected a policy before requests, got none. Call prepare() first.")
        return self._policy

    def _started(self) -> EngineThread:
        if self._thread is None:
            folder, arguments = str(self._known.folder), self.settings.arguments(self._known)
            try:
                with errors_of_engine("vLLM does not start"):
                    self._thread = EngineThread(lambda: LocalEngine(folder, arguments))
            except SamplerError as error:  # what the settings ask for cannot be had here
                raise ConfigurationError(
                    f"Expected settings in `rollout.sampler.engine` that this machine can serve, got {self.settings}: "
                    f"{error}. Change them, or free what they need."
                ) from error
        return self._thread

    def _submit(self, request: SampleRequest, end_ids: Sequence[int], salt: str) -> "Future[Completion]":
        params = sampling_params(request, end_ids)
        return self._started().submit(request.token_ids, params, salt, self.policy_version)
