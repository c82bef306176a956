"""The recipe of the page for Spark, in local mode; where pyspark and Java are installed."""

import re
import shutil
import sys

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skbert import BertSentimentClassifier
from tests.offline import ROOT

pytest.importorskip("pyspark", reason="pyspark is not installed")
if not shutil.which("java"):
    pytest.skip("Spark needs Java, which is not installed", allow_module_level=True)

PAGE = ROOT / "docs" / "guide" / "more_than_memory.md"


@pytest.fixture
def spark(monkeypatch, tmp_path):
    """A session whose JVM, too, runs in `tmp_path`."""
    from pyspark.sql import SparkSession

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    settings = {"spark.ui.enabled": "false", "spark.log.level": "ERROR"}
    session = SparkSession.builder.master("local[2]").config(map=settings).getOrCreate()
    yield session
    session.stop()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # for pyspark, and what it does with pandas
def test_the_recipe_of_the_page(tiny_bert, spark, tmp_path):
    clf = BertSentimentClassifier(tiny_bert, max_length=16, max_epochs=1, random_state=0)
    clf.fit(["a good film", "so dull"] * 4, ["positive", "negative"] * 4)
    joblib.dump(clf, "sentiment.joblib")
    texts = [f"a {word} film {i % 9}" for i, word in enumerate(["good", "dull", ""] * 100)]
    pq.write_table(pa.table({"id": [*range(300)], "text": texts}), "reviews.parquet")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (recipe,) = (block for block in blocks if "predict_batch_udf" in block)
    exec(recipe.replace('"sentiment.joblib"', repr(str(tmp_path / "sentiment.joblib"))), {})
    found = pq.read_table("scored").sort_by("id")
    assert found["id"].to_pylist() == [*range(300)]
    proba = np.array(found["probabilities"].to_pylist())
    np.testing.assert_allclose(proba, clf.predict_proba(texts), atol=1e-6)
