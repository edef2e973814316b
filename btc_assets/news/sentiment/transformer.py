"""Hugging Face classifiers as scorers, on torch or ONNX Runtime.

A model is a local folder or a name on the hub, `owner/name` or `owner/name@revision`. Only its config, tokenizer and
safetensors are read, and only code of the package transformers runs: no pickle and no code of the model. The labels
come from the model's config. A model whose labels are not negative, neutral and positive (or bearish, neutral and
bullish) is refused, also one with two labels: it would never score a text as neutral.

Texts are scored in batches of equal token length without padding. A score therefore does not depend on the other texts
of its batch, except for the last bits of a float32, because torch's summation order depends on the number of rows.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from btc_assets.news.sentiment.protocol import CLASSES, ScorerError, Scores, WeightsUnavailableError
from btc_assets.paths import rooted
from btc_assets.settings import PROJECT_ROOT, settings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Runtime = Literal["torch", "onnx"]
Tokens = npt.NDArray[np.int64]
Logits = Callable[[Tokens], npt.NDArray[np.float32]]
"""From token ids (n, length) to logits (n, labels)."""

CODE_VERSION = "1"
MAX_TOKENS = 512
"""Maximum number of tokens read of a text, also if a model accepts more."""
TOKENS_PER_BATCH = 512
"""Tokens per batch, unless a single text is longer. Larger batches do not fit in the CPU cache."""
PARITY_TOLERANCE = 1e-3
"""Maximum difference of a probability between the ONNX graph and torch."""
HUB_TIMEOUT_S = 5.0
"""Seconds without an answer after which the hub counts as unreachable."""
CLASS_OF_LABEL = {
    "negative": "negative",
    "bearish": "negative",
    "neutral": "neutral",
    "positive": "positive",
    "bullish": "positive",
}
"""The class of each label, in lower case."""
REVISIONS = {"ElKulako/cryptobert": "refs/pr/4", "ProsusAI/finbert": "refs/pr/8"}
"""Revisions with safetensors, created by the hub's converter, of models whose main revision has only a pickle."""
PROBES = (
    "",
    "Bitcoin",
    "Bitcoin climbs to a record high as inflows accelerate",
    "Exchange halts withdrawals after a $40 million hack; shares plunge 12.5 %",
    "The committee left its target range unchanged and will meet again in six weeks.",
    "BTC 🚀🚀🚀 to the moon!!! не продавай 買",
    "Miners sell reserves " * 200,
)
"""Texts on which an ONNX graph is compared with its model."""

_CONFIG = "config.json"
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
_FILES = (
    _CONFIG,
    "*.safetensors",
    "*.safetensors.index.json",
    *_TOKENIZERS,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""The only files of a model that are fetched and read."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
_PACKAGES = {
    "torch": ("torch", "transformers", "tokenizers"),
    "onnx": ("torch", "transformers", "tokenizers", "onnxruntime"),
}


class TransformerScorer:
    """Scores texts with a classifier of three classes.

    Attributes:
        name: `transformer`.
        version: version of this code and the libraries, runtime and `max_tokens`.
        weights_digest: SHA-256 of the names and contents of the model's weights, config and tokenizer.
        max_tokens: maximum number of tokens read of a text.
    """

    name = "transformer"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        logits: Logits,
        columns: tuple[int, int, int],
        *,
        max_tokens: int,
        version: str,
        weights_digest: str,
        tokens_per_batch: int = TOKENS_PER_BATCH,
    ) -> None:
        """Build a scorer from its parts; see `load_transformer`.

        Args:
            tokenizer: the model's tokenizer.
            logits: the model, as a function from token ids to logits.
            columns: columns of the logits for negative, neutral and positive.
            max_tokens: maximum number of tokens read of a text.
            version: version of everything except the weights that changes a score.
            weights_digest: SHA-256 of the weights.
            tokens_per_batch: tokens per batch.
        """
        self.version, self.weights_digest, self.max_tokens = version, weights_digest, max_tokens
        self._tokenizer, self._logits, self._columns = tokenizer, logits, list(columns)
        self._tokens_per_batch = tokens_per_batch

    def score(self, texts: Sequence[str]) -> Scores:
        """Score texts, in their order; only the first `max_tokens` tokens of a text are read.

        Raises:
            ScorerError: the model's output for a text is not finite.
        """
        tokens, truncated = _tokenise(self._tokenizer, texts, self.max_tokens)
        probabilities = np.empty((len(texts), len(CLASSES)))
        for rows in batches([len(ids) for ids in tokens], self._tokens_per_batch):
            logits = self._logits(np.array([tokens[row] for row in rows], dtype=np.int64))
            probabilities[rows] = softmax(logits[:, self._columns])
        if not np.isfinite(probabilities).all():
            row = int(np.argmin(np.isfinite(probabilities).all(axis=1)))
            raise ScorerError(
                f"the model's output for text {row} of {len(texts)} is not finite; its weights are broken"
            )
        return Scores(probabilities=probabilities, truncated=truncated)


def load_transformer(
    model: str, runtime: Runtime, *, graphs: Path | None = None, tokens_per_batch: int = TOKENS_PER_BATCH
) -> TransformerScorer:
    """Load a classifier as a scorer.

    A model on the hub is fetched once and then loaded from the hub's local cache without network access.

    Args:
        model: local folder (relative to the project root), or `owner/name`, or `owner/name@revision`.
        runtime: `torch`; or `onnx`, a graph that is exported once, compared with torch and stored.
        graphs: folder of the exported graphs; None for `onnx` in the folder of the score cache.
        tokens_per_batch: tokens per batch, unless a single text is longer.

    Raises:
        WeightsUnavailableError: there is no such folder, and the hub does not have the model or is unreachable.
        ScorerError: the model is refused or cannot be loaded; the message states the reason.
    """
    for package in _PACKAGES[runtime]:
        with _wrap_errors(f"the scorer 'transformer' needs the package {package}: pip install 'btc_assets[text]'"):
            installed_version(package)
    folder = _model_folder(model)
    columns = _class_columns(model, folder)
    digest = _weights_digest(folder)
    with _wrap_errors(f"{model!r} cannot be loaded"), _without_progress_bars():
        tokenizer = _load_tokenizer(folder)
        if runtime == "onnx":
            logits, max_tokens = _load_onnx(folder, tokenizer, digest, graphs or settings().score_cache.parent / "onnx")
        else:
            network = _load_network(folder)
            max_tokens = _max_tokens(network, tokenizer)
            logits = _torch_logits(network)
    return TransformerScorer(
        tokenizer,
        logits,
        columns,
        max_tokens=max_tokens,
        version=_version(runtime, max_tokens),
        weights_digest=digest,
        tokens_per_batch=tokens_per_batch,
    )


def batches(lengths: Sequence[int], tokens_per_batch: int) -> Iterator[list[int]]:
    """Split rows into batches of equal length, longest first.

    Args:
        lengths: tokens of each row.
        tokens_per_batch: maximum number of tokens per batch; a longer row is a batch by itself.

    Yields:
        Indices of rows; each row occurs once.
    """
    of_length: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        of_length.setdefault(length, []).append(row)
    for length in sorted(of_length, reverse=True):
        rows, size = of_length[length], max(1, tokens_per_batch // max(1, length))
        for start in range(0, len(rows), size):
            yield rows[start : start + size]


def softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Convert logits (n, classes) to probabilities; each row adds up to one."""
    odds = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


# --- locating a model -----------------------------------------------------------------------------
def _model_folder(model: str) -> Path:
    """Return the folder of a model's files.

    Raises:
        WeightsUnavailableError: the model is neither here nor on the hub.
        ScorerError: the folder is incomplete, or its weights are only a pickle.
    """
    try:
        folder = Path(rooted(model, PROJECT_ROOT))
    except ValueError as error:
        raise WeightsUnavailableError(f"BTC_SENTIMENT_MODEL={model!r}: {error}") from error
    if not folder.is_dir():
        return _fetch_from_hub(model)
    names = [path.name for path in folder.iterdir()]
    if fault := _missing_part(names):
        raise ScorerError(f"{model!r} {fault}")
    return folder


def _missing_part(names: Sequence[str]) -> str:
    """Return why files of these names are not a usable model; empty if they are."""
    if _CONFIG not in names:
        return f"has no {_CONFIG}: it is not a transformers model"
    if not any(name.endswith(".safetensors") for name in names):
        pickles = sorted(name for name in names if name.endswith(_PICKLES))
        if pickles:
            return (
                f"has its weights only as {', '.join(pickles)}, a format that can execute code when loaded; "
                "use a revision or a folder with safetensors"
            )
        return "has no safetensors"
    if not any(Path(name).match(pattern) for name in names for pattern in _TOKENIZERS):
        return f"has no tokenizer ({', '.join(_TOKENIZERS)})"
    return ""


def _fetch_from_hub(model: str) -> Path:
    """Return the folder of a model on the hub, from the local cache or else fetched.

    Raises:
        WeightsUnavailableError: the hub does not have it or is unreachable.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import httpx

    repository, _, revision = model.partition("@")
    revision = revision or REVISIONS.get(repository, "main")
    patterns = list(_FILES)
    with suppress(OSError, ValueError):
        cached = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns, local_files_only=True))
        if not _missing_part([path.name for path in cached.iterdir()]):
            return cached
    advice = "set BTC_SENTIMENT_MODEL to a local folder with its config, tokenizer and safetensors"
    try:
        info = HfApi().model_info(repository, revision=revision, timeout=HUB_TIMEOUT_S)
        if fault := _missing_part([file.rfilename for file in info.siblings or [] if "/" not in file.rfilename]):
            raise WeightsUnavailableError(f"{repository!r} at {revision!r} on the hub {fault}; or {advice}")
        fetched = snapshot_download(
            repository, revision=revision, allow_patterns=patterns, etag_timeout=HUB_TIMEOUT_S, max_workers=2
        )
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, OSError, ValueError) as error:
        from btc_assets.proxies import proxy_fault

        reason = proxy_fault("https://huggingface.co") or (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsUnavailableError(
            f"there is no folder {PROJECT_ROOT / model}, and {model!r} cannot be fetched from the hub ({reason}); "
            f"{advice}, or make the hub reachable once"
        ) from error
    return Path(fetched)


def _weights_digest(folder: Path) -> str:
    """Return the SHA-256 of the names and contents of the model's files."""
    total = hashlib.sha256()
    for path in sorted({path for pattern in _FILES for path in folder.glob(pattern)}):
        total.update(path.name.encode() + b"\0" + bytes.fromhex(_file_digest(path)))
    return total.hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(runtime: Runtime, max_tokens: int) -> str:
    majors = [f"{package}-{installed_version(package).split('.')[0]}" for package in _PACKAGES[runtime]]
    return "+".join([CODE_VERSION, runtime, f"{max_tokens}-tokens", *majors])


# --- labels ---------------------------------------------------------------------------------------
def _class_columns(model: str, folder: Path) -> tuple[int, int, int]:
    """Return the columns of the logits for negative, neutral and positive, from the model's config.

    Raises:
        ScorerError: its labels are unknown or contradictory, or it is not a single-label classifier.
    """
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        labels = {int(index): str(label) for index, label in (config.get("id2label") or {}).items()}
        indices = {str(label): int(index) for label, index in (config.get("label2id") or {}).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ScorerError(f"the labels in the {_CONFIG} of {model!r} cannot be read: {error}") from error
    listed = ", ".join(f"{index}: {label}" for index, label in sorted(labels.items())) or "none"
    column = {CLASS_OF_LABEL.get(label.strip().lower()): index for index, label in labels.items()}
    if sorted(labels) != [0, 1, 2] or set(column) != set(CLASSES):
        raise ScorerError(
            f"the labels of {model!r} ({listed}) are not negative, neutral and positive, nor bearish, neutral and "
            f"bullish, so the meaning of its scores is unknown. Correct id2label in its {_CONFIG} or use another model"
        )
    if indices and indices != {label: index for index, label in labels.items()}:
        raise ScorerError(f"id2label and label2id in the {_CONFIG} of {model!r} contradict each other; correct them")
    if config.get("problem_type") not in (None, "single_label_classification"):
        raise ScorerError(f"{model!r} is a model for {config['problem_type']}; expected single-label classification")
    return column["negative"], column["neutral"], column["positive"]


# --- reading texts --------------------------------------------------------------------------------
def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    tokenizer.truncation_side = "right"
    return tokenizer


def _tokenise(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_tokens: int
) -> tuple[list[list[int]], npt.NDArray[np.bool_]]:
    """Return the first token ids of each text, and whether the text was truncated."""
    plain = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]  # lone surrogates become '?'
    truncated = np.zeros(len(plain), dtype=np.bool_)
    if not plain:
        return [], truncated
    tokens: list[list[int]] = tokenizer(plain, truncation=True, max_length=max_tokens, padding=False)["input_ids"]
    full = [row for row, ids in enumerate(tokens) if len(ids) >= max_tokens]
    if full:
        untruncated = tokenizer([plain[row] for row in full], truncation=False, padding=False, verbose=False)
        truncated[full] = [len(ids) > max_tokens for ids in untruncated["input_ids"]]
    placeholder = [tokenizer.pad_token_id or 0]  # for an empty text if the tokenizer adds no start and end tokens
    return [ids or placeholder for ids in tokens], truncated


def _max_tokens(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the maximum number of tokens per text, limited by the model and `MAX_TOKENS`.

    In RoBERTa and related models positions start after the padding token's, so two of its 514 positions are unused.
    """
    import torch

    limits = [MAX_TOKENS, tokenizer.model_max_length]
    positions = [
        module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        for name, module in network.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding)
    ]
    limits += positions or [getattr(network.config, "max_position_embeddings", None) or MAX_TOKENS]
    return min(limits)


# --- the runtimes ---------------------------------------------------------------------------------
def _load_network(folder: Path) -> PreTrainedModel:
    """Load a classifier from its safetensors.

    Raises:
        ScorerError: weights are missing, for example in an encoder without a classifier.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    network, loading = AutoModelForSequenceClassification.from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
    )
    if missing := sorted(loading["missing_keys"]):
        raise ScorerError(f"it has no weights for {', '.join(missing[:4])}, so its scores would be random")
    return network.eval()


def _torch_logits(network: torch.nn.Module) -> Logits:
    import torch

    def logits(tokens: Tokens) -> npt.NDArray[np.float32]:
        with torch.inference_mode(), _use_all_cores():
            return network(input_ids=torch.from_numpy(tokens)).logits.numpy()

    return logits


def _load_onnx(
    folder: Path, tokenizer: PreTrainedTokenizerBase, weights_digest: str, graphs: Path
) -> tuple[Logits, int]:
    """Return the model as an ONNX graph and its maximum number of tokens; export the graph on first use.

    A graph is stored as `<key>.onnx` with `<key>.json`, which has its SHA-256 and is written after the graph has passed
    the parity check.

    Raises:
        ScorerError: the outputs of the graph differ from those of the model.
    """
    exporters = [f"{package}-{installed_version(package)}" for package in ("torch", "transformers", "onnxruntime")]
    key = hashlib.sha256("\n".join([CODE_VERSION, weights_digest, *exporters]).encode()).hexdigest()
    graph, record = graphs / f"{key}.onnx", graphs / f"{key}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        stored = json.loads(record.read_text(encoding="utf-8"))
        if stored["sha256"] == _file_digest(graph):
            return _load_graph(graph), int(stored["max_tokens"])
    network = _load_network(folder)
    max_tokens = _max_tokens(network, tokenizer)
    graphs.mkdir(parents=True, exist_ok=True)
    temporary = graphs / f".{uuid.uuid4().hex}"
    try:
        _export_graph(network, _tokenise(tokenizer, PROBES, max_tokens)[0], temporary)
        difference = _parity_error(
            _torch_logits(network), _load_graph(temporary), _tokenise(tokenizer, PROBES, max_tokens)[0]
        )
        if not difference <= PARITY_TOLERANCE:
            raise ScorerError(
                f"its ONNX graph differs from torch by {difference:.3g} (allowed: {PARITY_TOLERANCE:g}); "
                "set BTC_SENTIMENT_RUNTIME to torch"
            )
        content: Mapping[str, object] = {
            "sha256": _file_digest(temporary),
            "max_tokens": max_tokens,
            "largest_difference": difference,
            "weights_digest": weights_digest,
            "made_by": exporters,
        }
        os.replace(temporary, graph)
        temporary.write_text(json.dumps(content), encoding="utf-8")
        os.replace(temporary, record)
    finally:
        temporary.unlink(missing_ok=True)
    return _load_graph(graph), max_tokens


def _export_graph(network: PreTrainedModel, tokens: Sequence[Sequence[int]], path: Path) -> None:
    """Write a model as an ONNX graph from `input_ids` (n, length) to `logits` (n, labels), with dynamic sizes."""
    import torch

    class ToLogits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.network(input_ids=input_ids).logits

    example = torch.tensor([tokens[2], tokens[2]])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter warns about itself; the parity check finds its errors
        torch.onnx.export(
            ToLogits().eval(),
            (example,),
            str(path),
            input_names=["input_ids"],
            output_names=["logits"],
            dynamic_axes={"input_ids": {0: "texts", 1: "tokens"}, "logits": {0: "texts"}},
            opset_version=17,
            dynamo=False,
        )


def _load_graph(path: Path) -> Logits:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads must not occupy cores
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda tokens: session.run(["logits"], {"input_ids": tokens})[0]


def _parity_error(left: Logits, right: Logits, tokens: Sequence[Sequence[int]]) -> float:
    """Return the maximum difference of a probability, for each text alone and twice in a batch; infinite for NaN."""
    largest = 0.0
    for ids in tokens:
        for count in (1, 2):
            batch = np.array([ids] * count, dtype=np.int64)
            difference = np.abs(softmax(left(batch)) - softmax(right(batch)))
            largest = max(largest, float(difference.max()) if np.isfinite(difference).all() else float("inf"))
    return largest


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _use_all_cores() -> Iterator[None]:
    """Let torch use all cores in the block and restore the previous number of threads."""
    import torch

    previous = torch.get_num_threads()
    torch.set_num_threads(_cores())
    try:
        yield
    finally:
        torch.set_num_threads(previous)


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


@contextmanager
def _wrap_errors(message: str) -> Iterator[None]:
    """Convert any exception of a library to a ScorerError with a readable message.

    Raises:
        ScorerError: a library failed.
    """
    try:
        yield
    except WeightsUnavailableError:
        raise
    except Exception as error:
        raise ScorerError(f"{message}: {error}") from error
