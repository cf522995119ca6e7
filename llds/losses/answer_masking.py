r"""Answer masking (MA): how much LLDS preserves the final answer, by how much the policy searches.

Models that would collapse to a single search get a small weight on the answer span until they search: preserving
early answers would preserve answering early. The module asks for the weight once per iteration and hands it to the loss
as `LossInputs.answer_weight`.

Left out on purpose: counting valid searches, and finding the answer span.
"""

from typing import Literal

from llds.errors import ConfigurationError
from llds.losses.masking import check_choice

AnswerSchedule = Literal["paper", "authors", "constant"]
"""How the weight follows the number of valid searches."""


class AnswerMasking:
    r"""Schedule of the answer tokens' weight :math:`\beta` in LLDS.

    .. math::
        \beta_{paper} = \min(V / 2, 1), \qquad
        \beta_{authors} = \min\big(\max(V - 1, 0)\, a, \lambda\big) / \lambda, \qquad \beta_{constant} = value

    arXiv 2512.04220 v2, LLDS-MA. :math:`V` is the mean number of valid searches per trajectory, :math:`\lambda` the
    coefficient of LLDS.

    Args:
        schedule: ``paper``, ``authors`` or ``constant``.
        value: The weight under ``constant``, not negative; 0 leaves answers out of LLDS.
        answer_lambda: :math:`a` under ``authors``: coefficient of the answer tokens per valid search beyond the first,
            not negative. Absolute, like lambda, and not relative to it.
        last_tokens: Only answer spans that lie within this many last action tokens of a trajectory are masked (the
            authors' code: 50); null: the final answer wherever it is.

    Raises:
        ConfigurationError: For a negative weight or a span that is not positive.

    Note:
        The authors' code gives the answer tokens an absolute coefficient; dividing by lambda makes it the relative
        weight that the loss takes. At lambda 0 LLDS is off and the weight is 0.
    """

    def __init__(
        self,
        schedule: AnswerSchedule = "paper",
        value: float = 1.0,
        answer_lambda: float = 0.1,
        last_tokens: int | None = None,
    ) -> None:
        check_choice("schedule", schedule, AnswerSchedule)
        for name, number in (("value", value), ("answer_lambda", answer_lambda)):
            if not 0 <= number < float("inf"):
                raise ConfigurationError(f"Expected `answer_masking.{name}` to be a number >= 0, got {number}.")
        if last_tokens is not None and last_tokens < 1:
            raise ConfigurationError(
                f"Expected `answer_masking.last_tokens` >= 1, got {last_tokens}. Use null for no limit."
            )
        self.schedule: AnswerSchedule = schedule
        self.value = value
        self.answer_lambda = answer_lambda
        self.last_tokens = last_tokens

    def weight(self, valid_searches: float, coefficient: float) -> float:
        r"""Weight :math:`\beta` of the answer tokens, relative to all others.

        Args:
            valid_searches: Mean number of valid searches per trajectory of the iteration, :math:`V`.
            coefficient: Coefficient of LLDS, :math:`\lambda`.
        """
        if self.schedule == "constant":
            return self.value
        if self.schedule == "paper":
            return min(valid_searches / 2, 1.0)
        if coefficient == 0:
            return 0.0
        return min(max(valid_searches - 1, 0.0) * self.answer_lambda, coefficient) / coefficient
