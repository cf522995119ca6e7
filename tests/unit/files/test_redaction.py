"""Secrets are left out of what is written, and nothing else is."""

from pathlib import Path

import pytest
import yaml

from llds.files import redacted, redacted_command

SECRETS = {  # made up, in the forms that their issuers use
    "Hugging Face": "hf_" + "aB3" * 11,
    "OpenAI": "sk-proj-" + "aB3-" * 8,
    "Anthropic": "sk-ant-api03-" + "aB3_" * 8,
    "Stripe": "sk_live_" + "aB3" * 8,
    "GitHub": "ghp_" + "aB3" * 12,
    "GitHub, fine-grained": "github_pat_" + "aB3" * 12,
    "GitLab": "glpat-" + "aB3" * 7,
    "AWS": "AKIA" + "AB3D" * 4,
    "Google": "AIza" + "aB3_-" * 7,
    "Slack": "xoxb-" + "12345-" * 3 + "aB3",
    "npm": "npm_" + "aB3" * 12,
    "PyPI": "pypi-" + "aB3" * 12,
    "JSON web token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.aB3aB3aB3",
}


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_known_by_its_form_wherever_it_stands(name: str) -> None:
    secret = SECRETS[name]
    told = redacted({"notes": [f"use {secret} here", {"url": f"http://host/?x={secret}"}], secret[:2]: 1})
    assert secret not in str(told)
    assert "use (not written) here" in str(told)
    assert secret not in str(redacted_command(["fit", "--notes", secret, f"--other={secret}"]))


@pytest.mark.parametrize(
    "key", ["api_key", "token", "hf_token", "password", "secret", "secret_key", "access_token", "COMET_API_KEY"]
)
def test_a_secret_is_known_by_the_name_of_its_setting(key: str) -> None:
    assert "hunter2" not in str(redacted({"logger": {"init_args": {key: "hunter2"}}}))
    words = ["llds", f"--trainer.logger.{key}", "hunter2", f"--trainer.logger.init_args.{key}=hunter2"]
    assert "hunter2" not in str(redacted_command(words))


@pytest.mark.parametrize(
    "address", ["http://me:hunter2@host:8000/retrieve", "http://host/?key=hunter2", "Authorization: Bearer hunter2"]
)
def test_a_secret_in_an_address_or_a_header_is_left_out(address: str) -> None:
    assert "hunter2" not in redacted(address)


def test_everything_else_stays_as_it_is() -> None:
    values = {
        "token_file": "/run/secrets/token", "token_header": "Authorization", "eos_token": "<|im_end|>",
        "max_prompt_tokens": 2048, "api_key": None, "token": "", "url": "http://127.0.0.1:8000",
        "path": "sk-learn-and-other-things/model", "sha256": "4d243a4b2daee658" * 4, "list": [1, 2.5, True, "a@b.c"],
    }  # fmt: skip
    assert redacted(values) == values
    words = ["fit", "-c", "conf/base.yaml", "--model.policy", "x", "--data.train={path: a.jsonl, limit: 3}"]
    assert redacted_command(words) == words


def test_no_configuration_of_the_project_loses_anything() -> None:
    for path in (Path(__file__).parents[3] / "conf").rglob("*.yaml"):
        values = yaml.safe_load(path.read_text())
        assert redacted(values) == values, path
