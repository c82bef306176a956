"""bfloat16: which devices support it, how close its results are, and that it is never automatic."""

import pickle
import re

import joblib
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from skbert import BertEmbeddingTransformer, BertPretrainer, BertSentimentClassifier, CacheInfo
from skbert.engine.files.pretrained import load_pretrained
from skbert.engine.model import device as device_module
from skbert.engine.model import encoder
from skbert.engine.model.attention import self_attention, text_groups
from skbert.engine.model.batch import host_batch
from skbert.engine.model.device import computing_in, precision_name, resolve_precision
from skbert.engine.prediction import cache as cache_module
from skbert.engine.prediction.cache import MemoryCache
from skbert.engine.text.packing import pack
from skbert.engine.training.frozen import FrozenLayers
from tests.objectives import on_cpu

CPU = torch.device("cpu")
HELPERS = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
TEXTS = [
    "",
    "a film",
    "this film is not good",
    "a film",
    *(f"movie {'very ' * n}dull" for n in range(13)),
]

DOCUMENTS = [["a film", "so dull", "it was fun"], ["very good", "not bad"]] * 4


def let_cpu_have(monkeypatch, *helpers):
    """Let some of torch's `HELPERS` return True."""
    for name in HELPERS:
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name in helpers, raising=False)


@pytest.fixture
def bfloat16_cpu(monkeypatch):
    """A CPU with AMX. On other CPUs, torch computes the same results more slowly."""
    let_cpu_have(monkeypatch, "_is_amx_tile_supported")


@pytest.fixture
def old_cpu(monkeypatch):
    let_cpu_have(monkeypatch)


def refusal(device="cpu"):
    return (
        f"precision='bfloat16' is not available on device '{device}'; it requires a CPU with AMX "
        "or AVX512-BF16 (other CPUs are many times slower in bfloat16 than in float32) or a CUDA "
        "device of compute capability 8.0 or more. Use precision='auto' or 'float32'."
    )


def classifier(model, **parameters):
    settings = {"max_length": 32, "max_epochs": 3, "learning_rate": 5e-3, "random_state": 0}
    return BertSentimentClassifier(model, **(settings | parameters))


def pretrainer(model, **parameters):
    return BertPretrainer(model, **({"max_length": 32, "random_state": 0} | parameters))


def transformer(model, **parameters):
    return BertEmbeddingTransformer(model, **({"max_length": 64} | parameters))


# -- resolve names ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "device", "capability", "expected"),
    [
        ("auto", "cpu", None, "float32"),
        ("auto", "mps", None, "float32"),
        ("auto", "cuda", (7, 5), "float32"),
        ("auto", "cuda", (8, 0), "bfloat16"),
        ("auto", "cuda:1", (9, 0), "bfloat16"),
        ("float32", "cuda", (9, 0), "float32"),
        ("bfloat16", "cuda", (8, 6), "bfloat16"),
        ("bfloat16", "cpu", None, "bfloat16"),
    ],
)
@pytest.mark.usefixtures("bfloat16_cpu")
def test_what_a_precision_stands_for(monkeypatch, name, device, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    found = resolve_precision(name, torch.device(device))
    assert found == getattr(torch, expected)
    assert precision_name(found) == expected


@pytest.mark.parametrize("helper", HELPERS)
def test_either_instructions_will_do(monkeypatch, helper):
    let_cpu_have(monkeypatch, helper)
    assert resolve_precision("bfloat16", CPU) == torch.bfloat16


@pytest.mark.usefixtures("old_cpu")
@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_bfloat16_without_instructions_is_refused(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(ValueError, match=f"^{re.escape(refusal(device))}$"):
        resolve_precision("bfloat16", torch.device(device))


def test_a_torch_that_cannot_tell_is_a_no(monkeypatch):
    for name in HELPERS:
        monkeypatch.delattr(torch.cpu, name, raising=False)
    with pytest.raises(ValueError, match=f"^{re.escape(refusal())}$"):
        resolve_precision("bfloat16", CPU)


@pytest.mark.usefixtures("old_cpu")
def test_estimators_refuse_it_too(tiny_bert, toy_reviews):
    X, y = toy_reviews
    for fit in (
        lambda: classifier(tiny_bert, precision="bfloat16").fit(X, y),
        lambda: classifier(tiny_bert, precision="bfloat16").partial_fit(
            X, y, classes=["bad", "good"]
        ),
        lambda: transformer(tiny_bert, precision="bfloat16").fit(X),
        lambda: transformer(tiny_bert, precision="bfloat16").transform(X),
        lambda: pretrainer(tiny_bert, precision="bfloat16").fit(X),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(refusal())}$"):
            fit()
    unable = transformer(tiny_bert, precision="bfloat16")
    assert not hasattr(unable, "precision_")
    assert "precision" in dir(unable)  # dir reads every property


def test_an_unknown_precision_is_refused(tiny_bert, toy_reviews):
    message = (
        "precision='half' is not a known precision; 'auto', 'float32' and 'bfloat16' are "
        "allowed. Use precision='auto' for the default of the device."
    )
    for estimator in (classifier(tiny_bert), transformer(tiny_bert), pretrainer(tiny_bert)):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            estimator.set_params(precision="half").fit(*toy_reviews)


def test_products_and_nothing_else_are_bfloat16():
    x, weight = torch.ones(2, 3), torch.ones(4, 3)
    with computing_in(torch.bfloat16, CPU):
        assert F.linear(x, weight).dtype == torch.bfloat16
        assert (x + x).dtype == torch.float32
        with computing_in(torch.float32, CPU):
            assert F.linear(x, weight).dtype == torch.float32
    assert F.linear(x, weight).dtype == torch.float32


# -- compute in bfloat16 ------------------------------------------------------------------------


@pytest.mark.parametrize("is_derived", [True, False])
def test_attention_is_float32_inside_or_the_fused_kernel(is_derived):
    with torch.set_grad_enabled(is_derived):
        groups = text_groups(np.array([0, 7, 12, 14], dtype=np.int32), CPU)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(14, 24, generator=generator).bfloat16().requires_grad_(is_derived)
    with computing_in(torch.bfloat16, CPU):
        near = self_attention(x, groups, n_heads=2)
    exact = self_attention(x.float(), groups, n_heads=2)
    assert near.dtype == (torch.float32 if is_derived else torch.bfloat16)
    if not is_derived:
        torch.testing.assert_close(near.float(), exact, rtol=0, atol=2**-7)
        return
    assert torch.equal(near, exact)
    gradients = [torch.autograd.grad(result.square().sum(), x)[0] for result in (near, exact)]
    assert gradients[0].dtype == torch.bfloat16
    assert torch.equal(*gradients)


@pytest.fixture
def products(monkeypatch):
    """Types of the outputs of the encoder's linear layers."""
    types = []

    def noting(plain):
        def compute(*arguments):
            result = plain(*arguments)
            types.append(precision_name(result.dtype))
            return result

        return compute

    for name in ("joint_linear", "side_by_side"):
        monkeypatch.setattr(encoder, name, noting(getattr(encoder, name)))
    return types


@pytest.mark.usefixtures("bfloat16_cpu")
@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
@pytest.mark.parametrize("n_frozen_layers", [0, 1])
def test_what_was_used_is_what_precision_says(
    tiny_bert, toy_reviews, products, precision, n_frozen_layers
):
    expected = "bfloat16" if precision == "bfloat16" else "float32"
    clf = classifier(
        tiny_bert, precision=precision, n_frozen_layers=n_frozen_layers, max_epochs=1
    ).fit(*toy_reviews)
    assert clf.precision_ == expected
    assert {*products} == {expected}
    products.clear()
    assert clf.decision_function(TEXTS).dtype == np.float32
    vectors = transformer(tiny_bert, precision=precision).fit(TEXTS)
    assert vectors.precision_ == expected
    assert vectors.transform(TEXTS).dtype == np.float32
    assert {text.vectors.dtype for text in vectors.token_embeddings(TEXTS)} == {np.dtype("f4")}
    assert {*products} == {expected}
    assert {weight.dtype for weight in clf.model_.parameters()} == {torch.float32}
    assert clf.head_.weight.dtype == torch.float32


def pretrained_answers(model):
    """Results of all methods of a pretrainer, after one epoch on pairs of sentences."""
    fitted = pretrainer(model).fit(DOCUMENTS)
    return [
        fitted.history_[0]["train_loss"],
        fitted.fill_mask("a [MASK] film").probabilities.tolist(),
        fitted.predict_next_sentence([("a film", "so dull")]).tolist(),
        fitted.transform(["so dull"]).tolist(),
        fitted.score(["so dull"]),
    ]


@pytest.mark.usefixtures("bfloat16_cpu")
@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_a_pretrainer_computes_in_its_precision_everywhere(tiny_bert, products, precision):
    expected = "bfloat16" if precision == "bfloat16" else "float32"
    fitted = pretrainer(tiny_bert, precision=precision).fit(DOCUMENTS)
    assert fitted.precision_ == expected
    assert {*products} == {expected}
    for compute in (
        lambda: fitted.fill_mask("a [MASK] film").probabilities.dtype == np.float32,
        lambda: fitted.predict_next_sentence([("a film", "so dull")]).dtype == np.float32,
        lambda: fitted.transform(["so dull"]).dtype == np.float32,
        lambda: fitted.score(["so dull"]) < 0,
    ):
        products.clear()
        assert compute()
        assert {*products} == {expected}
    assert {weight.dtype for weight in fitted.model_.parameters()} == {torch.float32}
    assert pickle.loads(pickle.dumps(fitted)).precision_ == expected


@pytest.mark.usefixtures("bfloat16_cpu")
def test_masked_losses_are_near_those_of_float32(tiny_bert):
    exact, near = (
        pretrainer(tiny_bert, precision=precision, next_sentence=False).fit(TEXTS * 4)
        for precision in ("float32", "bfloat16")
    )
    difference = exact.history_[0]["masked_loss"] - near.history_[0]["masked_loss"]
    # Logits from the words' frequencies are at most 3; each has an error of about 2^-9 of that.
    assert 0 < abs(difference) < 2**-7
    assert 0 < abs(exact.score(TEXTS) - near.score(TEXTS)) < 2**-7


@pytest.mark.usefixtures("bfloat16_cpu")
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_probabilities_are_near_those_of_float32(tiny_bert, toy_reviews, pooling):
    # bfloat16 keeps 8 bits, so a factor of a product has a relative error of at most 2^-9. These
    # errors are independent and the residual sums are float32, so the vectors of 3 layers with
    # weights of order 1 have an error of a few times 2^-9. A probability has a slope of at most
    # 1/4 of the logit's, so its error is less than 2^-5.
    X, y = toy_reviews
    clf = classifier(tiny_bert, pooling=pooling, max_epochs=20).fit(X, y)
    exact = clf.predict_proba(X)
    clf.precision_ = "bfloat16"
    near = clf.predict_proba(X)
    assert 0 < np.abs(near - exact).max() < 2**-5
    is_sure = np.abs(exact[:, 0] - 0.5) > 2**-5  # the class of the others may change
    assert is_sure.mean() > 0.5
    assert (near.argmax(1) == exact.argmax(1))[is_sure].all()


@pytest.mark.weights
@pytest.mark.usefixtures("bfloat16_cpu")
@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_vectors_are_near_those_of_float32(real_weights, pooling):
    # An angle of 2^-6, four roundings of 2^-8 at once, has a cosine of 1 - 2^-13.
    exact, near = (
        BertEmbeddingTransformer(pooling=pooling, normalize=True, precision=precision).transform(
            TEXTS
        )
        for precision in ("float32", "bfloat16")
    )
    cosines = (exact * near).sum(axis=1)
    assert (cosines > 1 - 2**-13).all()
    assert np.abs(exact - near).max() > 1e-5


@pytest.mark.usefixtures("bfloat16_cpu")
@pytest.mark.parametrize("n_frozen_layers", [0, 1])
def test_training_learns_as_in_float32(tiny_bert, toy_reviews, n_frozen_layers):
    X, y = toy_reviews
    parameters = {"max_epochs": 8, "batch_size": 16, "n_frozen_layers": n_frozen_layers}
    losses = {}
    for precision in ("float32", "bfloat16"):
        clf = classifier(tiny_bert, precision=precision, **parameters).fit(X, y)
        losses[precision] = np.array([record["train_loss"] for record in clf.history_])
    assert losses["bfloat16"][-1] < losses["bfloat16"][0] * 0.6
    assert clf.score(X, y) > 0.8
    # The steps differ only by rounding. It changes a logit of order 1 by 2^-7, so the mean loss
    # differs by at most 2^-7 at first, and by twice that after 40 steps.
    difference = np.abs(losses["bfloat16"] - losses["float32"])
    assert difference[0] < 2**-7
    assert difference.max() < 2**-6


@pytest.mark.usefixtures("bfloat16_cpu")
def test_frozen_layers_keep_float32_states(tiny_bert):
    pretrained = load_pretrained(tiny_bert)
    tokens = pretrained.subword_tokenizer(TEXTS, max_length=64, truncation="head")
    packed, encoder = pack(tokens, np.arange(len(tokens))), pretrained.frozen_encoder(CPU)

    def states_in(precision):
        layers = FrozenLayers(encoder, 2, tokens, precision)
        return layers.states(on_cpu(host_batch(encoder, packed, **layers.index(packed)))).states

    exact, near = (states_in(precision) for precision in (torch.float32, torch.bfloat16))
    assert near.dtype == torch.float32
    assert not torch.equal(exact, near)
    torch.testing.assert_close(near, exact, rtol=0, atol=2**-4)  # states are of order 1


@pytest.mark.parametrize("outer", [torch.bfloat16, torch.float16])
def test_an_autocast_of_the_caller_changes_nothing(tiny_bert, toy_reviews, outer):
    X, y = toy_reviews
    weights = np.linspace(0.5, 1.5, len(X))
    plain = classifier(tiny_bert).fit(X, y, sample_weight=weights)
    vectors = transformer(tiny_bert, pooling="pooler").transform(X)
    answers = pretrained_answers(tiny_bert)
    with torch.autocast("cpu", outer):
        clf = classifier(tiny_bert).fit(X, y, sample_weight=weights)
        assert clf.decision_function(X).tolist() == plain.decision_function(X).tolist()
        again = transformer(tiny_bert, pooling="pooler").transform(X)
        also = pretrained_answers(tiny_bert)
    assert also == answers
    assert clf.history_[-1]["train_loss"] == plain.history_[-1]["train_loss"]
    assert again.tolist() == vectors.tolist()


@pytest.mark.usefixtures("bfloat16_cpu")
def test_an_autocast_of_the_caller_keeps_no_weights_of_before_a_step(tiny_bert, toy_reviews):
    plain = classifier(tiny_bert, precision="bfloat16").fit(*toy_reviews)
    with torch.autocast("cpu", torch.bfloat16):
        clf = classifier(tiny_bert, precision="bfloat16").fit(*toy_reviews)
    assert [r["train_loss"] for r in clf.history_] == [r["train_loss"] for r in plain.history_]


@pytest.mark.usefixtures("bfloat16_cpu")
@pytest.mark.parametrize("cache", ["memory", "folder"])
def test_each_precision_has_its_own_vectors_in_a_cache(tiny_bert, tmp_path, monkeypatch, cache):
    monkeypatch.setattr(cache_module, "shared_memory_cache", MemoryCache())
    cache = tmp_path if cache == "folder" else cache
    vectors = {}
    for precision in ("float32", "bfloat16", "auto"):
        cached = transformer(tiny_bert, precision=precision, cache=cache)
        vectors[precision] = cached.transform(["a film"]).tolist()
    assert vectors["float32"] != vectors["bfloat16"]
    assert vectors["float32"] == vectors["auto"]
    assert cached.cache_info_ == CacheInfo(hits=1, misses=2, size=2)


# -- continue, save and load --------------------------------------------------------------------


@pytest.mark.usefixtures("bfloat16_cpu")
def test_training_that_goes_on_takes_the_precision_of_now(tiny_bert, toy_reviews, products):
    X, y = toy_reviews
    clf = classifier(tiny_bert, max_epochs=1).fit(X, y)
    clf.set_params(precision="bfloat16")
    products.clear()
    clf.decision_function(X)
    assert clf.precision_ == "float32" and {*products} == {"float32"}  # as it was fitted
    for go_on in (
        lambda: clf.partial_fit(X, y),
        lambda: clf.set_params(warm_start=True).fit(X, y),
    ):
        products.clear()
        go_on()
        assert clf.precision_ == "bfloat16" and {*products} == {"bfloat16"}
        clf.set_params(precision="float32").partial_fit(X, y)
        products.clear()
        clf.partial_fit(X, y).set_params(precision="bfloat16")
        assert clf.precision_ == "float32" and {*products} == {"float32"}


@pytest.mark.usefixtures("bfloat16_cpu")
def test_what_is_saved_keeps_its_precision(tiny_bert, toy_reviews, tmp_path):
    X, y = toy_reviews
    clf = classifier(tiny_bert, precision="bfloat16").fit(X, y)
    expected = clf.decision_function(X).tolist()
    clf.save_pretrained(tmp_path / "folder")
    joblib.dump(clf, tmp_path / "clf.joblib")
    for loaded in (
        pickle.loads(pickle.dumps(clf)),
        joblib.load(tmp_path / "clf.joblib", mmap_mode="r"),
        BertSentimentClassifier.from_pretrained(tmp_path / "folder"),
    ):
        assert loaded.precision == loaded.precision_ == "bfloat16"
        assert loaded.decision_function(X).tolist() == expected
    vectors = transformer(tiny_bert, precision="bfloat16").fit(X)
    loaded = pickle.loads(pickle.dumps(vectors))
    assert loaded.precision_ == "bfloat16"
    assert loaded.transform(X).tolist() == vectors.transform(X).tolist()


def test_auto_is_resolved_again(tiny_bert, toy_reviews, tmp_path, monkeypatch):
    clf = classifier(tiny_bert, max_epochs=1).fit(*toy_reviews)
    clf.save_pretrained(tmp_path / "folder")
    pickled = pickle.dumps(clf)
    monkeypatch.setattr(
        device_module, "resolve_precision", lambda name, device: {"auto": torch.bfloat16}[name]
    )
    assert pickle.loads(pickled).precision_ == "bfloat16"
    assert BertSentimentClassifier.from_pretrained(tmp_path / "folder").precision_ == "bfloat16"


def test_a_machine_without_bfloat16_says_that_it_predicts_in_float32(
    tiny_bert, toy_reviews, tmp_path, monkeypatch
):
    X, y = toy_reviews
    let_cpu_have(monkeypatch, *HELPERS)
    clf = classifier(tiny_bert, precision="bfloat16").fit(X, y)
    expected = clf.predict_proba(X)
    clf.save_pretrained(tmp_path / "folder")
    pickled = pickle.dumps(clf)
    let_cpu_have(monkeypatch)
    message = f"^{re.escape(refusal())} The loaded estimator predicts in float32\\.$"
    for load in (
        lambda: pickle.loads(pickled),
        lambda: BertSentimentClassifier.from_pretrained(tmp_path / "folder"),
    ):
        with pytest.warns(UserWarning, match=message):
            loaded = load()
        assert (loaded.precision, loaded.precision_) == ("bfloat16", "float32")
        near = loaded.predict_proba(X)
        assert 0 < np.abs(near - expected).max() < 2**-5
        with pytest.raises(ValueError, match=f"^{re.escape(refusal())}$"):
            loaded.fit(X, y)
