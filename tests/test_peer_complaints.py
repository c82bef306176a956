"""What users of other libraries complained of, one small test for each complaint.

The docstring of a test names the thread or the code that it answers; many are tested in more
depth elsewhere. What cannot happen here has no test:

- One job for each GPU (skorch #95, https://github.com/skorch-dev/skorch/issues/95, and Keras
  #7553, https://github.com/keras-team/keras/issues/7553) and GPU memory itself (transformers
  #1134, #26571): the tests run on machines without a GPU. What stays in memory after a fit is
  tested on the CPU.
- LIME and SHAP are not installed (lime #651, shap #4051): `predict_proba` is called as they do.
- mixed precision, multi-GPU wrappers, trackers and checkpoint folders of a `Trainer`: skbert has
  none of them. That no folder, process or login appears is tested.
- A schedule written by hand for the learning rate (skorch's BERT notebook): nothing is to be
  written by hand. That it follows the rows and epochs of each fit is tested.
"""

import gc
import inspect
import json
import os
import pickle
import pickletools
import re
import sys
import textwrap
import warnings
from concurrent.futures import ThreadPoolExecutor

import huggingface_hub
import joblib
import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from sklearn.base import clone, is_classifier
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedKFold,
    check_cv,
    cross_val_score,
    cross_validate,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import estimator_checks_generator
from transformers import BertModel

from skbert import BertEmbeddingTransformer, BertSentimentClassifier, TruncationWarning
from skbert.engine.files.pretrained import _read
from skbert.engine.model import encoder
from skbert.engine.model.encoder import _embedded
from skbert.engine.prediction import predict
from skbert.engine.prediction.predict import TOKEN_BUDGET
from skbert.engine.text.packing import pack
from skbert.engine.training.optimizer import n_warmup_steps
from tests.conftest import save_bert
from tests.offline import run_offline
from tests.test_sklearn_contract import ADAPTERS

SETTINGS = {"max_length": 32, "max_epochs": 2, "learning_rate": 5e-3, "random_state": 0}
ESTIMATORS = [BertSentimentClassifier, BertEmbeddingTransformer]


@pytest.fixture(scope="module")
def clf(tiny_bert):
    return BertSentimentClassifier(tiny_bert, **SETTINGS)


@pytest.fixture(scope="module")
def fitted(clf, toy_reviews):
    return clone(clf).fit(*toy_reviews)


def globals_in(pickled):
    """Modules and names that a pickle asks for."""
    strings, found = [], set()
    for opcode, argument, _ in pickletools.genops(pickled):
        if isinstance(argument, str):
            strings.append(argument)
        if opcode.name == "STACK_GLOBAL":
            found.add(".".join(strings[-2:]))
        elif opcode.name == "GLOBAL":
            found.add(argument.replace(" ", "."))
    return found


def tensors_in(value):
    """Whether there is a tensor anywhere in nested containers."""
    if isinstance(value, dict):
        return any(tensors_in(v) for v in value.values())
    if isinstance(value, (list, tuple)):
        return any(tensors_in(v) for v in value)
    return isinstance(value, (torch.Tensor, torch.nn.Module))


def n_bytes(clf):
    """Size of all weights."""
    weights = [*clf.model_.state_dict().values(), *clf.head_.state_dict().values()]
    return sum(weight.numel() * weight.element_size() for weight in weights)


def refuse(*args, **kwargs):
    raise AssertionError("this must not be called")


def test_every_test_names_what_it_answers():
    """None: this test is about the others."""
    module = sys.modules[__name__]
    for name, test in inspect.getmembers(module, inspect.isfunction):
        if name.startswith("test_") and test is not test_every_test_names_what_it_answers:
            assert re.search(r"https://github\.com/[\w-]+/[\w-]+", test.__doc__), name
            assert re.search(r"#\d+|commit [0-9a-f]{7}", test.__doc__), name


# Saving and loading


def test_a_pickle_asks_for_nothing_of_torch(fitted):
    """1. A model that was trained on a GPU does not load on a CPU.

    simpletransformers #874 https://github.com/ThilinaRajapakse/simpletransformers/issues/874
    SetFit #276 https://github.com/huggingface/setfit/issues/276
    TabPFN #326 https://github.com/PriorLabs/TabPFN/issues/326
    TabPFN #416 https://github.com/PriorLabs/TabPFN/issues/416
    """
    names = globals_in(pickle.dumps(fitted))
    assert any(name.startswith("numpy") for name in names)
    assert not any(name.startswith("torch") for name in names)


def test_the_state_holds_arrays_before_setstate_is_called(fitted):
    """2. Tensors are rebuilt before `__setstate__` can choose a device.

    skorch #426 https://github.com/skorch-dev/skorch/issues/426
    TabNet #136 https://github.com/dreamquark-ai/tabnet/issues/136
    """
    assert tensors_in(vars(fitted)["model_"])
    assert not tensors_in(fitted.__getstate__())


def test_the_device_of_a_loaded_model_is_the_one_it_says(fitted):
    """3. After loading, `device` lies, or the model silently runs on the CPU.

    skorch #93 https://github.com/skorch-dev/skorch/issues/93
    TabPFN #1243 https://github.com/PriorLabs/TabPFN/pull/1243
    """
    loaded = pickle.loads(pickle.dumps(fitted))
    assert {str(p.device) for p in loaded.model_.parameters()} == {loaded.device_}
    elsewhere = clone(fitted).set_params(device="cuda:63").__getstate__()
    state = fitted.__getstate__() | elsewhere
    loaded = BertSentimentClassifier()
    with pytest.warns(UserWarning, match=r"device='cuda:63' was asked for, but torch .* sees"):
        loaded.__setstate__(state)
    assert {str(p.device) for p in loaded.model_.parameters()} == {loaded.device_}


def test_weights_are_stored_once(fitted):
    """4. Weights are stored twice.

    AutoGluon #5855 https://github.com/autogluon/autogluon/pull/5855
    """
    weights = n_bytes(fitted)
    assert weights < len(pickle.dumps(fitted)) < weights + 25_000  # the tokenizer and settings


def test_a_file_does_not_grow_with_the_training_texts(clf, toy_reviews, tmp_path):
    """5. A file of 27 GB.

    TabPFN #279 https://github.com/PriorLabs/TabPFN/issues/279
    tabpfn-extensions #70 https://github.com/PriorLabs/tabpfn-extensions/issues/70
    """
    X, y = toy_reviews
    sizes = []
    for n_times in (1, 10):
        few = clone(clf).set_params(max_epochs=1).fit(X * n_times, np.tile(y, n_times))
        joblib.dump(few, tmp_path / "clf.joblib")
        sizes.append((tmp_path / "clf.joblib").stat().st_size)
    assert abs(sizes[1] - sizes[0]) < 100


def test_pretrained_weights_are_in_a_pickle_on_request(tiny_bert, toy_reviews):
    """6. Should a pickle hold the pretrained weights?

    skrub #1077 https://github.com/skrub-data/skrub/pull/1077
    """
    X, _ = toy_reviews
    sizes = [
        len(
            pickle.dumps(BertEmbeddingTransformer(tiny_bert, max_length=32, store_weights=s).fit(X))
        )
        for s in (False, True)
    ]
    assert sizes[0] < 2_000 < 100_000 < sizes[1]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickle_is_enough(fitted, clf, toy_reviews, protocol):
    """7. Lambdas and local objects break pickling.

    TabPFN #11 https://github.com/PriorLabs/TabPFN/issues/11
    TabPFN #9 https://github.com/PriorLabs/TabPFN/pull/9
    """
    X, y = toy_reviews
    for estimator in (fitted, clf, clone(clf).partial_fit(X[:8], y[:8], classes=y[:2])):
        assert type(pickle.loads(pickle.dumps(estimator, protocol))) is BertSentimentClassifier


def test_torch_load_is_not_used(fitted, monkeypatch, tmp_path):
    """8. `torch.load` warns of `weights_only`, then breaks.

    skorch #1091 https://github.com/skorch-dev/skorch/issues/1091
    """
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch, "save", refuse)
    joblib.dump(fitted, tmp_path / "clf.joblib")
    fitted.save_pretrained(tmp_path / "model")
    assert joblib.load(tmp_path / "clf.joblib").n_epochs_ == 2
    assert BertSentimentClassifier.from_pretrained(tmp_path / "model").n_epochs_ == 2


def test_a_saved_model_gives_the_same_results_in_another_process(clf, toy_reviews, tmp_path):
    """9. A saved model gives other results, an unfitted head, or does not load.

    simpletransformers #713 https://github.com/ThilinaRajapakse/simpletransformers/issues/713
    SetFit #425 https://github.com/huggingface/setfit/issues/425
    bert-sklearn #2 https://github.com/charles9n/bert-sklearn/issues/2
    c_AMPs #7 https://github.com/mayuefine/c_AMPs-prediction/issues/7
    """
    X, y = toy_reviews
    stopped = clone(clf).set_params(max_epochs=4, early_stopping=True, n_iter_no_change=1).fit(X, y)
    joblib.dump(stopped, tmp_path / "clf.joblib")
    stopped.save_pretrained(tmp_path / "model")
    code = """
import json, joblib
from skbert import BertSentimentClassifier
X = json.loads(sys.argv[2])
loaded = joblib.load(sys.argv[1] + "/clf.joblib")
read = BertSentimentClassifier.from_pretrained(sys.argv[1] + "/model")
print(json.dumps([clf.predict_proba(X).tolist() for clf in (loaded, read)]))
"""
    done = run_offline(code, str(tmp_path), json.dumps(X), folder=tmp_path / "elsewhere")
    for found in json.loads(done.stdout):
        np.testing.assert_allclose(found, stopped.predict_proba(X), rtol=0, atol=1e-6)


def test_there_is_a_format_without_pickle(fitted, toy_reviews, monkeypatch, tmp_path):
    """10. A safe format refuses types it does not know, so its safety is switched off.

    skops #501 https://github.com/skops-dev/skops/issues/501
    skore #400 https://github.com/probabl-ai/skore/issues/400
    """
    X, _ = toy_reviews
    fitted.save_pretrained(tmp_path / "model")
    assert {path.suffix for path in (tmp_path / "model").iterdir()} <= {
        *(".json", ".safetensors", ".txt")
    }
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    loaded = BertSentimentClassifier.from_pretrained(tmp_path / "model")
    monkeypatch.undo()
    assert loaded.predict(X).tolist() == fitted.predict(X).tolist()


# scikit-learn's contract


@pytest.mark.parametrize("labels", [["no", "Yes", "maybe"], [10, -1, 9], ["2", "10", "1"]])
def test_predict_and_predict_proba_agree(clf, toy_reviews, labels):
    """11. `predict` and `predict_proba` have the classes in different orders.

    SetFit #462 https://github.com/huggingface/setfit/issues/462
    SetFit #587 https://github.com/huggingface/setfit/issues/587
    SetFit #599 https://github.com/huggingface/setfit/pull/599
    """
    X, _ = toy_reviews
    three = clone(clf).fit(X, [labels[i % 3] for i in range(len(X))])
    assert three.classes_.tolist() == sorted(labels)
    best = three.predict_proba(X).argmax(axis=1)
    assert three.predict(X).tolist() == three.classes_[best].tolist()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_repr_and_clone(estimator):
    """12. `repr` and `clone` fail, as arguments of the constructor are not attributes.

    embetter #33 https://github.com/koaning/embetter/issues/33
    embetter #36 https://github.com/koaning/embetter/issues/36
    cleanlab #194 https://github.com/cleanlab/cleanlab/pull/194
    """
    changed = estimator("some/model", max_length=77, verbose=1)
    assert re.sub(r"\s", "", repr(changed)) == (
        f"{estimator.__name__}(max_length=77,model='some/model',verbose=1)"
    )
    assert clone(changed).get_params() == changed.get_params()
    assert set(changed.get_params()) == set(inspect.signature(estimator).parameters)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_tags(estimator):
    """13. `'super' object has no attribute '__sklearn_tags__'` since scikit-learn 1.6.

    skorch #1079 https://github.com/skorch-dev/skorch/issues/1079
    scikit-learn #30479 https://github.com/scikit-learn/scikit-learn/issues/30479
    scikit-learn #30542 https://github.com/scikit-learn/scikit-learn/issues/30542
    scikit-fda #706 https://github.com/GAA-UAM/scikit-fda/issues/706
    """
    tags = get_tags(estimator())
    assert (tags.classifier_tags is None) == (tags.transformer_tags is not None)
    assert tags.input_tags.string and not tags.input_tags.two_d_array
    assert estimator.__mro__[-2].__module__.startswith("sklearn.")  # mixins first, then the bases


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_check_estimator_is_not_empty(estimator):
    """14. `check_estimator` runs one check on what takes texts.

    scikit-learn #12491 https://github.com/scikit-learn/scikit-learn/issues/12491
    scikit-learn #14057 https://github.com/scikit-learn/scikit-learn/issues/14057
    scikit-mol #46 https://github.com/EBjerrum/scikit-mol/issues/46
    """
    names = [check.func.__name__ for _, check in estimator_checks_generator(ADAPTERS[estimator]())]
    assert len(names) > 40
    assert "check_fit_idempotent" in names and "check_n_features_in_after_fitting" in names


@pytest.mark.parametrize("column", ["text", ["text"]])
def test_a_column_by_name_and_by_list(tiny_bert, toy_reviews, column):
    """15. A text column of a `ColumnTransformer` must be 'text' and must not be ['text'].

    scikit-learn #14056 https://github.com/scikit-learn/scikit-learn/issues/14056
    scikit-learn #15588 https://github.com/scikit-learn/scikit-learn/issues/15588
    """
    X, _ = toy_reviews
    transformer = BertEmbeddingTransformer(tiny_bert, max_length=32)
    columns = ColumnTransformer([("embed", transformer, column)])
    vectors = columns.fit_transform(pd.DataFrame({"stars": 1, "text": X}))
    assert vectors.tolist() == transformer.fit_transform(X).tolist()


@pytest.mark.parametrize(
    "container",
    [tuple, np.array, pd.Series, pd.DataFrame, lambda X: np.array(X, dtype=object)[:, None]],
)
def test_one_and_two_dimensions(clf, fitted, toy_reviews, container):
    """16. Are texts one-dimensional or two-dimensional?

    skift #4 https://github.com/shaypal5/skift/issues/4
    """
    X, y = toy_reviews
    found = clone(clf).fit(container(X), y).predict_proba(container(X))
    assert found.tolist() == fitted.predict_proba(X).tolist()


def test_self_training_on_vectors(tiny_bert, toy_reviews):
    """16. `SelfTrainingClassifier` refuses texts: it wants numbers. Put the vectors in front.

    scikit-learn #23323 https://github.com/scikit-learn/scikit-learn/issues/23323
    """
    X, y = toy_reviews
    some = np.where(np.arange(len(y)) < 60, y == "good", -1)
    pipeline = make_pipeline(
        BertEmbeddingTransformer(tiny_bert, layer=0, pooling="mean", max_length=32),
        SelfTrainingClassifier(LogisticRegression(max_iter=1000)),
    )
    pipeline.fit(X, some)
    taken = pipeline[-1].labeled_iter_ > 0  # texts without a label that it gave one itself
    assert taken.any()
    assert (pipeline[-1].transduction_[taken] == (y == "good")[taken]).all()


def test_nothing_is_carried_from_fold_to_fold(clf, toy_reviews):
    """17. With an instance as parameter, weights go from one fold to the next.

    skorch #1073 https://github.com/skorch-dev/skorch/issues/1073
    """
    X, y = toy_reviews
    second = cross_validate(clf, X, y, cv=2, return_estimator=True)["estimator"][1]
    train, _ = list(StratifiedKFold(2).split(X, y))[1]
    alone = clone(clf).fit([X[i] for i in train], y[train])
    assert second.predict_proba(X).tolist() == alone.predict_proba(X).tolist()
    with pytest.raises(
        ValueError, match=r"The 'model' parameter of .* must be an instance of 'str'"
    ):
        clone(clf).set_params(model=alone.model_).fit(X, y)


@pytest.mark.parametrize("container", [list, np.array, pd.Series])
@pytest.mark.parametrize("missing", [None, float("nan")])
def test_missing_texts_are_named(fitted, container, missing):
    """18. `TextEncodeInput must be Union[...]`, for None, NaN, arrays and Series.

    tokenizers #733 https://github.com/huggingface/tokenizers/issues/733
    PyG #5647 https://github.com/pyg-team/pytorch_geometric/issues/5647
    """
    texts = np.array(["good", "bad", "fun"], dtype=object)
    assert fitted.predict(container(texts)).shape == (3,)
    texts[1] = missing
    with pytest.raises(ValueError, match=r"^X\[1\] is .*; every text must be a str\."):
        fitted.predict(container(texts))


# Weights and imbalance


def test_sample_weight(clf, fitted, toy_reviews):
    """19. There is no `sample_weight`, or weights of 1 change the result.

    skorch #203 https://github.com/skorch-dev/skorch/issues/203
    skorch #801 https://github.com/skorch-dev/skorch/issues/801
    skorch #630 https://github.com/skorch-dev/skorch/issues/630
    """
    X, y = toy_reviews
    ones = clone(clf).fit(X, y, sample_weight=np.ones(len(X)))
    assert ones.predict_proba(X).tolist() == fitted.predict_proba(X).tolist()
    good = clone(clf).fit(X, y, sample_weight=np.where(y == "good", 100.0, 1.0))
    assert good.predict_proba(X)[:, 1].mean() > fitted.predict_proba(X)[:, 1].mean() + 0.1


def test_class_weight_is_balanced_by_the_fold(clf, toy_reviews):
    """20. There is no `class_weight`, or it leaks from the whole data into the folds.

    transformers #7024 https://github.com/huggingface/transformers/issues/7024
    transformers #12997 https://github.com/huggingface/transformers/issues/12997
    transformers #35061 https://github.com/huggingface/transformers/issues/35061
    SetFit #375 https://github.com/huggingface/setfit/issues/375
    SetFit #407 https://github.com/huggingface/setfit/issues/407
    skorch #673 https://github.com/skorch-dev/skorch/issues/673
    FARM #219 https://github.com/deepset-ai/FARM/issues/219
    """
    X, y = toy_reviews
    folds = [(np.r_[0:40, 40:80:2], np.arange(41, 80, 2))]  # 40 good and 20 bad; all: 40 and 40
    balanced = clone(clf).set_params(class_weight="balanced")
    (found,) = cross_validate(balanced, X, y, cv=folds, return_estimator=True)["estimator"]
    rows = folds[0][0]
    by_hand = clone(clf).set_params(class_weight={"good": 60 / 80, "bad": 60 / 40})
    by_hand.fit([X[i] for i in rows], y[rows])
    assert found.predict_proba(X).tolist() == by_hand.predict_proba(X).tolist()


def test_several_labels_a_text(clf, toy_reviews):
    """21. Is there multilabel classification? One classifier a label.

    bert-sklearn #9 https://github.com/charles9n/bert-sklearn/issues/9
    """
    X, y = toy_reviews
    indicators = np.stack([y == "good", ["film" in text for text in X]], axis=1).astype(int)
    with pytest.raises(ValueError, match=r"^y has 2 columns; .* OneVsRestClassifier"):
        clf.fit(X, indicators)
    several = OneVsRestClassifier(clf).fit(X, indicators).predict(X)
    alone = [clone(clf).fit(X, column).predict(X).tolist() for column in indicators.T]
    assert several.T.tolist() == alone


# Memory, processes, threads


def test_n_jobs(clf, toy_reviews):
    """22. `n_jobs=2` kills the workers.

    skorch #714 https://github.com/skorch-dev/skorch/issues/714
    skorch #712 https://github.com/skorch-dev/skorch/issues/712
    """
    one, two = (cross_val_score(clf, *toy_reviews, cv=2, n_jobs=n) for n in (1, 2))
    assert one.tolist() == two.tolist()


def test_models_of_earlier_folds_are_freed(clf, toy_reviews):
    """23. Memory climbs from fold to fold.

    transformers #1134 https://github.com/huggingface/transformers/issues/1134
    transformers #26571 https://github.com/huggingface/transformers/issues/26571
    FARM #544 https://github.com/deepset-ai/FARM/issues/544
    FARM #219 https://github.com/deepset-ai/FARM/issues/219
    """

    def alive():
        gc.collect()
        kinds = (BertModel, torch.optim.Optimizer)
        return sum(issubclass(type(thing), kinds) for thing in gc.get_objects())

    before = alive()
    cross_val_score(clf, *toy_reviews, cv=4)
    assert alive() == before


def test_no_data_loader(clf, toy_reviews, monkeypatch):
    """24. The workers of a DataLoader clash with those of joblib.

    joblib #1104 https://github.com/joblib/joblib/issues/1104
    """
    monkeypatch.setattr(torch.utils.data.DataLoader, "__init__", refuse)
    assert clone(clf).fit(*toy_reviews).predict(toy_reviews[0]).shape == (80,)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_forking_after_a_fit_warns_of_nothing(tiny_bert, tmp_path):
    """25. Warnings of forked tokenizers (TOKENIZERS_PARALLELISM).

    transformers #5486 https://github.com/huggingface/transformers/issues/5486
    skrub #1251 https://github.com/skrub-data/skrub/issues/1251
    """
    code = """
import os
from skbert import BertSentimentClassifier
X = ["good", "bad"] * 20
clf = BertSentimentClassifier(sys.argv[1], max_length=16, max_epochs=1).fit(X, [0, 1] * 20)
clf.predict(X)
child = os.fork()
if child == 0:
    os._exit(int(clf.predict(X).shape == (40,)))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = run_offline(code, tiny_bert, folder=tmp_path / "run", OMP_NUM_THREADS="1")
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_threads_share_an_estimator(fitted, toy_reviews):
    """26. `RuntimeError: Already borrowed`, as a fast tokenizer is not thread-safe.

    tokenizers #537 https://github.com/huggingface/tokenizers/issues/537
    transformers #47085 https://github.com/huggingface/transformers/issues/47085
    """
    X, _ = toy_reviews
    expected = fitted.predict_proba(X).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: fitted.predict_proba(X).tolist(), range(40)))
    assert found == [expected] * 40


def test_no_process_is_started(clf, toy_reviews):
    """27. Processes that are started for the tokenizer hang.

    simpletransformers #162 https://github.com/ThilinaRajapakse/simpletransformers/issues/162
    simpletransformers #1030 https://github.com/ThilinaRajapakse/simpletransformers/issues/1030
    simpletransformers #1402 https://github.com/ThilinaRajapakse/simpletransformers/issues/1402
    """
    process = psutil.Process()
    before = {child.pid for child in process.children(recursive=True)}
    during = set()

    class Watching(BertSentimentClassifier):
        def _progress(self):
            during.update(child.pid for child in process.children(recursive=True))
            return super()._progress()

    Watching(**clf.get_params()).fit(*toy_reviews).predict(toy_reviews[0])
    during.update(child.pid for child in process.children(recursive=True))
    assert during <= before


# Side effects, noise, network


def test_nothing_appears_beside_the_user_s_work(clf, toy_reviews, monkeypatch, tmp_path):
    """28. A login for wandb is asked for, folders appear.

    transformers #16594 https://github.com/huggingface/transformers/issues/16594
    smol-course #164 https://github.com/huggingface/smol-course/issues/164
    dlkp #23 https://github.com/midas-research/dlkp/issues/23
    simpletransformers #116 https://github.com/ThilinaRajapakse/simpletransformers/issues/116
    """
    monkeypatch.chdir(tmp_path)
    environment = dict(os.environ)
    for _ in range(2):  # a second time, for what refuses a folder that is there
        clone(clf).fit(*toy_reviews).predict(toy_reviews[0])
    assert list(tmp_path.iterdir()) == []
    assert dict(os.environ) == environment
    assert not {"wandb", "comet_ml", "mlflow", "codecarbon"} & set(sys.modules)


def test_no_alarm_about_weights(tiny_bert, capfd, caplog):
    """29. "Some weights were not initialized", at every fit.

    transformers #5421 https://github.com/huggingface/transformers/issues/5421
    """
    _read.cache_clear()
    BertSentimentClassifier(tiny_bert, **SETTINGS).fit(["good", "bad"], [1, 0])
    assert capfd.readouterr() == ("", "")
    assert caplog.messages == []


def test_what_is_cached_needs_no_network(tiny_bert, toy_reviews, monkeypatch):
    """30. The network is asked for a model that is in the cache.

    transformers #30345 https://github.com/huggingface/transformers/issues/30345
    transformers #36762 https://github.com/huggingface/transformers/issues/36762
    transformers #34162 https://github.com/huggingface/transformers/issues/34162
    """
    asked = []

    def snapshot_download(model, *, local_files_only=False, **options):
        asked.append((model, local_files_only))
        return tiny_bert

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    cross_val_score(BertSentimentClassifier("someone/bert", **SETTINGS), *toy_reviews, cv=2)
    assert set(asked) == {("someone/bert", True)}


# Results


def test_the_same_seed_gives_the_same_weights(clf, fitted, toy_reviews):
    """31. The same seed gives another result.

    simpletransformers #1459 https://github.com/ThilinaRajapakse/simpletransformers/issues/1459
    simpletransformers #697 https://github.com/ThilinaRajapakse/simpletransformers/issues/697
    transformers #28134 https://github.com/huggingface/transformers/issues/28134
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        again = clone(clf).fit(*toy_reviews)
    for name, weight in fitted.model_.state_dict().items():
        assert torch.equal(weight, again.model_.state_dict()[name]), name


def test_an_epoch_does_not_depend_on_how_many_follow(clf, toy_reviews):
    """31. Epoch k is another one when more epochs follow.

    With `fit` the learning rate decays to the last epoch, so it has to be; with `partial_fit`
    it stays.

    simpletransformers #1459 https://github.com/ThilinaRajapakse/simpletransformers/issues/1459
    """
    X, y = toy_reviews
    short, long = (clone(clf).set_params(max_epochs=n) for n in (2, 5))
    for _ in range(2):
        short.partial_fit(X, y, classes=["good", "bad"])
        long.partial_fit(X, y, classes=["good", "bad"])
    assert short.predict_proba(X).tolist() == long.predict_proba(X).tolist()
    assert short.history_[1]["learning_rate"] == clf.learning_rate


@pytest.mark.weights
@pytest.mark.parametrize("seed", range(3))
def test_few_texts_do_not_collapse(real_weights, seed):
    """31. Fine-tuning on few texts ends with a model that predicts one class.

    sentence-transformers #617 https://github.com/huggingface/sentence-transformers/issues/617
    """
    texts = ["what a joy", "i loved it", "so dull", "a waste of time"] * 4
    few = BertSentimentClassifier(max_epochs=10, batch_size=8, random_state=seed)
    labels = ["good", "good", "bad", "bad"] * 4
    assert few.fit(texts, labels).score(texts, labels) == 1.0


def test_no_memory_is_an_error_and_not_an_answer(fitted, toy_reviews, monkeypatch):
    """31b. Wrong answers instead of an error when memory is short.

    TabPFN #850 https://github.com/PriorLabs/TabPFN/issues/850
    """

    def no_memory(*args, **kwargs):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(encoder, "_full_layer", no_memory)
    with pytest.raises(torch.OutOfMemoryError, match="no memory"):
        fitted.predict_proba(toy_reviews[0])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_gpu_that_is_not_there_is_an_error(tiny_bert, toy_reviews, estimator):
    """31b. A GPU is asked for, the CPU is used.

    TabPFN #423 https://github.com/PriorLabs/TabPFN/issues/423
    """
    with pytest.raises(ValueError, match=r"device='cuda:63' was asked for, but torch .* sees"):
        estimator(tiny_bert, max_length=32, device="cuda:63").fit(*toy_reviews)


def test_the_result_of_a_text_does_not_depend_on_the_others(fitted, toy_reviews):
    """32. The output depends on the other texts of the batch.

    sentence-transformers #2312 https://github.com/huggingface/sentence-transformers/issues/2312
    sentence-transformers #3197 https://github.com/huggingface/sentence-transformers/issues/3197
    sentence-transformers #1356 https://github.com/huggingface/sentence-transformers/issues/1356
    """
    X, _ = toy_reviews
    alone = np.concatenate([fitted.predict_proba([text]) for text in X])
    np.testing.assert_allclose(fitted.predict_proba(X), alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_truncation_is_said(tiny_bert, estimator):
    """33. Texts are cut and nothing is said.

    sentence-transformers #4060 https://github.com/huggingface/sentence-transformers/issues/4060
    """
    texts = ["good film", "dull " * 18]  # 2 + 2 and 18 + 2 tokens
    message = (
        "^1 of 2 texts are longer than max_length=12 tokens and were cut; 8 .* left out, 33.3%"
    )
    cut = estimator(tiny_bert, max_length=12)
    with pytest.warns(TruncationWarning, match=message) as caught:
        getattr(cut, "fit_transform", cut.fit)(texts, [1, 0])
    assert len(caught) == 1


def test_each_text_is_embedded_once_for_all_folds(toy_reviews, tmp_path, monkeypatch):
    """33. The same texts are embedded again in every fold.

    skrub #1554 https://github.com/skrub-data/skrub/issues/1554
    """
    X, y = toy_reviews
    encoded = []
    plain = _embedded
    monkeypatch.setattr(
        encoder,
        "_embedded",
        lambda model, batch, dropout: (
            encoded.append(len(batch.cu_seqlens) - 1) or plain(model, batch, dropout)
        ),
    )
    model = str(save_bert(tmp_path / "model", seed=3))
    embed = BertEmbeddingTransformer(model, max_length=32, cache="memory")
    search = GridSearchCV(
        make_pipeline(embed, LogisticRegression(max_iter=1000)),
        {"logisticregression__C": [0.1, 1, 10]},
        cv=4,
    )
    search.fit(X, y).predict(X)
    assert sum(encoded) == len(set(X))


def test_thousands_of_variants_of_a_text(fitted, monkeypatch):
    """33. LIME and SHAP run out of memory, as their variants of a text come in one batch.

    lime #651 https://github.com/marcotcr/lime/issues/651
    shap #4051 https://github.com/shap/shap/issues/4051
    """
    sizes = []
    plain = pack
    monkeypatch.setattr(
        predict,
        "pack",
        lambda tokens, rows: sizes.append(int(tokens.lengths[rows].sum())) or plain(tokens, rows),
    )
    words = "this film was not very good but i loved it".split()
    masks = np.random.default_rng(0).random((5000, len(words))) < 0.5
    variants = [" ".join(np.array(words)[mask]) for mask in masks]
    for container in (list, np.array):
        assert fitted.predict_proba(container(variants)).shape == (5000, 2)
    assert max(sizes) <= TOKEN_BUDGET
    assert sum(sizes) < 2 * 12 * 2**10  # of 1024 distinct variants, at most 12 tokens each, twice


# Defects in the code of others


def test_it_is_a_classifier_for_cross_validation(clf, toy_reviews):
    """BaseEstimator before ClassifierMixin: not a classifier, so folds are not stratified.

    bert-sklearn https://github.com/charles9n/bert-sklearn, commit 9cb510a
    """
    assert is_classifier(clf)
    assert isinstance(check_cv(3, toy_reviews[1], classifier=is_classifier(clf)), StratifiedKFold)


def test_fit_changes_no_parameter(clf, toy_reviews):
    """`fit` writes parameters, so a clone of a fitted model keeps the labels of old.

    bert-sklearn https://github.com/charles9n/bert-sklearn, commit 9cb510a
    """
    X, y = toy_reviews
    once = clone(clf)
    before = once.get_params()
    once.fit(X, y)
    assert once.get_params() == before
    again = clone(once).fit(X, np.arange(len(X)) % 3)
    assert again.classes_.tolist() == [0, 1, 2]
    assert once.fit(X, np.arange(len(X)) % 3).classes_.tolist() == [0, 1, 2]


def test_nothing_is_printed_and_score_takes_weights(clf, toy_reviews, capfd, caplog):
    """The constructor prints and opens a log; `predict` shows a bar; `score` ignores weights.

    bert-sklearn https://github.com/charles9n/bert-sklearn, commit 9cb510a
    """
    X, y = toy_reviews
    right = clone(clf).set_params(max_epochs=1).fit(X, y).predict(X) == y
    quiet = clone(clf).set_params(max_epochs=1).fit(X, y)
    assert quiet.score(X, y, sample_weight=np.where(right, 3, 1)) == pytest.approx(
        3 * right.sum() / (3 * right.sum() + (~right).sum())
    )
    assert capfd.readouterr() == ("", "")
    assert caplog.messages == []


def test_a_grid_over_models_scores_each(tiny_bert, toy_reviews, tmp_path):
    """The constructor loads the model, so `set_params` in a grid changes the name alone.

    embetter https://github.com/koaning/embetter, commit c75f0f5
    """
    other = str(save_bert(tmp_path / "other", seed=1, hidden_size=16))
    for estimator in (BertSentimentClassifier, BertEmbeddingTransformer):
        both = []
        for model in (tiny_bert, other):
            changed = estimator("no/such/model", max_length=32).set_params(model=model)
            changed.fit(*toy_reviews)
            vectors = getattr(changed, "transform", getattr(changed, "predict_proba", None))
            both.append(vectors(toy_reviews[0]))
        assert both[0].shape != both[1].shape or np.abs(both[0] - both[1]).max() > 1e-3
    search = GridSearchCV(
        make_pipeline(BertEmbeddingTransformer(max_length=32), LogisticRegression()),
        {"bertembeddingtransformer__model": [tiny_bert, other]},
        cv=2,
        scoring="neg_log_loss",
    ).fit(*toy_reviews)
    first, second = search.cv_results_["mean_test_score"]
    assert first != second


def test_two_encoders_share_a_cache(tiny_bert, toy_reviews, tmp_path):
    """A cache whose key is the text alone gives one encoder the vectors of another.

    embetter https://github.com/koaning/embetter, commit c75f0f5
    """
    X, _ = toy_reviews
    other = str(save_bert(tmp_path / "other", seed=1))
    for model in (tiny_bert, other, tiny_bert):
        cached = BertEmbeddingTransformer(model, max_length=32, cache=tmp_path / "cache")
        plain = clone(cached).set_params(cache=None)
        assert clone(cached).cache == tmp_path / "cache"
        np.testing.assert_allclose(cached.transform(X), plain.transform(X), rtol=0, atol=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("is_fitted", [False, True])
def test_tab_completion_loads_nothing(tiny_bert, toy_reviews, monkeypatch, estimator, is_fitted):
    """`dir` evaluates a cached property that loads the model, or one that raises ValueError.

    skrub https://github.com/skrub-data/skrub, commit 9fb3ac5
    TabPFN https://github.com/PriorLabs/TabPFN, commit 930ea72
    """
    completed = estimator(tiny_bert, max_length=32)
    if is_fitted:
        completed.fit(*toy_reviews)
    for module in ("classifier", "embedding"):
        monkeypatch.setattr(f"skbert.{module}.load_pretrained", refuse)
    assert {"fit", "set_params", "max_length"} <= set(dir(completed))
    assert "max_length" in completed._repr_html_()
    inspect.getmembers(completed)
    assert hasattr(completed, "model_") is (is_fitted and estimator is BertSentimentClassifier)


def test_the_kind_of_estimator_is_not_forced():
    """`_estimator_type` is set by hand.

    TabPFN https://github.com/PriorLabs/TabPFN, commit 930ea72
    """
    for estimator in ESTIMATORS:
        assert "_estimator_type" not in vars(estimator)
    assert get_tags(BertSentimentClassifier()).estimator_type == "classifier"


def test_nothing_is_padded(tiny_bert):
    """Every text is padded to 256 tokens and all are put into one tensor before training.

    skorch https://github.com/skorch-dev/skorch, commit 5db0ddc
    """
    texts = ["", "good film", "dull dull dull dull"]  # and [CLS] and [SEP] for each
    clf = BertSentimentClassifier(tiny_bert, **SETTINGS).fit(texts, [0, 1, 0])
    assert clf.history_[0]["n_tokens"] == 2 + 4 + 6


@pytest.mark.parametrize("max_epochs", [1, 3])
def test_the_schedule_is_that_of_the_rows_and_epochs_of_the_fit(clf, toy_reviews, max_epochs):
    """The notebook's schedule is made of all rows and one number of epochs, for every fold.

    skorch https://github.com/skorch-dev/skorch, commit 5db0ddc
    """
    settings = {"max_epochs": max_epochs, "batch_size": 8, "warmup_fraction": 0.2}
    found = cross_validate(
        clone(clf).set_params(**settings), *toy_reviews, cv=4, return_estimator=True
    )["estimator"]
    n_steps = max_epochs * 8  # 60 texts in batches of 8
    last = clf.learning_rate / (n_steps - n_warmup_steps(n_steps, 0.2))
    for fold in found:
        assert fold.history_[-1]["learning_rate"] == pytest.approx(last)


def test_a_folder_keeps_the_classes(clf, toy_reviews, tmp_path):
    """`save_params` drops `classes_`, and some nets cannot be pickled at all.

    skorch https://github.com/skorch-dev/skorch, commit 5db0ddc
    """
    X, y = toy_reviews
    numbers = clone(clf).fit(X, np.where(y == "good", 7, -7))
    numbers.save_pretrained(tmp_path / "model")
    loaded = BertSentimentClassifier.from_pretrained(tmp_path / "model")
    assert loaded.classes_.tolist() == [-7, 7]
    assert loaded.classes_.dtype == numbers.classes_.dtype
    assert pickle.loads(pickle.dumps(numbers)).classes_.tolist() == [-7, 7]


def test_a_folder_runs_no_code(fitted, tmp_path):
    """The head is a pickle in a downloaded folder: it can run any code.

    SetFit https://github.com/huggingface/setfit, commit 0f8e322
    """
    fitted.save_pretrained(tmp_path / "model")
    evil = textwrap.dedent("import pathlib; pathlib.Path('evil').touch()")
    (tmp_path / "model" / "model_head.pkl").write_bytes(
        b"c__builtin__\nexec\n(V" + evil.encode() + b"\ntR."
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        BertSentimentClassifier.from_pretrained(tmp_path / "model")
    assert not os.path.exists("evil")


def test_fit_saves_nothing_that_was_not_asked_for(clf, toy_reviews, monkeypatch, tmp_path):
    """Folders named checkpoints, outputs, tmp_trainer and trainer_output appear.

    SetFit https://github.com/huggingface/setfit, commit 0f8e322
    simpletransformers https://github.com/ThilinaRajapakse/simpletransformers, commit 03a3789
    transformers https://github.com/huggingface/transformers, 5.23.0, found in #16594
    """
    monkeypatch.chdir(tmp_path)
    stopped = clone(clf).set_params(early_stopping=True).fit(*toy_reviews)
    assert list(tmp_path.iterdir()) == []
    stopped.set_params(checkpoint_dir="kept").fit(*toy_reviews)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_long_texts_have_probabilities(tiny_bert, toy_reviews):
    """Long texts get a majority vote and no probabilities; half precision is the default.

    simpletransformers https://github.com/ThilinaRajapakse/simpletransformers, commit 03a3789
    """
    clf = BertSentimentClassifier(tiny_bert, **SETTINGS).fit(*toy_reviews)
    with pytest.warns(TruncationWarning):
        proba = clf.predict_proba(["good " * 100, "dull " * 100])
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=0, atol=1e-12)
    assert {weight.dtype for weight in clf.model_.state_dict().values()} == {torch.float32}
