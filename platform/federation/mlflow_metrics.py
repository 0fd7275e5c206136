"""The metrics that MLflow gets, and their names there: each says of which split it is.

JSON, Parquet, checkpoints and a sweep's ``metric`` keep the keys of :func:`aggregate.flat_metrics`. A run of four sites
shows at most 40 metrics in MLflow, of a prior 54, with what the sites take of their machines (``system/``, on a page of
its own); all others are in the run's Parquet files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_SCORES = "psnr|ssim|nmse"
_SHOWN = re.compile(
    rf"(validation|test)/mean/({_SCORES}|(zero_filled|with_data_consistency)/psnr)"
    r"|test/mean/within_[12]"
    r"|validation/site/[^/]+/(psnr|kernel_distance|kernel_distance_real|nearest)|test/site/[^/]+/psnr"
    r"|train/(mean|site/[^/]+)/(loss|discriminator)"
)
_OF_SITES = re.compile(r"(validation|test|train)/(mean|site)/")


def mlflow_key(key: str) -> str:
    """The name in MLflow of a metric: ``mean/psnr`` is ``validation/mean/psnr``, the losses are under ``train/``."""
    if not key.startswith(("mean/", "site/")):
        return key
    return f"train/{key}" if key.endswith(("/loss", "/discriminator")) else f"validation/{key}"


def mlflow_metrics(values: Mapping[str, float]) -> dict[str, float]:
    """The metrics of ``values`` that MLflow gets, by their names there. A metric that is no score or loss stays."""
    named = {mlflow_key(key): value for key, value in values.items()}
    return {key: value for key, value in named.items() if _SHOWN.fullmatch(key) or not _OF_SITES.match(key)}
