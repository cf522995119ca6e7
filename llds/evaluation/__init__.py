"""Evaluation: what one question showed, what a data source showed, and under which conditions.

Pure functions over records; nothing here rolls out, prints or knows a Trainer. A policy is rolled out by the
callbacks, each trajectory becomes a `QuestionResult`, and `summarize` makes the numbers of papers from those.
"""

from llds.evaluation.benchmarks import GENERAL, MULTI_HOP, benchmark_of
from llds.evaluation.card import Difference, card_differences
from llds.evaluation.intervals import Estimate, combined_mean, mean_estimate
from llds.evaluation.paired import PairedDifference, pair_questions, paired_differences
from llds.evaluation.paper_table import PaperTable, TableFormat, missing_figures, seed_table
from llds.evaluation.question import QuestionResult, found_gold, measure_question
from llds.evaluation.record import EvaluationRecord, list_records, new_record_folder, read_record, write_record
from llds.evaluation.seed_groups import SeededRun, SeedGroup, SeedMean, group_by_seed, seed_notes
from llds.evaluation.summary import Average, SourceResult, Summary, summarize

__all__ = [
    "GENERAL",
    "MULTI_HOP",
    "Average",
    "Difference",
    "Estimate",
    "EvaluationRecord",
    "PairedDifference",
    "PaperTable",
    "QuestionResult",
    "SeedGroup",
    "SeedMean",
    "SeededRun",
    "SourceResult",
    "Summary",
    "TableFormat",
    "benchmark_of",
    "card_differences",
    "combined_mean",
    "found_gold",
    "group_by_seed",
    "list_records",
    "mean_estimate",
    "measure_question",
    "missing_figures",
    "new_record_folder",
    "pair_questions",
    "paired_differences",
    "read_record",
    "seed_notes",
    "seed_table",
    "summarize",
    "write_record",
]
