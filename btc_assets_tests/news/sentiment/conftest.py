"""Tiny classifiers as real checkpoints, fitted within a second and saved as safetensors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

TRAINING_TEXTS = {
    "negative": ["exchange hacked and coins stolen", "bitcoin crashes as miners dump", "fraud charges sink the token"],
    "neutral": ["the committee meets on tuesday", "bitcoin trades sideways", "the report lists three wallets"],
    "positive": ["bitcoin soars to a record", "inflows surge and shares rally", "upgrade approved and adoption grows"],
}
"""Training texts of the tiny models, by class."""
CRYPTOBERT_LABELS = {"negative": "Bearish", "neutral": "Neutral", "positive": "Bullish"}
"""Labels of ElKulako/cryptobert, in the order of its outputs."""
FINBERT_LABELS = {"positive": "positive", "negative": "negative", "neutral": "neutral"}
"""Labels of ProsusAI/finbert, in the order of its outputs."""
MAX_TOKENS = 64
"""Maximum number of tokens of the tiny models."""

AlteredModel = Callable[..., str]


@pytest.fixture(scope="session")
def roberta_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a RoBERTa with the labels of CryptoBERT: byte-level BPE, positions that start at 2."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForSequenceClassification

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    inner.train_from_iterator(
        _training_texts(),
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    inner.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        cls_token="<s>",
        sep_token="</s>",
    )
    config = RobertaConfig(
        **_config(len(tokenizer), CRYPTOBERT_LABELS),
        max_position_embeddings=MAX_TOKENS + 2,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    return _fit_and_save(
        tmp_path_factory.mktemp("roberta"), tokenizer, config, RobertaForSequenceClassification, CRYPTOBERT_LABELS
    )


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a BERT with the labels of FinBERT: lower-case WordPiece, positions that start at 0."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = [*special, *sorted({word for text in _training_texts() for word in text.split()} - set(letters)), *letters]
    pieces += [f"##{letter}" for letter in letters]
    inner = Tokenizer(models.WordPiece({piece: row for row, piece in enumerate(pieces)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    config = BertConfig(**_config(len(tokenizer), FINBERT_LABELS), max_position_embeddings=MAX_TOKENS)
    return _fit_and_save(
        tmp_path_factory.mktemp("bert"), tokenizer, config, BertForSequenceClassification, FINBERT_LABELS
    )


@pytest.fixture
def altered(roberta_folder: Path, tmp_path: Path) -> AlteredModel:
    """Return a function that copies the RoBERTa, changes its config and returns the folder as text."""

    def copy(name: str = "altered", **changes: Any) -> str:
        folder = tmp_path / name
        shutil.copytree(roberta_folder, folder)
        path = folder / "config.json"
        if changes:
            config = json.loads(path.read_text()) | changes
            path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
        return str(folder)

    return copy


def _training_texts() -> list[str]:
    return [text for texts in TRAINING_TEXTS.values() for text in texts]


def _config(vocabulary: int, labels: Mapping[str, str]) -> dict[str, Any]:
    names = list(labels.values())
    return {
        "vocab_size": vocabulary,
        "hidden_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.1,
        "id2label": dict(enumerate(names)),
        "label2id": {name: row for row, name in enumerate(names)},
    }


def _fit_and_save(
    folder: Path, tokenizer: Any, config: PretrainedConfig, model: type[torch.nn.Module], labels: Mapping[str, str]
) -> Path:
    """Fit the last layer of a random model to `TRAINING_TEXTS` and save the model."""
    import torch
    from transformers.utils import logging

    torch.manual_seed(7)
    network: Any = model(config).eval()
    last = getattr(network.classifier, "out_proj", network.classifier)
    features: list[torch.Tensor] = []
    hook = last.register_forward_hook(lambda layer, inputs, output: features.append(inputs[0]))
    order = list(labels)
    with torch.no_grad():
        for text in _training_texts():
            network(input_ids=tokenizer(text, return_tensors="pt")["input_ids"])
        hook.remove()
        target = torch.tensor([[4.0 * (text in TRAINING_TEXTS[kind]) for kind in order] for text in _training_texts()])
        x = torch.cat(features)
        last.weight.copy_((x.T @ torch.linalg.solve(x @ x.T + torch.eye(len(x)), target)).T)
        last.bias.zero_()
    logging.disable_progress_bar()
    network.save_pretrained(folder)
    logging.enable_progress_bar()
    tokenizer.save_pretrained(folder)
    return folder
