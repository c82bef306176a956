"""Each warning names the line of the user, whatever stands between that line and skbert."""

import ast
import copy
import functools
import json
import pickle
import sqlite3
import sys
import threading
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from conftest import WORDS, save_bert
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_validate
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline, make_union

import skbert
from skbert import (
    BertEmbeddingTransformer,
    BertPretrainer,
    BertSentimentClassifier,
    BertSentimentRegressor,
    TruncationWarning,
    UnknownTokenWarning,
)
from skbert.engine.clusters import RayGpus
from skbert.engine.model import device, recompute
from skbert.engine.model.networks import TextClassifier
from skbert.engine.prediction.cache import FolderCache
from skbert.engine.training import frozen, micro_batches, resume
from skbert.engine.warn import warn_user
from tests.fake_hub import WRITER, FakeHub
from tests.padded_folders import save_padded

PACKAGE = Path(skbert.__file__).parent
WARN = "engine/warn.py"
LONG = ["good film " * 40, "dull"]
SHORT = ["good film", "dull"]


def assert_names_its_line(call, match, category=UserWarning):
    """Call a function written on one line, and expect that its warnings name this line."""
    with pytest.warns(category, match=match) as caught:
        call()
    expected = (__file__, call.__code__.co_firstlineno)
    ours = [warning for warning in caught if issubclass(warning.category, category)]
    assert {(warning.filename, warning.lineno) for warning in ours} == {expected}


def classifier(model, **parameters):
    settings = {"max_length": 32, "max_epochs": 1, "learning_rate": 5e-3, "random_state": 0}
    return BertSentimentClassifier(model, **(settings | parameters))


@pytest.fixture(scope="module")
def fitted_once(tiny_bert, toy_reviews):
    return classifier(tiny_bert).fit(*toy_reviews)


@pytest.fixture
def fitted(fitted_once):
    """A classifier that has not warned yet."""
    return copy.deepcopy(fitted_once)


@pytest.fixture
def given(tiny_bert, toy_reviews, fitted, tmp_path, monkeypatch):
    """What the cases use."""
    X, y = toy_reviews
    return SimpleNamespace(
        model=tiny_bert, X=X, y=y, clf=copy.deepcopy(fitted), folder=tmp_path, patch=monkeypatch
    )


# Cases: each yields functions that contain the user's line ----------------------------------------


def texts_are_cut(given):
    clf, y = classifier(given.model), ["good", "bad"]
    yield lambda: clf.fit(LONG, y)
    yield lambda: clf.fit(given.X, given.y, X_val=LONG, y_val=y)
    new = classifier(given.model)
    yield lambda: new.partial_fit(LONG, y, classes=y)
    for name in ("predict", "predict_proba", "predict_log_proba", "decision_function", "explain"):
        method = getattr(copy.deepcopy(given.clf), name)
        yield lambda method=method: method(LONG)
    yield lambda: given.clf.score(LONG, given.clf.classes_)
    embedder = BertEmbeddingTransformer(given.model, max_length=32)
    yield lambda: embedder.fit_transform(LONG)
    embedder.fit(LONG)
    yield lambda: embedder.transform(LONG)
    embedder.fit(LONG)
    yield lambda: embedder.token_embeddings(LONG)
    pretrainer = BertPretrainer(given.model, max_length=32).fit([["dull", "fun"]] * 2)
    other = copy.deepcopy(pretrainer)
    yield lambda: pretrainer.transform(LONG)
    yield lambda: other.predict_next_sentence([(LONG[0], "dull")])


def texts_have_too_many_windows(given):
    clf = classifier(given.model, truncation="windows", max_windows=2)
    yield lambda: clf.fit(LONG, ["good", "bad"])
    given.clf.set_params(truncation="windows", max_windows=2)
    yield lambda: given.clf.predict(LONG)


def labels_are_a_column(given):
    clf = classifier(given.model)
    yield lambda: clf.fit(given.X, given.y[:, None])
    yield lambda: clf.fit(given.X, pd.DataFrame({"sentiment": given.y}))
    yield lambda: clf.partial_fit(given.X, given.y[:, None])


def numbers_are_a_column(given):
    reg = BertSentimentRegressor(given.model, max_length=32, max_epochs=10)
    yield lambda: reg.fit(given.X, np.arange(len(given.X), dtype=float)[:, None])


def labels_are_strange(given):
    clf = classifier(given.model)
    yield lambda: clf.fit(given.X, [*given.y[:-1], "nan"])


def a_class_has_one_text(given):
    clf = classifier(given.model, early_stopping=True)
    yield lambda: clf.fit(given.X, [*given.y[:-1], "rare"])


def the_holdout_is_small(given):
    clf = classifier(given.model, early_stopping=True)
    yield lambda: clf.fit(given.X[:6], given.y[:6])


def steps_are_too_few(given):
    clf = classifier(given.model)
    yield lambda: clf.fit(given.X, given.y)


def training_diverges(given):
    clf = classifier(given.model, learning_rate=1e30)
    yield lambda: clf.fit(given.X, given.y)
    pretrainer = BertPretrainer(given.model, max_length=32, learning_rate=1e30, random_state=0)
    yield lambda: pretrainer.fit([["good film", "so dull", "fun"]] * 40)


def scores_do_not_add_up(given):
    yield lambda: given.clf.explain(given.X, n_steps=1)


def documents_have_one_sentence(given):
    pretrainer = BertPretrainer(given.model, max_length=32, max_epochs=0)
    yield lambda: pretrainer.fit(["good", "bad"])
    yield lambda: pretrainer.fit_transform(["good", "bad"])


def frozen_layers_are_too_large(given):
    given.patch.setattr(frozen, "_LARGEST_CACHE", 0)
    clf = classifier(given.model, n_frozen_layers=1)
    yield lambda: clf.fit(given.X, given.y)
    yield lambda: clf.partial_fit(given.X, given.y)


def let_memory_suffice_for(given, suffices):
    """Raise an error for batches for which ``suffices(batch)`` is False."""
    plain = TextClassifier.logits

    def small_memory(self, batch, *arguments):
        if not suffices(batch):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, batch, *arguments)

    given.patch.setattr(TextClassifier, "logits", small_memory)


def memory_runs_out(given):
    given.patch.setattr(micro_batches, "_MICRO_BATCH_TOKENS", 64)
    let_memory_suffice_for(given, lambda batch: len(batch.ids) <= 40)
    clf = classifier(given.model)
    yield lambda: clf.fit(given.X, given.y)


def memory_is_short_for_one_text(given):
    given.patch.setattr(micro_batches, "_MICRO_BATCH_TOKENS", 1)
    let_memory_suffice_for(given, lambda _: recompute._is_on.get() or not torch.is_grad_enabled())
    clf = classifier(given.model)
    yield lambda: clf.fit(given.X, given.y)


def memory_runs_out_in_prediction(given):
    clf = classifier(given.model).fit(given.X, given.y)
    let_memory_suffice_for(given, lambda batch: len(batch.rows) == 1)
    yield lambda: clf.predict(["good", "a bad film"])


def the_disk_is_full(given):
    def full(path):
        raise OSError("No space left on device")

    given.patch.setattr(resume, "sync", full)
    clf = classifier(given.model, checkpoint_dir=given.folder)
    yield lambda: clf.fit(given.X, given.y)


def the_folder_holds_another_run(given):
    (given.folder / "another.skbert-run").touch()
    clf = classifier(given.model, checkpoint_dir=given.folder)
    yield lambda: clf.fit(given.X, given.y)


def a_run_has_no_number(given):
    clf = classifier(given.model, checkpoint_dir=given.folder, warm_start=True, random_state=None)
    yield lambda: clf.fit(given.X, given.y)


def ray_hides_the_devices(given):
    given.patch.setenv("CUDA_VISIBLE_DEVICES", "")
    given.patch.setattr(torch.cuda, "device_count", lambda: 0)
    given.patch.setattr(torch.backends.mps, "is_available", lambda: False)
    given.patch.setattr(device, "ray_gpus", lambda: RayGpus(n_assigned=0, n_of_cluster=2))
    given.patch.setattr(device, "_has_warned", False)
    clf = classifier(given.model)
    yield lambda: clf.fit(given.X, given.y)


def the_cache_is_full(given):
    def full(self):
        raise sqlite3.OperationalError("database or disk is full")

    given.patch.setattr(FolderCache, "_drop_oldest", full)
    embedder = BertEmbeddingTransformer(given.model, max_length=32, cache=given.folder)
    yield lambda: embedder.transform(given.X)
    yield lambda: embedder.fit_transform(given.X[:40])


def lines_that_load(given):
    """Save `given.clf` in all ways, and yield the lines that load it."""
    pickled, file = pickle.dumps(given.clf), given.folder / "clf.joblib"
    joblib.dump(given.clf, file)
    given.clf.save_pretrained(given.folder / "model")
    skops.io.dump(given.clf, given.folder / "clf.skops")
    name = "skbert.classifier.BertSentimentClassifier"
    yield lambda: pickle.loads(pickled)
    yield lambda: joblib.load(file)
    yield lambda: BertSentimentClassifier.from_pretrained(given.folder / "model")
    yield lambda: skops.io.load(given.folder / "clf.skops", trusted=[name])
    yield lambda: copy.deepcopy(given.clf)


def the_device_is_missing(given):
    given.clf.set_params(device="cuda:17")
    yield from lines_that_load(given)


def the_precision_is_missing(given):
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        given.patch.setattr(torch.cpu, name, lambda: False, raising=False)
    given.clf.set_params(precision="bfloat16", device="cpu")
    yield from lines_that_load(given)


def random_state_is_an_instance(given):
    given.clf.set_params(random_state=np.random.RandomState(0))
    yield lambda: given.clf.save_pretrained(given.folder / "model")


def pooling_is_unknown_to_transformers(given):
    clf = classifier(given.model, pooling="mean").fit(given.X, given.y)
    yield lambda: clf.save_pretrained(given.folder / "model")


def the_tokenizer_cuts_otherwise(given):
    pairs = [["good film", "dull"]] * 8
    clf = classifier(given.model).fit(pairs, ["good", "bad"] * 4)
    yield lambda: clf.to_onnx(given.folder / "model.onnx")
    embedder = BertEmbeddingTransformer(given.model, max_length=32).fit(pairs)
    yield lambda: embedder.to_onnx(given.folder / "vectors.onnx")


def the_family_is_padded(given):
    folder = save_padded(given.folder / "padded", "modernbert", given.model)
    clf = classifier(folder).fit(given.X, given.y)
    yield lambda: clf.save_pretrained(given.folder / "model")


def the_card_was_edited_on_the_hub(given):
    with FakeHub() as hub:
        hub.use(given.patch, given.folder / "cache")
        huggingface_hub.HfApi(token=WRITER).create_repo("owner/name")
        hub.files("owner/name")["README.md"] = b"My own words."
        yield lambda: given.clf.push_to_hub("owner/name", token=WRITER)


def tokens_are_unknown(given):
    clf = classifier(given.model).fit(given.X, given.y)
    yield lambda: clf.predict(["สวัสดี"])


def capitals_are_lost(given):
    folder = save_bert(given.folder / "cased", words=[*WORDS, "Good", "Bad"])
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"do_lower_case": True}))
    (folder / "tokenizer.json").unlink(missing_ok=True)
    yield lambda: BertEmbeddingTransformer(str(folder), max_length=32).fit_transform(["good"])


#: For each `warn_user` in skbert: the file that it is in, a case, and what the warning contains.
CASES = [
    ("contract/lost_tokens.py", texts_are_cut, "longer than max_length=32", TruncationWarning),
    ("contract/lost_tokens.py", texts_have_too_many_windows, "fit into", TruncationWarning),
    ("contract/lost_tokens.py", tokens_are_unknown, "1 of 1 tokens", UnknownTokenWarning),
    ("engine/files/tokenizer_files.py", capitals_are_lost, "lower-cases texts", UserWarning),
    ("contract/label_values.py", labels_are_a_column, "A column-vector y", DataConversionWarning),
    ("contract/numbers.py", numbers_are_a_column, "A column-vector y", DataConversionWarning),
    ("contract/labels.py", labels_are_strange, "missing label reads", UserWarning),
    ("contract/holdout.py", a_class_has_one_text, "has a single text", UserWarning),
    ("contract/holdout.py", the_holdout_is_small, "chosen at random", UserWarning),
    ("contract/steps.py", steps_are_too_few, "10 optimizer steps", ConvergenceWarning),
    ("contract/explanation.py", scores_do_not_add_up, "do not add up", ConvergenceWarning),
    ("contract/fitting.py", training_diverges, "not finite in step", ConvergenceWarning),
    ("contract/persistence.py", the_device_is_missing, "'cuda:17'", UserWarning),
    ("contract/persistence.py", random_state_is_an_instance, "cannot be saved", UserWarning),
    ("engine/model/device.py", the_precision_is_missing, "precision='bfloat16'", UserWarning),
    ("engine/model/device.py", ray_hides_the_devices, "assigned no GPU", UserWarning),
    ("contract/prepare_finetuning.py", a_run_has_no_number, "it is None", UserWarning),
    ("engine/prediction/cache.py", the_cache_is_full, "database or disk is full", UserWarning),
    ("engine/training/frozen.py", frozen_layers_are_too_large, "1 frozen layers", UserWarning),
    ("engine/training/micro_batches.py", memory_runs_out, "Out of memory", UserWarning),
    (
        "engine/training/micro_batches.py",
        memory_is_short_for_one_text,
        "checkpointing",
        UserWarning,
    ),
    ("engine/prediction/parts.py", memory_runs_out_in_prediction, "a batch of 2", UserWarning),
    ("engine/training/resume.py", the_disk_is_full, "No space left on device", UserWarning),
    ("engine/training/resume.py", the_folder_holds_another_run, "holds 1 run", UserWarning),
    ("contract/persistence.py", pooling_is_unknown_to_transformers, "pooling='mean'", UserWarning),
    ("contract/persistence.py", the_family_is_padded, "in a form of its own", UserWarning),
    ("contract/push.py", the_card_was_edited_on_the_hub, "push_to_hub kept it", UserWarning),
    ("contract/onnx_export.py", the_tokenizer_cuts_otherwise, "no truncation='head", UserWarning),
    ("contract/prepare_pretraining.py", documents_have_one_sentence, "next_sentence", UserWarning),
]


# huggingface_hub 2.4 uploads large files with an argument that its HTTP library deprecates
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
@pytest.mark.parametrize(
    ("case", "match", "category"), [pytest.param(*c[1:], id=c[1].__name__) for c in CASES]
)
def test_each_warning_names_the_line_of_the_user(given, case, match, category):
    for call in case(given):
        assert_names_its_line(call, match, category)


def calls_in(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]


CALLS = {path.relative_to(PACKAGE).as_posix(): calls_in(path) for path in PACKAGE.rglob("*.py")}


def test_there_is_a_case_for_each_warning():
    found = Counter({file: calls.count("warn_user") for file, calls in CALLS.items()})
    assert +found == Counter(case[0] for case in CASES)


def test_only_warn_user_warns():
    ways = {"warnings.warn", "warnings.warn_explicit", "warn", "warn_explicit"}
    assert {file for file, calls in CALLS.items() if ways & set(calls)} == {WARN}


# What stands between ------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [make_pipeline, OneVsRestClassifier, CalibratedClassifierCV])
def test_meta_estimators_are_passed_over(tiny_bert, wrap):
    X, y = LONG * 5, ["good", "bad"] * 5
    meta = wrap(classifier(tiny_bert))
    assert_names_its_line(lambda: meta.fit(X, y), "max_length=32", TruncationWarning)
    meta.fit(SHORT * 5, y)
    assert_names_its_line(lambda: meta.predict(X), "max_length=32", TruncationWarning)
    meta.fit(SHORT * 5, y)
    assert_names_its_line(lambda: meta.score(X, y), "max_length=32", TruncationWarning)


def test_a_search_is_passed_over(tiny_bert):
    X, y = LONG * 4, ["good", "bad"] * 4
    search = GridSearchCV(classifier(tiny_bert), {"dropout": [0.0, 0.1]}, cv=2)
    assert_names_its_line(lambda: search.fit(X, y), "max_length=32", TruncationWarning)
    search.fit(SHORT * 4, y)
    assert_names_its_line(lambda: search.predict(X), "max_length=32", TruncationWarning)


@pytest.mark.parametrize("validate", [cross_validate, cross_val_predict])
def test_cross_validation_is_passed_over(tiny_bert, validate):
    embedder = BertEmbeddingTransformer(tiny_bert, max_length=32)
    for clf in (
        classifier(tiny_bert),
        make_pipeline(make_union(embedder), LogisticRegression()),
    ):
        assert_names_its_line(
            lambda clf=clf: validate(clf, LONG * 2, [0, 1] * 2, cv=2, n_jobs=1), "max_length=32"
        )


def test_frames_that_embed_are_passed_over(tiny_bert):
    embedder = BertEmbeddingTransformer(tiny_bert, max_length=32).set_output(transform="pandas")
    texts = pd.Series(LONG)
    assert_names_its_line(lambda: embedder.fit_transform(texts), "max_length=32")
    embedder.fit(texts)
    assert_names_its_line(lambda: texts.pipe(embedder.transform), "max_length=32")


@pytest.mark.parametrize("decorate", [torch.no_grad(), functools.singledispatch])
def test_decorators_are_passed_over(fitted, decorate):
    predict = decorate(fitted.predict)
    assert_names_its_line(lambda: predict(LONG), "max_length=32", TruncationWarning)


def test_callers_that_are_not_imported_stay_so(monkeypatch):
    monkeypatch.delitem(sys.modules, "skops")
    assert_names_its_line(lambda: warn_user("where?"), "where")
    assert "skops" not in sys.modules


# Where the user is --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file",
    ["/home/me/skbert/train.py", "/home/sklearn/joblib/torch.py", f"{PACKAGE}_reviews/train.py"],
)
def test_folders_of_the_user_may_be_called_like_packages(fitted, file):
    code = compile("\n\nclf.predict(texts)\n", file, "exec")
    with pytest.warns(TruncationWarning) as caught:
        exec(code, {"clf": fitted, "texts": LONG})
    assert [(warning.filename, warning.lineno) for warning in caught] == [(file, 3)]


def test_a_line_of_the_user_inside_a_search_is_nearer(tiny_bert):
    def score(clf, X, y):
        return clf.score(LONG * 2, y)

    line = score.__code__.co_firstlineno + 1
    X, y = SHORT * 4, [0, 1] * 4
    with pytest.warns(TruncationWarning) as caught:
        cross_validate(classifier(tiny_bert), X, y, cv=2, scoring=score)
    assert (__file__, line) in {(warning.filename, warning.lineno) for warning in caught}


def in_thread(call, argument):
    thread = threading.Thread(target=call, args=(argument,))
    thread.start()
    thread.join()


def in_executor(call, argument):
    with ThreadPoolExecutor() as executor:
        executor.submit(call, argument).result()


def in_pool(call, argument):
    with ThreadPool(1) as pool:
        pool.apply(call, [argument])


def in_joblib(call, argument):
    joblib.Parallel(n_jobs=2, backend="threading")(joblib.delayed(call)(argument) for _ in "ab")


@pytest.mark.parametrize("run", [in_thread, in_executor, in_pool, in_joblib])
def test_without_a_user_the_outermost_frame_is_named(run):
    outermost = set()

    def look(_):
        frame = sys._getframe()
        while frame.f_back is not None:
            frame = frame.f_back
        outermost.add((frame.f_code.co_filename, frame.f_lineno))

    run(look, None)
    with pytest.warns(UserWarning, match="alone") as caught:
        run(warn_user, "alone")
    assert {(warning.filename, warning.lineno) for warning in caught} == outermost


def test_the_default_action_shows_a_warning_once_for_each_line(fitted):
    others = copy.deepcopy(fitted), copy.deepcopy(fitted)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for clf in others:
            clf.predict(LONG)
        fitted.predict(LONG)
    first, second = caught
    assert second.lineno == first.lineno + 1


def test_a_filter_by_module_means_the_module_of_the_user(fitted):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=TruncationWarning, module=__name__)
        fitted.predict(LONG)
