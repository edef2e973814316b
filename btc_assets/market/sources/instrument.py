"""Recognise the instrument of bars from symbol columns and file names."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

_BITCOIN = ("BTC", "XBT", "XXBT", "BITCOIN")
_COINS = {
    **dict.fromkeys(_BITCOIN, "BTC"), **dict.fromkeys(("ETH", "XETH", "ETHEREUM"), "ETH"),
    **dict.fromkeys(("LTC", "LITECOIN"), "LTC"), **dict.fromkeys(("XRP", "RIPPLE"), "XRP"),
    **dict.fromkeys(("DOGE", "XDG", "DOGECOIN"), "DOGE"), **dict.fromkeys(("SOL", "SOLANA"), "SOL"),
    **dict.fromkeys(("ADA", "CARDANO"), "ADA"), **dict.fromkeys(("BNB", "BCH", "XMR", "TRX", "XLM", "ETC")),
}  # fmt: skip
"""Words that always name a coin, and its symbol; None means the word itself."""
_DOLLARS = ("USD", "ZUSD", "USDT", "USDC", "BUSD", "FDUSD", "TUSD", "USDP", "UST", "DAI")
_QUOTES = {
    **dict.fromkeys(_DOLLARS, "USD"), **dict.fromkeys(("EUR", "ZEUR"), "EUR"), **dict.fromkeys(("GBP", "ZGBP"), "GBP"),
    **dict.fromkeys(("JPY", "ZJPY"), "JPY"), **dict.fromkeys(("BTC", "XBT"), "BTC"),
    **dict.fromkeys(("KRW", "TRY", "AUD", "CAD", "CHF", "BRL", "RUB", "INR", "UAH", "NGN", "ETH", "BNB")),
}  # fmt: skip
"""Quote currencies of a pair; every dollar stablecoin counts as USD."""
_SURE_QUOTES = ("USDT", "USDC", "BUSD", "FDUSD", "TUSD")
"""Endings that only pairs have."""
_PERPETUAL = ("PERP", "PERPETUAL", "SWAP", "FUTURES", "FUT")


@dataclass(frozen=True)
class Instrument:
    """A traded instrument.

    Attributes:
        base: symbol of the coin.
        quote: currency of its price, USD for every dollar; None if the name does not include it.
        perpetual: whether it is a perpetual future.
    """

    base: str
    quote: str | None = None
    perpetual: bool = False

    def differs(self, other: Instrument) -> bool:
        """Return whether two instruments cannot share one price series; an unknown quote matches any quote."""
        quotes = {self.quote, other.quote} - {None}
        return self.base != other.base or len(quotes) > 1 or self.perpetual != other.perpetual


def instrument_of(name: str, *, symbol: bool = False) -> Instrument | None:
    """Return the instrument in a name, None if it contains none or several.

    Args:
        name: file name, folder name or symbol; `BTCUSDT`, `BTC-USD`, `XBT/USD` and `bitcoin` are one instrument.
        symbol: whether the name is a symbol; an unknown symbol is then an instrument of its own.
    """
    # Bitfinex prefixes its pairs with a lower-case t.
    words = re.findall(r"[A-Z0-9]+", re.sub(r"(?<![A-Za-z])t(?=[A-Z]{6})", "", name).upper())
    perpetual = any(word in _PERPETUAL for word in words)
    pairs = {pair for word in words if (pair := _pair(word, symbol=symbol))}
    pairs |= {
        (_coin(base), _quote(quote))
        for base, quote in itertools.pairwise(words)
        if base in _COINS and quote in _QUOTES and (symbol or quote not in _COINS)
    }
    bases = {base for base, _ in pairs} or {_coin(word) for word in words if word in _COINS}
    if not bases and symbol and words:
        return Instrument("".join(words))
    if len(bases) != 1:
        return None
    quotes = {quote for _, quote in pairs}
    return Instrument(bases.pop(), quotes.pop() if len(quotes) == 1 else None, perpetual)


def _pair(word: str, *, symbol: bool) -> tuple[str, str] | None:
    """Split a word like BTCUSDT: by a known coin, else by the longest quote that only pairs end in."""
    splits = [
        (word.removesuffix(quote), quote)
        for quote in sorted(_QUOTES, key=len, reverse=True)
        if word.endswith(quote) and len(word) > len(quote) + 1
    ]
    known = [(base, quote) for base, quote in splits if base in _COINS]
    likely = [(base, quote) for base, quote in splits if symbol or quote in _SURE_QUOTES]
    return next(((_coin(base), _quote(quote)) for base, quote in known + likely), None)


def _coin(word: str) -> str:
    return _COINS.get(word) or word


def _quote(word: str) -> str:
    return _QUOTES.get(word) or word
