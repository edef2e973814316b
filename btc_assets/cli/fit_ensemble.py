"""Fit the scorer `ensemble` on labelled texts."""

import json
import sys

from btc_assets.news.sentiment.ensemble import fit_ensemble
from btc_assets.news.sentiment.judge import LabelledTextsError, fitting_texts, read_labelled
from btc_assets.news.sentiment.protocol import ScorerError
from btc_assets.news.sentiment.score import ensemble_path, scorers_of
from btc_assets.settings import Settings


def fit_on_labelled(config: Settings) -> int:
    """Fit the scorer on the labelled texts of the settings, print its provenance, and return the exit status."""
    if not config.labelled_sentiment:
        print(
            "BTC_LABELLED_SENTIMENT is empty: point it at texts with the columns text, label, dataset", file=sys.stderr
        )
        return 2
    chosen = scorers_of(config.model_copy(update={"sentiment_scorer": "transformer"}))
    if chosen.notices:
        print("\n".join(chosen.notices), file=sys.stderr)
        return 1
    path = ensemble_path(config)
    try:
        labelled = fitting_texts(read_labelled(config.labelled_sentiment))
        fitted = fit_ensemble(labelled, chosen.scorers, path, config.now().date())
    except (ScorerError, LabelledTextsError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{path}: written\n{json.dumps(fitted['provenance'], indent=2)}")
    return 0
