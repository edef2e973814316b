"""Sentiment of headlines: the transformer scorer compared with `transformers.pipeline`, one text at a time.

    python -m benchmarks.sentiment [--texts 300] [--model FOLDER]

Both sides use the same model. Without `--model` it has the architecture of RoBERTa-base (12 layers of width 768, as
CryptoBERT) with random weights: its output is noise, its cost is realistic. Its last layer is scaled so that outputs
vary between texts and differences between the sides are visible. The texts are distinct headlines; the tokenizer is
trained on them. Each side runs in a separate process, which reports its peak memory. The sides alternate and the
fastest run counts. Loading is not counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl

from btc_assets.news.sentiment.protocol import CLASSES
from btc_assets.news.sentiment.transformer import CLASS_OF_LABEL, Runtime, load_transformer
from btc_assets.news.sources.sample import SampleSource
from btc_assets.settings import PROJECT_ROOT

PEER = "pipeline"
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
LABELS = ("Bearish", "Neutral", "Bullish")
LAYERS, WIDTH, HEADS, VOCABULARY = 12, 768, 12, 50_265
TEXTS = 300
TURNS = 3
WARM_UP = 8
SPREAD = 2.0
"""Standard deviation of each logit over the texts after scaling the last layer."""
SEED = 7


@dataclass(frozen=True)
class Side:
    """The fastest run of one side.

    Attributes:
        name: `pipeline`, or the runtime of the scorer.
        texts_per_s: texts scored per second.
        cpu_ms: user and system CPU of all threads per text.
        peak_mib: peak memory of the process, including libraries and weights, MiB.
        difference: largest difference of a probability from that of the pipeline.
    """

    name: str
    texts_per_s: float
    cpu_ms: float
    peak_mib: float
    difference: float


def headlines(count: int) -> list[str]:
    """Return distinct headlines: real ones if the news archive is available, else those of the sample."""
    path = PROJECT_ROOT.parent / "shared" / "data" / "text" / "news.parquet"
    if path.exists():
        titles = pl.read_parquet(path, columns=["title"])["title"]
    else:
        far = datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
        titles = pl.Series([item.title for item in SampleSource().fetch(*far, far[1]).items])
    titles = titles.drop_nulls().filter(titles.drop_nulls().str.len_chars() > 0).unique(maintain_order=True)
    return titles.sample(min(count, len(titles)), shuffle=True, seed=SEED).to_list()


def make_model(folder: Path, texts: Sequence[str]) -> None:
    """Write a classifier with the architecture of RoBERTa-base and random weights."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForSequenceClassification

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    inner.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>", cls_token="<s>"
    )
    torch.manual_seed(SEED)
    config = RobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=514,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        id2label=dict(enumerate(LABELS)),
        label2id={label: row for row, label in enumerate(LABELS)},
    )
    network: Any = RobertaForSequenceClassification(config).eval()
    last = network.classifier.out_proj
    with torch.inference_mode():
        logits = torch.cat(
            [network(input_ids=tokenizer(text, return_tensors="pt")["input_ids"]).logits for text in texts[:64]]
        )
    with torch.no_grad():
        scale = SPREAD / logits.std(dim=0)
        last.weight.mul_(scale[:, None])
        last.bias.copy_(-logits.mean(dim=0) * scale)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


# --- one side, in a separate process ----------------------------------------------------------------
def scorer_of(name: str, model: str, graphs: Path) -> Callable[[list[str]], np.ndarray]:
    """Return one side as a function from texts to probabilities (n, 3)."""
    if name != PEER:
        scorer = load_transformer(model, name, graphs=graphs)  # type: ignore[arg-type]
        return lambda texts: scorer.score(texts).probabilities
    from transformers import pipeline

    naive: Any = pipeline("text-classification", model=model, tokenizer=model, top_k=None)

    def one_at_a_time(texts: list[str]) -> np.ndarray:
        rows = []
        for text in texts:
            scores = {CLASS_OF_LABEL[row["label"].lower()]: row["score"] for row in naive(text, truncation=True)[0]}
            rows.append([scores[kind] for kind in CLASSES])
        return np.array(rows)

    return one_at_a_time


def one_side(name: str, model: str, work: Path) -> None:
    """Score the texts; write the measurements and the probabilities to files."""
    texts: list[str] = json.loads((work / "texts.json").read_text())
    score = scorer_of(name, model, work / "graphs")
    score(texts[:WARM_UP])
    start, start_cpu = time.perf_counter(), time.process_time()
    probabilities = score(texts)
    seconds, cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
    np.save(work / f"{name}.npy", probabilities)
    found = {
        "texts_per_s": len(texts) / seconds,
        "cpu_ms": 1000 * cpu_s / len(texts),
        "peak_mib": _peak_mib(),
    }
    (work / f"{name}.json").write_text(json.dumps(found))


# --- all sides --------------------------------------------------------------------------------------
def run(count: int = TEXTS, model: str = "") -> list[Side]:
    """Measure the pipeline and the scorer on each of its runtimes."""
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        texts = headlines(count)
        (work / "texts.json").write_text(json.dumps(texts))
        if not model:
            make_model(work / "model", texts)
        names = [PEER, *RUNTIMES]
        load_transformer(model or str(work / "model"), "onnx", graphs=work / "graphs")  # exports the graph
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for _ in range(TURNS):
            for name in names:
                command = [sys.executable, "-m", "benchmarks.sentiment", "--side", name, "--work", place]
                command += ["--model", model or str(work / "model")]
                subprocess.run(command, check=True, capture_output=True, cwd=PROJECT_ROOT)
                runs[name].append(json.loads((work / f"{name}.json").read_text()))
        probabilities = {name: np.load(work / f"{name}.npy") for name in names}
        return [
            Side(
                name,
                max(turn["texts_per_s"] for turn in runs[name]),
                min(turn["cpu_ms"] for turn in runs[name]),
                max(turn["peak_mib"] for turn in runs[name]),
                float(np.abs(probabilities[name] - probabilities[PEER]).max()),
            )
            for name in names
        ]


def _peak_mib() -> float:
    """Return the peak memory of this process, MiB; getrusage would include that of its parent."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]) / 1024


def main() -> None:
    """Print the comparison."""
    description, _, notes = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sentiment", description=description, epilog=notes)
    parser.add_argument("--texts", type=int, default=TEXTS, help="number of headlines")
    parser.add_argument("--model", default="", help="folder of a classifier; default: random weights")
    parser.add_argument("--side", choices=[PEER, *RUNTIMES], help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        one_side(options.side, options.model, options.work)
        return
    sides = run(options.texts, options.model)
    for side in sides:
        times = side.texts_per_s / sides[0].texts_per_s
        print(
            f"{side.name}: {side.texts_per_s:.1f} texts/s ({times:.1f} x), {side.cpu_ms:.0f} ms of CPU each, "
            f"peak {side.peak_mib:,.0f} MiB, largest difference of a probability {side.difference:.1e}"
        )


if __name__ == "__main__":
    main()
