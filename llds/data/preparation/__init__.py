"""Question files of any kind as one checked normal form, without duplicates (``llds prepare``)."""

from llds.data.preparation.normal_form import Preparation, Prepared, prepare_questions

__all__ = ["Preparation", "Prepared", "prepare_questions"]
