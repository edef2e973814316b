"""Classifiers of the Hugging Face family as scorers: on torch or ONNX Runtime.

A model is a local folder or a name on the hub, `owner/name` or `owner/name@revision`. Only its config, its tokenizer
and its safetensors are read, and only code that transformers ships: no pickle, nothing that the model brings along.
What its labels mean is read from its own config; a model that does not name negative, neutral and positive (or
bearish, neutral and bullish) is refused, one with two labels too: it calls every text an opinion, and a share of zero
neutral texts would look like a finding.

Texts are scored in batches of one token length. Nothing is padded, so a text's neighbours cannot touch its score (but
for the last bit or two of a float32, where torch adds up in another order for another number of rows), and no
arithmetic is spent on padding.
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
"""Longest beginning of a text that is read, whatever more a model could take."""
TOKENS_PER_BATCH = 512
"""Tokens of one batch, unless a single text is longer. More would not stay in the processor's cache."""
PARITY_TOLERANCE = 1e-3
"""Largest difference of a probability that an ONNX graph may show."""
HUB_TIMEOUT_S = 5.0
"""Seconds the hub has to answer before it counts as out of reach."""
CLASS_OF_LABEL = {
    "negative": "negative",
    "bearish": "negative",
    "neutral": "neutral",
    "positive": "positive",
    "bullish": "positive",
}
"""The class that a label means, whatever its case."""
REVISIONS = {"ElKulako/cryptobert": "refs/pr/4", "ProsusAI/finbert": "refs/pr/8"}
"""Where the hub's own converter left the safetensors of models whose main revision has only a pickle."""
PROBES = (
    "",
    "Bitcoin",
    "Bitcoin climbs to a record high as inflows accelerate",
    "Exchange halts withdrawals after a $40 million hack; shares plunge 12.5 %",
    "The committee left its target range unchanged and will meet again in six weeks.",
    "BTC 🚀🚀🚀 to the moon!!! не продавай 買",
    "Miners sell reserves " * 200,
)
"""What an ONNX graph is compared on with the model it was made from."""

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
"""All that is read of a model, and all that is fetched."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
_PACKAGES = {
    "torch": ("torch", "transformers", "tokenizers"),
    "onnx": ("torch", "transformers", "tokenizers", "onnxruntime"),
}


class TransformerScorer:
    """Scores texts with a classifier of three classes.

    Attributes:
        name: `transformer`.
        version: of this code, of the libraries, the runtime and the longest beginning that is read.
        weights_digest: SHA-256 over the names and contents of the model's weights, config and tokenizer.
        max_tokens: longest beginning of a text that is read, tokens.
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
        """Put a scorer together; see `load_transformer`.

        Args:
            tokenizer: of the model.
            logits: the model.
            columns: columns of the logits that are negative, neutral and positive.
            max_tokens: longest beginning of a text that is read.
            version: of everything that changes a score but the weights.
            weights_digest: SHA-256 of the weights.
            tokens_per_batch: tokens of one batch.
        """
        self.version, self.weights_digest, self.max_tokens = version, weights_digest, max_tokens
        self._tokenizer, self._logits, self._columns = tokenizer, logits, list(columns)
        self._tokens_per_batch = tokens_per_batch

    def score(self, texts: Sequence[str]) -> Scores:
        """Score texts, in their order; beyond `max_tokens` tokens a text is not read.

        Raises:
            ScorerError: the model's answer to a text is not finite.
        """
        tokens, truncated = _tokenise(self._tokenizer, texts, self.max_tokens)
        probabilities = np.empty((len(texts), len(CLASSES)))
        for rows in batches([len(ids) for ids in tokens], self._tokens_per_batch):
            logits = self._logits(np.array([tokens[row] for row in rows], dtype=np.int64))
            probabilities[rows] = softmax(logits[:, self._columns])
        if not np.isfinite(probabilities).all():
            row = int(np.argmin(np.isfinite(probabilities).all(axis=1)))
            raise ScorerError(f"the model's answer to text {row} of {len(texts)} is not finite; its weights are broken")
        return Scores(probabilities=probabilities, truncated=truncated)


def load_transformer(
    model: str, runtime: Runtime, *, graphs: Path | None = None, tokens_per_batch: int = TOKENS_PER_BATCH
) -> TransformerScorer:
    """Load a classifier as a scorer.

    A model of the hub is fetched once and then read from the hub's local cache, without the network.

    Args:
        model: local folder (a relative path starts at the project's root), or `owner/name`, or `owner/name@revision`.
        runtime: `torch`; or `onnx`, a graph exported once, compared with torch, and kept.
        graphs: folder of the exported graphs; None: `onnx` beside the cache of the scores.
        tokens_per_batch: tokens of one batch, unless a single text is longer.

    Raises:
        WeightsUnavailableError: there is no such folder, and the hub does not have the model or is out of reach.
        ScorerError: the model is refused, or cannot be loaded; the message says why.
    """
    for package in _PACKAGES[runtime]:
        with _explained(f"the scorer 'transformer' needs the package {package}: pip install 'btc_assets[text]'"):
            installed_version(package)
    folder = _folder(model)
    columns = _columns(model, folder)
    digest = _weights_digest(folder)
    with _explained(f"{model!r} cannot be loaded"), _without_progress_bars():
        tokenizer = _tokenizer(folder)
        if runtime == "onnx":
            logits, max_tokens = _onnx(folder, tokenizer, digest, graphs or settings().score_cache.parent / "onnx")
        else:
            network = _network(folder)
            max_tokens = _max_tokens(network, tokenizer)
            logits = _torch(network)
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
    """Part rows into batches of one length, the longest first.

    Args:
        lengths: tokens of each row.
        tokens_per_batch: most tokens in a batch; a longer row has a batch of its own.

    Yields:
        Indices of rows; each row comes once.
    """
    of_length: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        of_length.setdefault(length, []).append(row)
    for length in sorted(of_length, reverse=True):
        rows, size = of_length[length], max(1, tokens_per_batch // max(1, length))
        for start in range(0, len(rows), size):
            yield rows[start : start + size]


def softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Turn logits (n, classes) into probabilities, each row adding up to one."""
    odds = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


# --- where a model is -----------------------------------------------------------------------------
def _folder(model: str) -> Path:
    """Return the folder of a model's files.

    Raises:
        WeightsUnavailableError: there is none, here or on the hub.
        ScorerError: it lacks something, or has its weights as a pickle only.
    """
    try:
        folder = Path(rooted(model, PROJECT_ROOT))
    except ValueError as error:
        raise WeightsUnavailableError(f"BTC_SENTIMENT_MODEL={model!r}: {error}") from error
    if not folder.is_dir():
        return _from_hub(model)
    names = [path.name for path in folder.iterdir()]
    if fault := _fault(names):
        raise ScorerError(f"{model!r} {fault}")
    return folder


def _fault(names: Sequence[str]) -> str:
    """Say why files of these names are not a model that can be read; empty where they are."""
    if _CONFIG not in names:
        return f"has no {_CONFIG}: it is not the folder of a transformers model"
    if not any(name.endswith(".safetensors") for name in names):
        pickles = sorted(name for name in names if name.endswith(_PICKLES))
        if pickles:
            return (
                f"has its weights only as {', '.join(pickles)}, a format that can run code when it is read; "
                "name a revision or a folder that has them as safetensors"
            )
        return "has no safetensors"
    if not any(Path(name).match(pattern) for name in names for pattern in _TOKENIZERS):
        return f"has no tokenizer ({', '.join(_TOKENIZERS)})"
    return ""


def _from_hub(model: str) -> Path:
    """Return the folder of a model of the hub, from the local cache where it is there, else fetched.

    Raises:
        WeightsUnavailableError: the hub does not have it, or is out of reach.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import httpx

    repository, _, revision = model.partition("@")
    revision = revision or REVISIONS.get(repository, "main")
    patterns = list(_FILES)
    with suppress(OSError, ValueError):
        cached = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns, local_files_only=True))
        if not _fault([path.name for path in cached.iterdir()]):
            return cached
    advice = "set BTC_SENTIMENT_MODEL to a local folder with its config, tokenizer and safetensors"
    try:
        info = HfApi().model_info(repository, revision=revision, timeout=HUB_TIMEOUT_S)
        if fault := _fault([file.rfilename for file in info.siblings or [] if "/" not in file.rfilename]):
            raise WeightsUnavailableError(f"{repository!r} at {revision!r} on the hub {fault}; or {advice}")
        fetched = snapshot_download(
            repository, revision=revision, allow_patterns=patterns, etag_timeout=HUB_TIMEOUT_S, max_workers=2
        )
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, OSError, ValueError) as error:
        from btc_assets.proxies import proxy_fault

        why = proxy_fault("https://huggingface.co") or (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsUnavailableError(
            f"there is no folder {PROJECT_ROOT / model}, and the hub does not give {model!r} ({why}); {advice}, "
            "or reach the hub once"
        ) from error
    return Path(fetched)


def _weights_digest(folder: Path) -> str:
    """Return the SHA-256 over the names and contents of the files that make the scores."""
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


# --- what its labels mean -------------------------------------------------------------------------
def _columns(model: str, folder: Path) -> tuple[int, int, int]:
    """Return the columns of the logits that are negative, neutral and positive, from the model's own config.

    Raises:
        ScorerError: its labels do not say so, contradict each other, or are not probabilities of one class.
    """
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        labels = {int(index): str(label) for index, label in (config.get("id2label") or {}).items()}
        indices = {str(label): int(index) for label, index in (config.get("label2id") or {}).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ScorerError(f"the labels in the {_CONFIG} of {model!r} cannot be read: {error}") from error
    named = ", ".join(f"{index}: {label}" for index, label in sorted(labels.items())) or "none"
    column = {CLASS_OF_LABEL.get(label.strip().lower()): index for index, label in labels.items()}
    if sorted(labels) != [0, 1, 2] or set(column) != set(CLASSES):
        raise ScorerError(
            f"the labels of {model!r} ({named}) are not negative, neutral and positive, nor bearish, neutral and "
            f"bullish; what its scores mean is not known. Correct id2label in its {_CONFIG} or take another model"
        )
    if indices and indices != {label: index for index, label in labels.items()}:
        raise ScorerError(f"id2label and label2id in the {_CONFIG} of {model!r} contradict each other; correct them")
    if config.get("problem_type") not in (None, "single_label_classification"):
        raise ScorerError(f"{model!r} is made for {config['problem_type']}, not for one class of three")
    return column["negative"], column["neutral"], column["positive"]


# --- reading texts --------------------------------------------------------------------------------
def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    tokenizer.truncation_side = "right"
    return tokenizer


def _tokenise(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_tokens: int
) -> tuple[list[list[int]], npt.NDArray[np.bool_]]:
    """Return the token ids of the beginning of each text, and whether there was more."""
    plain = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]  # lone surrogates become '?'
    truncated = np.zeros(len(plain), dtype=np.bool_)
    if not plain:
        return [], truncated
    tokens: list[list[int]] = tokenizer(plain, truncation=True, max_length=max_tokens, padding=False)["input_ids"]
    full = [row for row, ids in enumerate(tokens) if len(ids) >= max_tokens]
    if full:
        whole = tokenizer([plain[row] for row in full], truncation=False, padding=False, verbose=False)["input_ids"]
        truncated[full] = [len(ids) > max_tokens for ids in whole]
    nothing = [tokenizer.pad_token_id or 0]  # of an empty text, where the tokenizer does not mark beginning and end
    return [ids or nothing for ids in tokens], truncated


def _max_tokens(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the most tokens the model can take of one text, and the project reads.

    The positions of RoBERTa and its kin start after the padding token's, so two of its 514 are never used.
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
def _network(folder: Path) -> PreTrainedModel:
    """Load a classifier from its safetensors.

    Raises:
        ScorerError: a part of it has no weights, an encoder without a classifier for example.
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
        raise ScorerError(f"it has no weights for {', '.join(missing[:4])}, so its scores would be chance")
    return network.eval()


def _torch(network: torch.nn.Module) -> Logits:
    import torch

    def logits(tokens: Tokens) -> npt.NDArray[np.float32]:
        with torch.inference_mode(), _every_core():
            return network(input_ids=torch.from_numpy(tokens)).logits.numpy()

    return logits


def _onnx(folder: Path, tokenizer: PreTrainedTokenizerBase, weights_digest: str, graphs: Path) -> tuple[Logits, int]:
    """Return the model as an ONNX graph, and the most tokens it takes; export it where that is not done yet.

    A graph is kept as `<key>.onnx` with `<key>.json`, which holds its SHA-256 and is written last, when the graph
    has passed the parity gate.

    Raises:
        ScorerError: the graph does not answer as the model does.
    """
    made_by = [f"{package}-{installed_version(package)}" for package in ("torch", "transformers", "onnxruntime")]
    key = hashlib.sha256("\n".join([CODE_VERSION, weights_digest, *made_by]).encode()).hexdigest()
    graph, record = graphs / f"{key}.onnx", graphs / f"{key}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(record.read_text(encoding="utf-8"))
        if known["sha256"] == _file_digest(graph):
            return _graph(graph), int(known["max_tokens"])
    network = _network(folder)
    max_tokens = _max_tokens(network, tokenizer)
    graphs.mkdir(parents=True, exist_ok=True)
    fresh = graphs / f".{uuid.uuid4().hex}"
    try:
        _export(network, _tokenise(tokenizer, PROBES, max_tokens)[0], fresh)
        worst = _parity_error(_torch(network), _graph(fresh), _tokenise(tokenizer, PROBES, max_tokens)[0])
        if not worst <= PARITY_TOLERANCE:
            raise ScorerError(
                f"its ONNX graph differs from torch by {worst:.3g} (allowed: {PARITY_TOLERANCE:g}); "
                "set BTC_SENTIMENT_RUNTIME to torch"
            )
        found: Mapping[str, object] = {
            "sha256": _file_digest(fresh),
            "max_tokens": max_tokens,
            "largest_difference": worst,
            "weights_digest": weights_digest,
            "made_by": made_by,
        }
        os.replace(fresh, graph)
        fresh.write_text(json.dumps(found), encoding="utf-8")
        os.replace(fresh, record)
    finally:
        fresh.unlink(missing_ok=True)
    return _graph(graph), max_tokens


def _export(network: PreTrainedModel, tokens: Sequence[Sequence[int]], path: Path) -> None:
    """Write a model as an ONNX graph from `input_ids` (n, length) to `logits` (n, labels), both sizes free."""
    import torch

    class ToLogits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.network(input_ids=input_ids).logits

    example = torch.tensor([tokens[2], tokens[2]])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's, about itself; what it may get wrong, the parity gate finds
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


def _graph(path: Path) -> Logits:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting must not take others' cores
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda tokens: session.run(["logits"], {"input_ids": tokens})[0]


def _parity_error(one: Logits, other: Logits, tokens: Sequence[Sequence[int]]) -> float:
    """Return the largest difference of a probability, each text alone and twice in a batch; NaN counts as infinite."""
    worst = 0.0
    for ids in tokens:
        for count in (1, 2):
            batch = np.array([ids] * count, dtype=np.int64)
            difference = np.abs(softmax(one(batch)) - softmax(other(batch)))
            worst = max(worst, float(difference.max()) if np.isfinite(difference).all() else float("inf"))
    return worst


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _every_core() -> Iterator[None]:
    """Let torch use every core, whatever the rest of the process has told it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(_cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn whatever a library raises into a sentence.

    Raises:
        ScorerError: in its place.
    """
    try:
        yield
    except WeightsUnavailableError:
        raise
    except Exception as error:
        raise ScorerError(f"{what}: {error}") from error
