"""Means that leave out what is undefined."""

import math

import torch

from llds.metrics import as_floats, mean_metrics
from llds.metrics.averages import masked_mean


def test_a_mean_is_over_tokens_and_then_over_rows_that_have_any() -> None:
    values = torch.tensor([[1.0, 3.0, math.nan], [8.0, math.nan, math.inf], [math.nan] * 3])
    mask = torch.tensor([[True, True, False], [True, False, False], [False] * 3])
    assert float(masked_mean(values, mask)) == (2 + 8) / 2
    assert math.isnan(masked_mean(values, torch.zeros_like(mask)))


def test_what_is_not_finite_is_left_out_and_the_order_stays() -> None:
    values = {"b": torch.tensor(1.5), "nan": torch.tensor(math.nan), "a": 2.0, "inf": math.inf, "c": torch.tensor(3)}
    assert list(as_floats(values).items()) == [("b", 1.5), ("a", 2.0), ("c", 3.0)]
    assert as_floats({}) == {}


def test_means_are_over_the_rows_that_have_the_key() -> None:
    rows = [{"a": torch.tensor(1.0), "b": 4.0}, {"a": 3.0, "b": torch.tensor(math.nan)}, {}]
    assert mean_metrics(rows) == {"a": 2.0, "b": 4.0}
    assert mean_metrics([]) == {}
