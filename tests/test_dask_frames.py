"""Prediction over the partitions of Dask, with the functions of the page, in two processes."""

import os
import re
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest

from skbert import BertSentimentClassifier
from tests.offline import ROOT

dataframe = pytest.importorskip("dask.dataframe", reason="dask is not installed")
pytest.importorskip("distributed", reason="distributed is not installed")

PAGE = ROOT / "docs" / "guide" / "more_than_memory.md"


def block_with(code):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (block,) = (block for block in blocks if code in block)
    return block


def loads_of_this_process():
    """How often the module of the page has loaded a model in this process."""
    import scoring

    return scoring.load.cache_info().misses


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # for Dask, and what it does with pandas
def test_partitions_are_scored_in_two_processes(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clf = BertSentimentClassifier(tiny_bert, max_length=16, max_epochs=1, random_state=0)
    clf.fit(["a good film", "so dull"] * 4, ["positive", "negative"] * 4)
    joblib.dump(clf, "sentiment.joblib")
    texts = [f"a {word} film {i % 9}" for i, word in enumerate(["good", "dull", ""] * 100)]
    frame = pd.DataFrame({"id": range(300), "text": texts})
    dataframe.from_pandas(frame, npartitions=12).to_parquet("reviews.parquet")
    Path("scoring.py").write_text(block_with("def score("), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)

    script = block_with("LocalCluster(").replace("=1)", "=1, dashboard_address=None)")
    names = {"__name__": "__main__"}
    try:
        exec(script, names)
        found = pd.read_parquet("scored").sort_values("id")
        part = names["reviews"].partitions[:6]  # after the filter, some have no rows
        few = part[part["id"] >= 60].map_partitions(
            names["score"], "sentiment.joblib", meta=names["meta"]
        )
        kept = few.compute()["id"].tolist()
        loads, pids = names["client"].run(loads_of_this_process), names["client"].run(os.getpid)
    finally:
        names["client"].close()
        names["cluster"].close()
        here = sys.modules.pop("scoring").load.cache_info().misses
    assert found["id"].tolist() == [*range(300)] and kept == [*range(60, 150)]
    np.testing.assert_allclose(found["positive"], clf.predict_proba(texts)[:, 1], atol=1e-6)
    assert len({*pids.values(), os.getpid()}) == 3
    assert [*loads.values()] == [1, 1] and here == 0
